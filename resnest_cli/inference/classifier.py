"""From inputs to records: decode, preprocess, run the engine, rank. The command is built on it."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ImageError
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import preprocess
from resnest_cli.inference.engine import check_device_name, create_engine
from resnest_cli.inference.ranking import rank
from resnest_cli.inference.records import Record
from resnest_cli.model.loading import find_model
from resnest_cli.model.variants import DEFAULT_MODEL
from resnest_cli.model.weights import Access


class Classifier:
    """A network that is ready to classify photos.

    Args:
        model: id or alias of a variant, or the path of a checkpoint.
        weights: path or URL of other weights for a named variant.
        labels: file of class names, one a line; for a network that carries none.
        device: auto, cpu, cuda, cuda:1 or mps.
        access: how weights may be fetched (mirror, offline, progress).

    Raises:
        ResnestError: the model, its weights, its labels or the device cannot be had.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        weights: str | None = None,
        labels: str | Path | None = None,
        device: str = "auto",
        access: Access | None = None,
    ) -> None:
        check_device_name(device)
        self.model = find_model(model, source=weights, labels=labels, access=access)
        self.engine = create_engine(self.model, device)

    def logits(self, photos: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preprocessed photos (N, 3, H, W) -> logits (N, classes), both float32."""
        return self.engine.logits(photos)

    def records(
        self, inputs: Iterable[str], *, topk: int = 5, batch_size: int = 8
    ) -> Iterator[Record]:
        """One record per input file, in order, as batches finish.

        A file that is not a photo gives a record with its error; the others are not affected.
        """
        waiting = iter(inputs)
        while names := list(islice(waiting, batch_size)):
            prepared = [self._prepare(name) for name in names]
            arrays = [photo for photo in prepared if not isinstance(photo, ImageError)]
            ranked = iter(
                rank(self.logits(np.stack(arrays)), self.model.class_names, topk) if arrays else ()
            )
            for name, photo in zip(names, prepared, strict=True):
                if isinstance(photo, ImageError):
                    yield Record(name, self.model.name, error=str(photo))
                else:
                    yield Record(name, self.model.name, predictions=next(ranked))

    def _prepare(self, path: str) -> NDArray[np.float32] | ImageError:
        try:
            return preprocess(decode(path), self.model.preprocessing)
        except ImageError as error:
            return error
