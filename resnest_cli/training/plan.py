"""The plan of a run: what it will do, in words, and what that will cost, from a real step.

It is shown before a run starts, and by `--dry-run`. A step on a few synthetic photos gives seconds
and memory.
"""

import contextlib
import copy
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnest_cli.cpu import usable_cores
from resnest_cli.data.shards import first_photos
from resnest_cli.errors import ImageError
from resnest_cli.images.decode import decode
from resnest_cli.inference.engine import Engine
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.text import count, duration, megabytes
from resnest_cli.training.augment import Augment, largest_size, train_size, work
from resnest_cli.training.loader import BYTES_PER_PIXEL, Batch
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.settings import Config, needs
from resnest_cli.training.setup import Ready
from resnest_cli.training.state import RunRecord
from resnest_cli.training.step import MemoryUsedError, Stepper
from resnest_cli.training.teacher_crops import Questions

_TIMED, _TIMED_ENOUGH = 8, 1.0  # photos that are loaded, and seconds after which fewer do
_PROBED = 4  # photos given to the engine
_ASKED = 16  # photos given to a teacher at most
# Photos given to the network: of small ones and on a GPU, fewer mostly time the calls of kernels.
_FEWEST, _MOST_PROBED, _PROBED_PIXELS = 2, 32, 200_000
# Scratch memory and gradients on their way, measured against the peak of real steps on a CPU:
# resnest14d at 64 pixels, batch 64; resnest50d at 224, batch 16. They also cover the maps that only
# whole batches keep in another form (see `convolutions`), a thirtieth of the peak.
_SCRATCH_SHARE, _SCRATCH_BYTES = 0.25, 200 * 10**6
_ENOUGH = 3.0  # seconds of probing after which no step is repeated
_SHARE_FORWARD = 1 / 3  # of a training step; the backward pass costs about two forward passes


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of an epoch and of all, bytes at the peak; an estimate, not a promise.

    `teacher_seconds` are those of an epoch's that go to the teacher.
    """

    epoch_seconds: float
    total_seconds: float
    memory_bytes: int
    teacher_seconds: float = 0.0


def plan_lines(ready: Ready, measured: Estimate) -> list[tuple[str, str]]:
    """Names and values, in two columns."""
    config, total = ready.config, duration(measured.total_seconds)
    times = f"{duration(measured.epoch_seconds)} an epoch, {total} in all on an idle machine"
    if config.cached:
        times = f"{total} for the features"
    memory = f"about {megabytes(measured.memory_bytes)} of memory beside the programs"
    return [
        ("recipe", f"{config.recipe}: {needs(config.recipe)}"),
        ("model", _model(ready)),
        ("start", _start(ready)),
        ("training", _learning(config)),
        ("photos", _photos(ready)),
        *([("folds", _folds(ready))] if config.folds else []),
        *([("teacher", _teacher(ready, measured))] if ready.teacher is not None else []),
        ("machine", _machine(config)),
        ("estimate", f"{times}; {memory}"),
    ]


def lines_of_the_rest(run: RunFolder, ready: Ready, record: RunRecord) -> list[tuple[str, str]]:
    """The same of a run that would go on: where it stands, and what the rest will take."""
    config, epochs, found = ready.config, ready.config.epochs or 1, estimated(ready)
    batches = -(-ready.dataset.train_photos // ((config.batch_size or 1) * config.devices))
    left = max(0.0, epochs - record.epoch - record.position / max(1, batches))
    inside = f", after batch {record.position} of {batches}" if record.position else ""
    done = f"{record.step:,} steps in {duration(record.used)}"
    return [
        ("run", str(run.path)),
        ("next", f"epoch {min(record.epoch + 1, epochs)} of {epochs}{inside}; done: {done}"),
        *plan_lines(ready, replace(found, total_seconds=left * found.epoch_seconds)),
    ]


def answers_plan(questions: Questions | None) -> tuple[list[tuple[str, str]], float]:
    """The line of a teacher's answers that are to be computed first, and the seconds for it."""
    if questions is None:
        return [], 0.0
    answers, found = questions.answers, questions.estimate()
    crops = count(answers.crops.count, "crop")
    what = (
        f"to {crops} of each of {answers.photos:,} photos: {megabytes(answers.size)} in "
        f"{answers.folder}"
    )
    if not found.photos:
        return [("answers", f"{what}, there already")], 0.0
    rest = "" if found.photos == answers.photos else f" (of {found.photos:,} photos still)"
    once = f"computed before the first epoch{rest} in about {duration(found.seconds)}"
    return [("answers", f"{what}, {once}")], found.seconds


