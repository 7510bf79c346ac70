"""Averages of weights: the moving average of a run (EMA), and the mean of several checkpoints.

The second is `resnest average`: stochastic weight averaging (arXiv 1803.05407), over the last
epochs of a run (`--keep-epochs`), or a soup of runs that began with the same weights (arXiv
2203.05482). Batch norm's statistics are those of no averaged network: they are averaged like
weights, which serves for neighbouring epochs, or computed anew on training photos, as
torch.optim.swa_utils.update_bn does.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from resnest_cli.data.dataset import DataSet, Sample, known_photos
from resnest_cli.data.seeds import drawn
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.evaluation.thresholds import fitted
from resnest_cli.inference.ranking import sigmoid
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint import Checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo, thresholds_at
from resnest_cli.model.hashes import known_sha256
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.model.training_photos import joined
from resnest_cli.progress import Progress
from resnest_cli.training.loader import batch_of
from resnest_cli.training.order import Key, batch_bounds

MOST_PHOTOS = 10_000  # for the statistics; of more data a draw
_BATCH = 32


class Ema:
    """Keeps `network`, a copy in evaluation mode, as the average of the weights of each step.

    average <- d * average + (1 - d) * weights, with d = min(decay, (1 + step) / (10 + step)), so
    that short runs do not stay near the first weights (as timm's ModelEmaV3 with warm-up and
    TensorFlow's ExponentialMovingAverage). Running statistics are averaged like weights, counters
    are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._source, self._decay = network, decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after step number `step`, from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        mine, theirs = self.network.state_dict(), self._source.state_dict()
        floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [mine[name] for name in floating], [theirs[name] for name in floating], 1 - decay
        )
        counters = [name for name, tensor in mine.items() if not tensor.is_floating_point()]
        if counters:  # together: on a GPU each by itself would be a kernel to start
            torch._foreach_copy_([mine[n] for n in counters], [theirs[n] for n in counters])


def average(paths: Sequence[Path]) -> Checkpoint:
    """The mean of the checkpoints' tensors, all of one architecture and with the same classes.

    Means are taken in float64 and rounded once to float32; counters take the largest. Class names,
    preprocessing and variant are those of the files, thresholds of several labels their means, each
    as it is without its file's temperature. The files' metrics and temperature are not those of the
    mean and are left out. Training photos are those of all, unknown where one does not know its
    own. Memory: that of three networks, however many there are.

    Raises:
        UsageError: fewer than two files, or files that differ in architecture, classes or input.
        CheckpointError: a file that cannot be used.
    """
    if len(paths) < 2:
        raise UsageError("name two checkpoints or more: one has nothing to be averaged with.")
    first = checkpoint.load(paths[0])
    dtypes = {name: tensor.dtype for name, tensor in first.tensors.items()}
    sums = {name: tensor.double() for name, tensor in first.tensors.items()}
    trained_on, notes = first.info.trained_on, _notes(paths[0], first)
    thresholds = [thresholds_at(1.0, first.info)]
    for path in paths[1:]:
        found = checkpoint.load(path)
        notes += _notes(path, found)
        _check_alike(paths[0], first.info, path, found.info)
        trained_on = joined(path, trained_on, found.info.trained_on)
        thresholds.append(thresholds_at(1.0, found.info))
        for name, tensor in found.tensors.items():
            if tensor.is_floating_point():
                sums[name] += tensor
            else:
                sums[name] = torch.maximum(sums[name], tensor.double())
    tensors = {
        name: (total / len(paths) if dtypes[name].is_floating_point else total).to(dtypes[name])
        for name, total in sums.items()
    }
    left_out = {"epoch", "command", "recipe"}
    provenance = {k: v for k, v in first.info.provenance.items() if k not in left_out}
    sources = [{"file": path.name, "sha256": known_sha256(path)} for path in paths]
    provenance |= {"command": "average", "averaged": sources, "statistics": "averaged"}
    if first.info.thresholds is not None:
        provenance["thresholds"] = "averaged"
    info = replace(
        first.info,
        metrics={},
        temperature=1.0,
        thresholds=_mean_thresholds(thresholds),
        provenance=provenance,
        notes=notes,
        trained_on=trained_on,
        unknown=None,
    )
    return Checkpoint(info, tensors)


def _mean_thresholds(several: Sequence[tuple[float, ...]]) -> tuple[float, ...] | None:
    """Those of several labels; None where photos have one."""
    return tuple(sum(column) / len(column) for column in zip(*several, strict=True)) or None


