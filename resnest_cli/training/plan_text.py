"""The plan of a run in words, as it is shown before it starts and by `--dry-run`."""

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resnest_cli.cpu import usable_cores
from resnest_cli.data.shards import first_photos
from resnest_cli.errors import ImageError
from resnest_cli.images.decode import decode
from resnest_cli.output.messages import duration, megabytes
from resnest_cli.training.augment import Augment
from resnest_cli.training.loader import BYTES_PER_PIXEL
from resnest_cli.training.order import train_size
from resnest_cli.training.plan import Estimate, estimate, estimate_cached
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.settings import Config, needs
from resnest_cli.training.setup import Ready
from resnest_cli.training.state import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMED, _ENOUGH = 8, 1.0  # photos, and seconds after which fewer do


def plan_lines(ready: Ready, measured: Estimate | None = None) -> list[tuple[str, str]]:
    """Names and values, in two columns; takes a second or two, for it measures unless told."""
    config = ready.config
    found = estimated(ready) if measured is None else measured
    if ready.cached:
        times = f"{duration(found.total_seconds)} for the features"
    else:
        times = f"{duration(found.epoch_seconds)} an epoch, {duration(found.total_seconds)} in all"
        times += " on an idle machine"
    memory = f"about {megabytes(found.memory_bytes)} of memory beside the programs"
    return [
        ("recipe", f"{config.recipe}: {needs(config.recipe)}"),
        ("model", _model(ready)),
        ("start", _start(ready)),
        ("training", _learning(config)),
        ("photos", _photos(ready)),
        ("machine", _machine(config)),
        ("estimate", f"{times}; {memory}"),
    ]