def _joined(*parts: tuple[object, str]) -> str:
    """Of pairs of a setting and its words those that act."""
    return ", ".join(words for acts, words in parts if acts)


def _model(ready: Ready) -> str:
    parameters = list(ready.network.parameters())
    total = sum(p.numel() for p in parameters)
    learning = sum(p.numel() for p in parameters if p.requires_grad)
    text = f"{ready.network.variant.id}, {total / 1e6:.1f} M parameters"
    return text if learning == total else f"{text}, of which {learning:,} learn"


def _start(ready: Ready) -> str:
    if ready.model is None:
        return f"drawn weights (seed {ready.config.seed})"
    kept = "its classifier kept, since it knows these classes"
    classifier = kept if ready.kept_classifier else "with a new classifier"
    return f"weights of {ready.model.name}, {classifier}"


def _learning(config: Config) -> str:
    epochs = config.epochs or 0
    devices = f" on each of {config.devices} devices" if config.devices > 1 else ""
    above = f" of targets above {config.bce_target_thresh:g}" if config.bce_target_thresh else ""
    schedule: str = config.sched
    if config.sched == "step":
        schedule = f"times {config.decay_rate:g} every {config.decay_epochs:g} epochs"
    if config.sched == "onecycle":
        schedule = "one cycle"
    else:
        schedule += f", {config.warmup_epochs:g} epochs of warm-up"
    return _joined(
        (True, f"{count(epochs, 'epoch')} of batches of {config.batch_size}{devices}"),
        (config.grad_accum_steps > 1, f"{config.grad_accum_steps} of them a step"),
        (True, f"{config.opt} with learning rate {config.lr:.3g}"),
        (True, schedule),
        (config.weight_decay, f"weight decay {config.weight_decay:g}"),
        (config.smoothing, f"smoothing {config.smoothing:g}"),
        (config.mixup, f"mixup {config.mixup:g}"),
        (config.cutmix, f"cutmix {config.cutmix:g}"),
        (config.drop, f"dropout {config.drop:g}"),
        (config.drop_path, f"stochastic depth {config.drop_path:g}"),
        (config.drop_block, f"DropBlock {config.drop_block:g}"),
        (config.clip_grad, f"gradients clipped at {config.clip_grad:g}"),
        (config.layer_decay != 1, f"each block {config.layer_decay:g} times as fast as the next"),
        (config.asl, f"asymmetric loss {config.asl_gamma_neg:g} / {config.asl_gamma_pos:g}"),
        (
            (config.bce_loss or config.multi_label) and not config.asl,
            f"binary cross entropy{above}",
        ),
        (config.class_weights != "none", f"class weights {config.class_weights}"),
        (
            config.unfreeze_every,
            f"the classifier alone at first, a stage more every {config.unfreeze_every} epochs",
        ),
        (config.model_ema, f"moving average {config.model_ema_decay:g}"),
        (config.patience, f"ends after {config.patience} epochs without progress"),
        (config.time_budget, f"ends after {config.time_budget}"),
    )


def _photos(ready: Ready) -> str:
    config = ready.config
    size = f"{config.img_size} x {config.img_size} pixels"
    if ready.config.cached:
        mirrored = ", mirrored or not" if config.hflip else ""
        return (
            f"{size}; the backbone is frozen, so its features are computed once{mirrored}; other "
            "augmentation does not act"
        )
    first, last = train_size(config, 0), train_size(config, (config.epochs or 1) - 1)
    if (first, last) != (config.img_size, config.img_size):
        grown = f"{first} growing to {last}" if first != last else str(last)
        size = f"{grown} pixels a side, validated at {config.img_size}"
    policies = {"auto": "AutoAugment", "trivial": "TrivialAugment"}
    fixed = config.teacher_crops if config.teacher is not None else 0
    return _joined(
        (True, f"{size}, crops of {config.scale:.0%} to 100% of the area"),
        (fixed, f"{count(config.teacher_crops, 'crop')} of each photo"),
        (config.hflip, f"mirrored with probability {config.hflip:g}"),
        (config.aa != "none", policies.get(config.aa, f"RandAugment {config.aa}")),
        (config.aug_repeats > 1, f"each {config.aug_repeats} times in an epoch of as many"),
        (config.color_jitter, f"colour jitter {config.color_jitter:g}"),
        (config.reprob, f"erased with probability {config.reprob:g}"),
        (config.balanced, "classes balanced"),
    )


