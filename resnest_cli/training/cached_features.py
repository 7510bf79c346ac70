"""A frozen backbone on a CPU: features are computed once, by the fast engine, and kept on disk.

The classifier is then fitted on them by the same loop as any network. Each photo gives one row, or
two where it may be mirrored; other augmentation needs pixels and does not act here. Rows are kept
in chunks under `resume/features/<digest>/`, the digest being that of all that decides them, so that
a run that was killed goes on with the chunk that was missing.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnest_cli.data.dataset import Sample
from resnest_cli.data.seeds import derived_seed
from resnest_cli.files import atomic_file
from resnest_cli.images.batches import Preparation, prepared_batches
from resnest_cli.images.sources import Source
from resnest_cli.inference.engine import Engine
from resnest_cli.model.variants import Preprocessing, preprocessing_to_dict
from resnest_cli.training.loader import Batch, labels_of, limits_apart
from resnest_cli.training.lost_photos import Lost
from resnest_cli.training.order import Draw, FolderOrder
from resnest_cli.training.state import saving

Float32 = NDArray[np.float32]

CHUNK = 256  # photos
_BATCH = 8  # photos; the engine is no faster with more


class Features(NamedTuple):
    """Features float32 (N, views, num_features) of N photos, and labels as in `Batch`.

    The second view is the mirror's. Those of `lost`, by place, could not be read; theirs are NaN.
    """

    values: Tensor
    labels: Tensor
    lost: Mapping[int, Lost]

    def of(self, places: Sequence[int]) -> "Features":
        """Those of some of the photos, in this order."""
        chosen = torch.tensor(places, dtype=torch.int64)
        lost = {
            new: self.lost[old]._replace(place=new)
            for new, old in enumerate(places)
            if old in self.lost
        }
        return Features(self.values[chosen], self.labels[chosen], lost)


@dataclass(frozen=True, slots=True)
class Extractor:
    """Computes the features of photos; chunks of them are kept in `cache`.

    `origin` names the weights, by their hash. `classes` is their number where a photo may have
    several labels, else 0.
    """

    engine: Engine
    preprocessing: Preprocessing
    origin: str
    cache: Path
    classes: int = 0
    grey: bool = False
    channels: int = 3  # of the engine: a grey photo has as many that are the same

    def features(
        self, samples: Sequence[Sample], *, mirrored: bool, progress: Callable[[int], None]
    ) -> Features:
        """The features of photos. `progress` may raise to stop: finished chunks are kept.

        A chunk with a photo that cannot be read any more is not.
        """
        views = 2 if mirrored else 1
        folder = self.cache / self._digest(samples, views)
        rows, lost = [], dict[int, Lost]()
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            path = folder / f"{start:08d}.npy"
            found = _read(path, len(chunk), views)
            if found is None:
                found, errors = self._compute(chunk, views, start, progress)
                for place, error in errors.items():
                    sample = chunk[place]
                    lost[start + place] = Lost(start + place, sample.label, sample.name, error)
                if not errors:
                    with saving(path):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        with atomic_file(path) as file:
                            np.save(file, found)
            rows.append(found)
            progress(start + len(chunk))
        labels = torch.stack([labels_of(one.label, one.labels, self.classes) for one in samples])
        return Features(torch.from_numpy(np.concatenate(rows)), labels, lost)

    def _digest(self, samples: Sequence[Sample], views: int) -> str:
        digest = hashlib.blake2b(digest_size=8)
        engine = self.engine.fingerprint(_BATCH)
        facts = [self.origin, preprocessing_to_dict(self.preprocessing), views, str(engine), CHUNK]
        facts += ["grey"] if self.grey else []
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for sample in samples:
            digest.update(sample.name.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()

    def _compute(
        self, samples: Sequence[Sample], views: int, before: int, progress: Callable[[int], None]
    ) -> tuple[Float32, dict[int, str]]:
        """Rows, NaN where a photo cannot be read, and why, by place."""
        preparation = Preparation(self.preprocessing, grey=self.grey)

        def prepare(source: Source) -> tuple[Float32, None]:
            with limits_apart(source.name):
                return preparation(source.path or ""), None

        sources = (Source(sample.name, path=sample.path) for sample in samples)
        size = self.preprocessing.size
        shape = (self.channels, size, size)
        nothing = np.zeros(shape, np.float32)  # batches keep their size, and others' bits
        rows, errors, done = [], dict[int, str](), 0
        ahead = 2 * _BATCH + 1
        for group in prepared_batches(sources, prepare, size=_BATCH, workers=1, ahead=ahead):
            for place, item in enumerate(group, start=done):
                if item.photo is None:
                    errors[place] = item.error or ""
            photos = (nothing if item.photo is None else item.photo for item in group)
            batch = np.stack([np.broadcast_to(photo, shape) for photo in photos])
            both = [self.engine.output(batch, "features")]
            if views == 2:
                both.append(self.engine.output(np.ascontiguousarray(batch[..., ::-1]), "features"))
            rows.append(np.stack(both, axis=1))
            done += len(group)
            progress(before + done)
        found = np.concatenate(rows)
        found[list(errors)] = np.nan
        return found, errors


def _read(path: Path, count: int, views: int) -> Float32 | None:
    """A finished chunk; None where it is missing or damaged."""
    try:
        found = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.ndim == 3 and found.shape[:2] == (count, views) and found.dtype == np.float32
    return found if whole and np.isfinite(found).all() else None


class FeatureBatches:
    """Batches of cached features, (B, num_features) each, and of labels, as of photos.

    To learn from, of each photo either view, drawn with the probability `hflip`; else the first.
    """

    def __init__(self, features: Features, draw: Draw, hflip: float = 0.0) -> None:
        self._features, self._seed, self._hflip = features, draw.seed, hflip
        self._order = FolderOrder(features.labels.tolist(), draw)  # as many, whatever they are

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    @property
    def plain(self) -> Features:
        """All rows of photos that are not mirrored: (N, 1, num_features)."""
        return self._features._replace(values=self._features.values[:, :1])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        values, labels, lost = self._features
        views = torch.zeros(len(values), dtype=torch.int64)
        if self._seed is not None and values.shape[1] > 1:
            generator = torch.Generator().manual_seed(derived_seed(self._seed, "sample", epoch))
            views = (torch.rand(len(values), generator=generator) < self._hflip).long()
        places = self._order.places(epoch)
        for first, last in self._order.bounds[start:]:
            there = [place for place in places[first:last] if place not in lost]
            gone = [lost[place] for place in places[first:last] if place in lost]
            chosen = torch.tensor(there, dtype=torch.int64)
            yield Batch(values[chosen, views[chosen]], labels[chosen], there, gone)
