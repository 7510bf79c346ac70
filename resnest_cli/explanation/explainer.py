"""One photo -> its explanation: classes, heat, attention, and the pictures of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnest_cli.errors import UsageError
from resnest_cli.explanation import heat
from resnest_cli.explanation.attention import Block, watched
from resnest_cli.explanation.job import Explained, ExplainJob
from resnest_cli.explanation.looking import Looked
from resnest_cli.explanation.regions import HOT, hot_region
from resnest_cli.files import writing
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.ranking import softmax
from resnest_cli.inference.records import NOT_FINITE, Prediction, Record
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model.classes import look_up, unknown_classes
from resnest_cli.model.loading import Model
from resnest_cli.report.attention import attention_figure
from resnest_cli.report.heat import SIDE, Panel, heat_figure
from resnest_cli.report.overlay import jpeg, overlaid, windowed

_TILE = 288  # pixels of a picture in a page

Float32 = NDArray[np.float32]


class Explainer:
    """A network that is ready to explain what it says of photos, one by one.

    Raises:
        UsageError: a class that the model does not know, or that several of its classes are called.
        CheckpointError: the network has no classifier.
    """

    def __init__(self, job: ExplainJob, classifier: Classifier) -> None:
        engine = classifier.engine
        assert isinstance(engine, TorchEngine)
        classifier.model.need_classifier()
        self._job, self._model = job, classifier.model
        self._shown = Path(classifier.model.name).name  # a checkpoint's file, in pictures
        self._classes = class_indices(job.classes, classifier.model)
        self._network = engine.network.requires_grad_(False)
        self._device = engine.device
        self.stage = job.stage or heat.chosen_stage(classifier.preprocessing.size)

    def explained(self, index: int, name: str, looked: Looked) -> Explained:
        """The explanation of the photo `name`, input number `index` from 0; its pictures are drawn.

        Raises:
            ResnestError: a picture cannot be written.
        """
        photo = torch.from_numpy(looked.input)[None].to(self._device)
        with watched(self._network) as blocks:
            logits, maps = heat.run(self._network, photo, self.stage)
        numbers = np.asarray(logits[0].detach().float().cpu().numpy())
        if not np.isfinite(numbers).all():
            return Explained(Record(name, self._model.name, error=NOT_FINITE))
        ranked = self._ranked(numbers)
        found = heat.grad_cam(self._network, maps, self.stage, [one.index for one in ranked])
        heats: Float32 = heat.upsampled(found, looked.input.shape[1]).float().cpu().numpy()
        job, written = self._job, None
        if job.heat is not None:
            cells = f"{maps.shape[2]} × {maps.shape[3]}"
            written = job.heat.of(index, name, ".png")
            self._draw_heat(written, name, looked, ranked, heats, cells)
        noted = None
        if job.attention is not None:
            noted = job.attention.of(index, name, ".attention.png")
            with _writing(noted):
                attention_figure(noted, name, self._shown, blocks)
        return Explained(
            Record(name, self._model.name, predictions=ranked),
            self.stage,
            tuple(hot_region(one, looked.window) for one in heats),
            tuple(map(_summary, blocks)) if job.attention is not None else (),
            str(written) if written is not None else None,
            str(noted) if noted is not None else None,
            self._tiles(looked, heats) if job.tiles else (),
        )

    def _ranked(self, logits: Float32) -> tuple[Prediction, ...]:
        """The classes that were asked for, or the most probable; ranks are among all classes."""
        shares = softmax(logits, self._model.temperature)
        order = [int(index) for index in np.argsort(-shares, kind="stable")]
        ranks = {index: rank for rank, index in enumerate(order, start=1)}
        names = self._model.class_names
        return tuple(
            Prediction(ranks[index], index, names[index], float(shares[index]))
            for index in self._classes or order[: self._job.topk]
        )

    def _draw_heat(
        self, path: Path, name: str, looked: Looked, ranked: Sequence[Prediction], heats: Float32,
        cells: str,
    ) -> None:  # fmt: skip
        panels = [
            Panel(one.label, one.probability, overlaid(looked.pixels, map_, SIDE, HOT),
                  empty=not map_.any())
            for one, map_ in zip(ranked, heats, strict=True)
        ]  # fmt: skip
        how = f"Grad-CAM of stage {self.stage} of {self._shown}, {cells} cells."
        with _writing(path):
            photo = windowed(looked.preview, looked.window, SIDE)
            heat_figure(path, name, photo, looked.window, panels, how)

    def _tiles(self, looked: Looked, heats: Float32) -> tuple[bytes, ...]:
        photo = windowed(looked.preview, looked.window, _TILE)
        overlays = (overlaid(looked.pixels, map_, _TILE, HOT) for map_ in heats)
        return tuple(map(jpeg, (photo, *overlays)))


def class_indices(names: Sequence[str], model: Model) -> list[int]:
    """The indices of these names, ids or indices, in their order, each once.

    Raises:
        UsageError: a class that the model does not know, or that several of its classes are called.
    """
    found, unknown = look_up(names, model, remedy="Give --class the index or id.")
    if unknown:
        raise UsageError(f"{unknown_classes(unknown, model)} --class takes a name, id or index.")
    return list(dict.fromkeys(found[name] for name in names))


def _summary(block: Block) -> dict[str, Any]:
    """One block as JSON has it."""
    return {
        "stage": block.stage,
        "block": block.block,
        "preferred": [round(share, 4) for share in block.preferred],
        "mean": [round(float(mean), 4) for mean in block.weights.mean(axis=1)],
    }


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What cannot be written becomes an error that names the file; its folder is made."""
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        yield