def _folds(ready: Ready) -> str:
    counts = Counter(ready.dataset.folds)
    sizes = [counts[number] for number in range(1, (ready.config.folds or 0) + 1)]
    least, most = min(sizes), max(sizes)
    each = count(most, "photo") if least == most else f"{least:,} to {most:,} photos"
    return (
        f"{len(sizes)} of {each}, each held out once while the others train; then a fit on all "
        "photos"
    )


def _teacher(ready: Ready, measured: Estimate) -> str:
    """Who it is, what it answers, how much that counts, and what it costs."""
    config, teacher = ready.config, ready.teacher
    assert teacher is not None
    size, epochs = teacher.preprocessing.size, config.epochs or 0
    mapped = len(teacher.columns)
    classes = f"{teacher.num_classes:,} classes"
    if config.teacher_classes:
        classes += ", all of which the network learns"
    elif mapped < teacher.num_classes:
        classes += f", {mapped:,} of which count"
    seconds = measured.teacher_seconds
    cost = f"; it takes {duration(seconds)} of an epoch, {duration(seconds * epochs)} of all"
    return (
        f"{teacher.name}, {size} x {size} pixels, {classes}; {config.teacher_weight:.0%} of the "
        f"loss at temperature {config.teacher_temperature:g}{cost if seconds else ''}"
    )


def _machine(config: Config) -> str:
    frozen = f"; frozen: {config.freeze}" if config.freeze != "none" else ""
    loaders = (
        count(config.workers, "loader process", "loader processes")
        if config.workers
        else "no loader process"
    )
    return _joined(
        (True, config.device),
        (True, "float32" if config.amp == "off" else f"mixed {config.amp}"),
        (config.channels_last, "channels last"),
        (config.sync_bn and config.devices > 1, "batch norms over all devices"),
        (config.cache, "decoded photos kept in memory"),
        (True, loaders + frozen),
    )


def estimated(ready: Ready) -> Estimate:
    """Time and memory of the run, measured on a few photos."""
    config, data = ready.config, ready.dataset
    photos = data.train_photos, data.val_photos
    train, val = (-(-count // config.devices) for count in photos)
    load, decoded = _loading(ready)
    given: dict[str, Any] = {"train_photos": train, "val_photos": val, "load_seconds": load}
    if ready.config.cached:
        return estimate_cached(ready.engine, config, channels=ready.channels, **given)
    found = estimate(ready.network, config, cores=usable_cores(), **given)
    kept = round(decoded * sum(photos)) if config.cache else 0
    asked = train * _asking(ready) if config.teacher_crops == 0 else 0.0
    epoch = found.epoch_seconds + asked
    fits = config.folds or 1  # K of a share (K - 1) / K of the photos, and one of all
    return Estimate(epoch, epoch * (config.epochs or 1) * fits, found.memory_bytes + kept, asked)


def _asking(ready: Ready) -> float:
    """Seconds in which the teacher answers a photo; 0 without one."""
    if ready.teacher is None:
        return 0.0
    size, config = largest_size(ready.config), ready.config
    count = max(1, min(_ASKED, config.batch_size or 1))
    photos, seconds = torch.zeros(count, 3, size, size, device=config.device), list[float]()
    while len(seconds) < 3 and sum(seconds) < _ENOUGH:  # the first makes it ready
        begin = time.perf_counter()
        ready.teacher.answers(photos).sum().item()  # waits for an accelerator
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:] or seconds) / count