def lines_of_the_rest(run: RunFolder, ready: Ready, progress: Progress) -> list[tuple[str, str]]:
    """The same of a run that would go on: where it stands, and what the rest will take."""
    config, epochs = ready.config, ready.config.epochs or 1
    found = estimated(ready)
    batches = -(-ready.dataset.train_photos // ((config.batch_size or 1) * config.devices))
    left = max(0.0, epochs - progress.epoch - progress.position / max(1, batches))
    inside = f", after batch {progress.position} of {batches}" if progress.position else ""
    done = f"{progress.step:,} steps in {duration(progress.used)}"
    lines = [
        ("run", str(run.path)),
        ("next", f"epoch {min(progress.epoch + 1, epochs)} of {epochs}{inside}; done: {done}"),
    ]
    rest = replace(found, total_seconds=left * found.epoch_seconds)
    return [*lines, *plan_lines(ready, rest)]


def estimated(ready: Ready) -> Estimate:
    """Time and memory of the run, measured on a few photos."""
    config, data = ready.config, ready.dataset
    photos = data.train_photos, data.val_photos
    train, val = (-(-count // config.devices) for count in photos)
    load, decoded = _loading(ready)
    given: dict[str, Any] = {"train_photos": train, "val_photos": val, "load_seconds": load}
    if ready.cached:
        return estimate_cached(ready.engine(), config, **given)
    found = estimate(ready.network, config, cores=usable_cores(), **given)
    kept = round(decoded * sum(photos)) if config.cache else 0
    return replace(found, memory_bytes=found.memory_bytes + kept)


def _loading(ready: Ready) -> tuple[float, float]:
    """Seconds in which one process reads, decodes and varies a photo, and its bytes when decoded.

    The means of a few. Where photos are large and the network's input is small, this is most of
    the time.
    """
    chosen: Sequence[str | bytes]
    if ready.dataset.shards is not None:
        chosen = [photo.data for photo in first_photos(ready.dataset, "train", _TIMED)]
    else:
        paths = [sample.path for sample in ready.dataset.train]
        chosen = paths[:: max(1, len(paths) // _TIMED)][:_TIMED]
    augment = Augment(ready.config, ready.preprocessing)
    done, decoded, begin = 0, 0, time.perf_counter()
    for source in chosen:
        with contextlib.suppress(ImageError):  # changed since it was checked: training tells
            image = decode(source)
            decoded += BYTES_PER_PIXEL * image.width * image.height
            augment(image, 0)
        done += 1
        if time.perf_counter() - begin > _ENOUGH:
            break
    return (time.perf_counter() - begin) / max(1, done), decoded / max(1, done)


def _model(ready: Ready) -> str:
    parameters = list(ready.network.parameters())
    total = sum(p.numel() for p in parameters)
    learning = sum(p.numel() for p in parameters if p.requires_grad)
    text = f"{ready.network.variant.id}, {total / 1e6:.1f} M parameters"
    return text if learning == total else f"{text}, of which {learning:,} learn"


def _start(ready: Ready) -> str:
    if ready.model is None:
        return f"drawn weights (seed {ready.config.seed})"
    classifier = "with a new classifier"
    if ready.kept_classifier:
        classifier = "its classifier kept, since it knows these classes"
    return f"weights of {ready.model.name}, {classifier}"


def _learning(config: Config) -> str:
    parts = [
        f"{config.epochs} epochs of batches of {config.batch_size}"
        + (f" on each of {config.devices} devices" if config.devices > 1 else ""),
        *([f"{config.grad_accum_steps} of them a step"] if config.grad_accum_steps > 1 else []),
        f"{config.opt} with learning rate {config.lr:.3g}",
        *_schedule(config),
    ]
    named = (
        ("weight decay", config.weight_decay),
        ("smoothing", config.smoothing),
        ("mixup", config.mixup),
        ("cutmix", config.cutmix),
        ("dropout", config.drop),
        ("stochastic depth", config.drop_path),
        ("DropBlock", config.drop_block),
        ("gradients clipped at", config.clip_grad),
    )
    parts += [f"{name} {value:g}" for name, value in named if value]
    if config.layer_decay != 1:
        parts.append(f"each block {config.layer_decay:g} times as fast as the next")
    if config.bce_loss:
        above = f" of targets above {config.bce_target_thresh:g}" * (config.bce_target_thresh > 0)
        parts.append(f"binary cross entropy{above}")
    if config.class_weights != "none":
        parts.append(f"class weights {config.class_weights}")
    if config.unfreeze_every:
        parts.append(
            f"the classifier alone at first, a stage more every {config.unfreeze_every} epochs"
        )
    if config.model_ema:
        parts.append(f"moving average {config.model_ema_decay:g}")
    if config.patience:
        parts.append(f"ends after {config.patience} epochs without progress")
    if config.time_budget:
        parts.append(f"ends after {config.time_budget}")
    return ", ".join(parts)


def _schedule(config: Config) -> list[str]:
    if config.sched == "onecycle":
        return ["one cycle"]
    warmup = f"{config.warmup_epochs:g} epochs of warm-up"
    if config.sched == "step":
        return [f"times {config.decay_rate:g} every {config.decay_epochs:g} epochs, {warmup}"]
    return [f"{config.sched}, {warmup}"]


def _photos(ready: Ready) -> str:
    config = ready.config
    size = f"{config.img_size} x {config.img_size} pixels"
    first, last = train_size(config, 0), train_size(config, (config.epochs or 1) - 1)
    if ready.cached:
        mirrored = ", mirrored or not" if config.hflip else ""
        return (
            f"{size}; the backbone is frozen, so its features are computed once{mirrored}; other "
            "augmentation does not act"
        )
    if (first, last) != (config.img_size, config.img_size):
        grown = f"{first} growing to {last}" if first != last else str(last)
        size = f"{grown} pixels a side, validated at {config.img_size}"
    parts = [size, f"crops of {config.scale:.0%} to 100% of the area"]
    if config.hflip:
        parts.append(f"mirrored with probability {config.hflip:g}")
    if config.aa != "none":
        policies = {"auto": "AutoAugment", "trivial": "TrivialAugment"}
        parts.append(policies.get(config.aa, f"RandAugment {config.aa}"))
    if config.aug_repeats > 1:
        parts.append(f"each {config.aug_repeats} times in an epoch of as many")
    named = (("colour jitter", config.color_jitter), ("erased with probability", config.reprob))
    parts += [f"{name} {value:g}" for name, value in named if value]
    if config.balanced:
        parts.append("classes balanced")
    return ", ".join(parts)


def _machine(config: Config) -> str:
    parts = [config.device, "float32" if config.amp == "off" else f"mixed {config.amp}"]
    if config.channels_last:
        parts.append("channels last")
    if config.sync_bn and config.devices > 1:
        parts.append("batch norms over all devices")
    if config.cache:
        parts.append("decoded photos kept in memory")
    parts.append(f"{config.workers} loader process(es)" if config.workers else "no loader process")
    return ", ".join(parts) + (f"; frozen: {config.freeze}" if config.freeze != "none" else "")