def _notes(path: Path, found: Checkpoint) -> tuple[str, ...]:
    """That a file holds more, or other names, than a network's; or what is not averaged."""
    notes = [f"{path}: {'; '.join(found.info.notes)}."] if found.info.notes else []
    if found.info.unknown is not None:
        notes.append(f"{path}: what it keeps for --unknown is not averaged; the result has none.")
    return tuple(notes)


def _check_alike(one_path: Path, one: CheckpointInfo, path: Path, other: CheckpointInfo) -> None:
    assert one.variant is not None
    assert other.variant is not None
    ids = [info.provenance.get("class_ids") for info in (one, other)]
    what = None
    if one.variant.id != other.variant.id or one.variant.architecture != other.variant.architecture:
        what = f"is a {other.variant.id}, {one_path} a {one.variant.id}, or an altered one"
    elif one.num_classes != other.num_classes:
        what = f"has {other.num_classes} classes, {one_path} {one.num_classes}"
    elif (one.thresholds is None) != (other.thresholds is None):
        what = f"answers otherwise (one label for a photo, or several) than {one_path}"
    elif one.class_names != other.class_names or ids[0] != ids[1]:
        what = f"has other classes, or in another order, than {one_path}"
    elif one.in_channels != other.in_channels or one.preprocessing != other.preprocessing:
        what = f"takes other input (channels, size, crop or normalisation) than {one_path}"
    if what is not None:
        raise UsageError(f"{path} {what}. Average checkpoints of one network and the same classes.")


def recomputed(found: Checkpoint, samples: Sequence[Sample], progress: Progress) -> Checkpoint:
    """The same with batch norm's statistics of these photos, prepared as `predict` prepares them.

    Of more than `MOST_PHOTOS` a seeded draw. Each batch counts the same (torch's update_bn). They
    are training photos of the network from then on.

    Raises:
        UsageError: a single photo.
        ResnestError: a photo cannot be read any more.
    """
    if len(samples) < 2:
        raise UsageError("--data: batch norm cannot learn from a single photo. Add photos.")
    chosen = sorted(samples, key=lambda sample: drawn(0, "order", sample.name))[:MOST_PHOTOS]
    network = checkpoint.instantiate(found)
    update_bn(_batches(network, chosen, progress), network)
    provenance = {**found.info.provenance, "statistics": f"of {len(chosen)} photos"}
    trained_on = joined("the checkpoint", found.info.trained_on, known_photos(chosen))
    info = replace(found.info, provenance=provenance, trained_on=trained_on)
    return Checkpoint(info, dict(network.state_dict()))


def with_fitted_thresholds(found: Checkpoint, data: DataSet, progress: Progress) -> Checkpoint:
    """The same with thresholds of the largest F1 on the validation photos of these data.

    Photos that the network is known to have trained on are left out. A class that no other photo
    has keeps its threshold; so do all where the data have one label for each photo, or labels that
    the network does not know.

    Raises:
        ResnestError: a photo cannot be read any more.
    """
    info = found.info
    ids = list(info.provenance.get("class_ids") or info.class_names or ())
    if info.thresholds is None or not data.multi_label or not set(data.class_ids) <= set(ids):
        return found
    known = info.trained_on.membership("the checkpoint") if info.trained_on else lambda _: False
    chosen = [sample for sample in data.val if not known(sample.digest)]
    if not chosen:
        return found
    network = checkpoint.instantiate(found).eval()
    with torch.inference_mode():
        logits = torch.cat([network(photos) for photos in _batches(network, chosen, progress)])
    truth = np.zeros(logits.shape, np.bool_)
    for row, sample in zip(truth, chosen, strict=True):
        row[[ids.index(data.class_ids[label]) for label in sample.labels]] = True
    limits = tuple(
        new if there else old
        for new, there, old in zip(
            fitted(truth, sigmoid(logits.numpy())),
            truth.sum(axis=0) > 0,
            info.thresholds,
            strict=True,
        )
    )
    provenance = {**info.provenance, "thresholds": f"of {len(chosen)} photos"}
    return replace(found, info=replace(info, thresholds=limits, provenance=provenance))


def _batches(network: ResNeSt, chosen: Sequence[Sample], progress: Progress) -> Iterator[Tensor]:
    """Photos float32 (B, C, size, size), prepared as `predict` prepares them."""
    preprocessing, grey = network.variant.preprocessing, network.in_channels == 1
    for first, last in batch_bounds(len(chosen), _BATCH):
        keys = [Key(0, place) for place in range(first, last)]
        batch = batch_of(chosen, preprocessing, keys, grey=grey)
        for lost in batch.lost:
            path = chosen[lost.place].path
            raise ResnestError(f"{path} {lost.error}. It was readable before: was it changed?")
        yield batch.photos
        progress(last, len(chosen))