def _loading(ready: Ready) -> tuple[float, float]:
    """Seconds in which one process prepares a photo, and its bytes when decoded; of a few."""
    chosen: list[str] | list[bytes]
    if ready.dataset.shards is not None:
        chosen = [photo.data for photo in first_photos(ready.dataset.shards, "train", _TIMED)]
    else:
        paths = [sample.path for sample in ready.dataset.learned]
        chosen = paths[:: max(1, len(paths) // _TIMED)][:_TIMED]
    augment = Augment(ready.config, ready.preprocessing)
    done, decoded, begin = 0, 0, time.perf_counter()
    for source in chosen:
        with contextlib.suppress(ImageError):  # changed since it was checked: training tells
            image = decode(source)
            decoded += BYTES_PER_PIXEL * image.width * image.height
            augment(image, 0, (ready.config.epochs or 1) - 1)
        done += 1
        if time.perf_counter() - begin > _TIMED_ENOUGH:
            break
    return (time.perf_counter() - begin) / max(1, done), decoded / max(1, done)


def estimate(
    network: ResNeSt,
    config: Config,
    *,
    train_photos: int,
    val_photos: int,
    load_seconds: float = 0.0,
    cores: int = 1,
) -> Estimate:
    """Times a step of a copy of the network and counts what it keeps for the backward pass.

    `load_seconds` is what one process needs to read and prepare a photo. Without loader processes
    that comes on top; on a CPU the loaders share the `cores` with the network; beside an
    accelerator they work at the same time, and the slower side decides.

    The network, its statistics and torch's generator are left as they were.
    """
    epochs, batch, size = config.epochs or 1, config.batch_size or 1, config.img_size or 1
    kind = config.device.partition(":")[0]
    fitting = _PROBED_PIXELS // size**2 if kind == "cpu" else _MOST_PROBED
    count = max(_FEWEST, min(batch, _MOST_PROBED, fitting))
    with torch.random.fork_rng([config.device] if kind == "cuda" else []):
        per_photo, kept, count = _fitting_probe(network, config, count)
    copies = 2 if config.model_ema else 1  # of the weights, each validated
    epoch = train_photos * _together(per_photo * work(config), load_seconds, config, cores)
    forward = _SHARE_FORWARD * per_photo
    epoch += copies * val_photos * _together(forward, load_seconds, config, cores)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    weights = sum(p.numel() for p in network.parameters())
    moments = {"sgd": 1 if config.momentum else 0, "adamw": 2, "lamb": 2}[config.opt]
    tensors = 4 * (weights * copies + learning * (1 + moments))
    activations = kept / count * batch * (largest_size(config) / size) ** 2
    memory = int(tensors + (1 + _SCRATCH_SHARE) * activations) + _SCRATCH_BYTES
    return Estimate(epoch, epoch * epochs, memory)


def _together(step: float, load: float, config: Config, cores: int) -> float:
    if not config.workers:
        return step + load
    if config.device == "cpu":
        return max(step + load / cores, load / config.workers)
    return max(step, load / min(config.workers, cores))


def _fitting_probe(network: ResNeSt, config: Config, count: int) -> tuple[float, int, int]:
    """`_probe` of as many photos as fit into memory, and how many these are."""
    while True:
        try:
            return *_probe(network, config, count), count
        except MemoryUsedError:
            if count == _FEWEST:
                raise
        count = max(_FEWEST, count // 2)


def _probe(network: ResNeSt, config: Config, count: int) -> tuple[float, int]:
    """Seconds of a step per photo, and bytes that a step of `count` photos keeps."""
    size, classes = config.img_size or 0, len(network.get_parameter("fc.bias"))
    config = replace(config, batch_size=count, grad_accum_steps=1)
    stepper = Stepper(config, copy.deepcopy(network).train(), classes)
    labels = torch.zeros(count, dtype=torch.int64)
    if config.multi_label:
        labels = torch.zeros(count, classes)
    answers = torch.zeros(count, classes) if config.teacher is not None else None
    photos = torch.randn(count, network.in_channels, size, size)
    batch = Batch(photos, labels, list(range(count)), answers=answers)
    seconds, most = list[float](), 0
    while len(seconds) < 3 and sum(seconds) < _ENOUGH:
        kept = _Kept(stepper.network)
        begin = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            stepper.add_gradient(batch, 0, 0, last=True)
        stepper.step(0.0)
        seconds.append(time.perf_counter() - begin)
        most = max(most, kept.bytes)
    # The first also allocates and picks kernels, which counts for little where it is that slow.
    return min(seconds[1:] or seconds) / count, most


class _Kept:
    """Counts the bytes of tensors that a forward pass keeps, each storage once, and no weights."""

    def __init__(self, network: nn.Module) -> None:
        self.bytes = 0
        self._seen = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def estimate_cached(
    engine: Engine, config: Config, *, train_photos: int, val_photos: int,
    load_seconds: float = 0.0, channels: int = 3,
) -> Estimate:  # fmt: skip
    """The same with a frozen backbone: its features are computed once, the rest costs little."""
    size, seconds = config.img_size or 1, 0.0
    photos = np.zeros((_PROBED, channels, size, size), np.float32)
    for _ in range(2):  # the second is not the first use
        begin = time.perf_counter()
        features = engine.output(photos, "features")
        seconds = time.perf_counter() - begin
    rows = (2 if config.hflip > 0 else 1) * train_photos + val_photos
    loading = load_seconds * (train_photos + val_photos)  # in another thread
    total = max(seconds / _PROBED * rows, loading)
    return Estimate(0.0, total, 4 * features.shape[1] * rows)
