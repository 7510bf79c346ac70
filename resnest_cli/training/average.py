"""`resnest average`: one network from several checkpoints, by the mean of their weights.

Stochastic weight averaging (arXiv 1803.05407), over the last epochs of a run (`--keep-epochs`), or
a soup of runs that began with the same weights (arXiv 2203.05482). Batch norm's statistics are
those of no averaged network: they are averaged like weights, which serves for neighbouring epochs,
or computed anew on training photos, as torch.optim.swa_utils.update_bn does.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from resnest_cli.errors import UsageError
from resnest_cli.images.preprocess import preprocess
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint import Checkpoint, CheckpointInfo
from resnest_cli.model.hashes import known_sha256
from resnest_cli.model.variants import Preprocessing
from resnest_cli.model.training_photos import joined
from resnest_cli.training.bounds import batch_bounds
from resnest_cli.training.dataset import known_photos
from resnest_cli.training.photo_cache import read_photo
from resnest_cli.training.seeds import derived_seed

if TYPE_CHECKING:
    from resnest_cli.training.dataset import Sample

MOST_PHOTOS = 10_000  # for the statistics; of more data a draw
_BATCH = 32

Progress = Callable[[int, int | None], None]


def average(paths: Sequence[Path]) -> Checkpoint:
    """The mean of the checkpoints' tensors, all of one architecture and with the same classes.

    Means are taken in float64 and rounded once to float32; counters take the largest. Class names,
    preprocessing and variant are those of the files; their metrics and temperature are not those of
    the mean and are left out. Training photos are those of all, unknown where one does not know
    its own. Memory: that of three networks, however many there are.

    Raises:
        UsageError: fewer than two files, or files that differ in architecture, classes or input.
        CheckpointError: a file that cannot be used.
    """
    if len(paths) < 2:
        raise UsageError("name two checkpoints or more: one has nothing to be averaged with.")
    first = checkpoint.load(paths[0])
    sums = {name: tensor.double() for name, tensor in first.tensors.items()}
    trained_on = first.info.trained_on
    for path in paths[1:]:
        found = checkpoint.load(path)
        _check_alike(paths[0], first.info, path, found.info)
        trained_on = joined(path, trained_on, found.info.trained_on)
        for name, tensor in found.tensors.items():
            if tensor.is_floating_point():
                sums[name] += tensor
            else:
                sums[name] = torch.maximum(sums[name], tensor.double())
    tensors = {
        name: (total / len(paths) if first.tensors[name].is_floating_point() else total).to(
            first.tensors[name].dtype
        )
        for name, total in sums.items()
    }
    info = replace(_described(first.info, paths), trained_on=trained_on)
    return Checkpoint(info, tensors)


def _described(info: CheckpointInfo, paths: Sequence[Path]) -> CheckpointInfo:
    kept = {k: v for k, v in info.provenance.items() if k not in {"epoch", "command", "recipe"}}
    sources = [{"file": path.name, "sha256": known_sha256(path)} for path in paths]
    provenance = {**kept, "command": "average", "averaged": sources, "statistics": "averaged"}
    return replace(info, metrics={}, temperature=1.0, provenance=provenance)


def _check_alike(one_path: Path, one: CheckpointInfo, path: Path, other: CheckpointInfo) -> None:
    assert one.variant is not None
    assert other.variant is not None
    what = None
    if one.variant.id != other.variant.id or one.variant.architecture != other.variant.architecture:
        what = f"is a {other.variant.id}, {one_path} a {one.variant.id}, or an altered one"
    elif one.num_classes != other.num_classes:
        what = f"has {other.num_classes} classes, {one_path} {one.num_classes}"
    elif one.class_names != other.class_names or _ids(one) != _ids(other):
        what = f"has other classes, or in another order, than {one_path}"
    elif one.in_channels != other.in_channels or one.preprocessing != other.preprocessing:
        what = f"takes other input (channels, size, crop or normalisation) than {one_path}"
    if what is not None:
        raise UsageError(f"{path} {what}. Average checkpoints of one network and the same classes.")


def _ids(info: CheckpointInfo) -> object:
    return info.provenance.get("class_ids")


def recomputed(found: Checkpoint, samples: "Sequence[Sample]", progress: Progress) -> Checkpoint:
    """The same with batch norm's statistics of these photos, prepared as `predict` prepares them.

    Of more than `MOST_PHOTOS` a seeded draw. Each batch counts the same (torch's update_bn). They
    are training photos of the network from then on.
    `progress` is told how many of how many photos are done.

    Raises:
        UsageError: a single photo.
        ResnestError: a photo cannot be read any more.
    """
    if len(samples) < 2:
        raise UsageError("--data: batch norm cannot learn from a single photo. Add photos.")
    chosen = sorted(samples, key=lambda sample: _draw(sample.name))[:MOST_PHOTOS]
    network = checkpoint.instantiate(found)
    update_bn(_batches(chosen, network.variant.preprocessing, progress), network)
    provenance = {**found.info.provenance, "statistics": f"of {len(chosen)} photos"}
    trained_on = joined("the checkpoint", found.info.trained_on, known_photos(chosen))
    info = replace(found.info, provenance=provenance, trained_on=trained_on)
    return Checkpoint(info, dict(network.state_dict()))


def _draw(name: str) -> bytes:
    text = f"{derived_seed(0, 'order')}\0{name}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _batches(
    samples: "Sequence[Sample]", preprocessing: Preprocessing, progress: Progress
) -> Iterator[Tensor]:
    for first, last in batch_bounds(len(samples), _BATCH):
        photos = [preprocess(read_photo(sample), preprocessing) for sample in samples[first:last]]
        yield torch.from_numpy(np.stack(photos))
        progress(last, len(samples))
