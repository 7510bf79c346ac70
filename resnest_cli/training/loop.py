"""The training loop, the only one: `train`, `finetune`, and a classifier on cached features.

    for each epoch: batches -> (mix) -> logits -> loss -> gradient -> step -> moving average,
                    then validation of the raw and the averaged weights, weights on disk, a row

Every state that it saves, and every draw that it makes, is a function of (seed, epoch, batch), so
that a run that was killed and resumed gives the same weights, bit for bit, on the same CPU. It
knows no files: `Keeper` saves what it is told to.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resnest_cli.errors import ResnestError
from resnest_cli.training.config import Config
from resnest_cli.training.ema import Ema
from resnest_cli.training.history import EpochRow
from resnest_cli.training.interfaces import Display, Keeper, Task
from resnest_cli.training.loader import Batch
from resnest_cli.training.metrics import BestAnswers, Evaluation, Meter
from resnest_cli.training.mixing import Mixing, loss_function
from resnest_cli.training.optim import Schedule, clip, create_optimizer
from resnest_cli.training.resume import Progress, State, optimizer_tensors, restore_optimizer
from resnest_cli.training.seeds import derived_seed
from resnest_cli.training.stopping import StoppedError, StopRequest

_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class DivergedError(ResnestError):
    """The loss or its gradient is no longer a finite number."""


@dataclass(slots=True)
class _Speed:
    """Photos per second over the last steps, and what is left."""

    window: list[tuple[float, int]] = field(default_factory=list)
    validation: float = 0.0  # seconds of the last one

    def add(self, seconds: float, photos: int) -> None:
        self.window = [*self.window[-19:], (seconds, photos)]

    def photos_per_second(self) -> float:
        seconds = sum(seconds for seconds, _ in self.window)
        return sum(photos for _, photos in self.window) / max(seconds, 1e-9)

    def left(self, steps: int, epochs: int) -> float:
        seconds = sum(seconds for seconds, _ in self.window) / max(1, len(self.window))
        return steps * seconds + epochs * self.validation


class Trainer:
    """Runs a task from a state, or from the beginning, to its end."""

    def __init__(
        self, task: Task, keeper: Keeper, display: Display, stop: StopRequest, state: State | None
    ) -> None:
        config = task.config
        self.task, self.config = task, config
        self._keeper, self._display, self._stop = keeper, display, stop
        self._format = torch.channels_last if config.channels_last else torch.contiguous_format
        self._network = task.network.to(config.device).to(memory_format=self._format)
        self._optimizer = create_optimizer(self._network, config)
        self._schedule = Schedule(config, len(task.train))
        self._mixing = Mixing(config, task.num_classes)
        self._loss = loss_function(config)
        self._scaler = torch.amp.GradScaler(_kind(config.device), enabled=config.amp == "float16")
        self.progress = Progress()
        if state is not None:
            self._network.load_state_dict(state.tensors["model"])
        self._ema = Ema(self._network, config.model_ema_decay) if config.model_ema else None
        self.best = BestAnswers.none(task.num_classes)
        if state is not None:
            self._restore(state)
        self._saved = time.monotonic()
        self._speed = _Speed()

    def _restore(self, state: State) -> None:
        self.progress = state.progress
        if self._ema is not None:
            self._ema.network.load_state_dict(state.tensors["ema"])
        restore_optimizer(self._optimizer, self._network, state.tensors.get("optimizer", {}))
        if state.scaler:
            self._scaler.load_state_dict(state.scaler)
        self.best = BestAnswers.restored(state.tensors["best"], self.task.num_classes)

    def run(self) -> Progress:
        """Trains to the last epoch, or until it no longer gets better; returns where it stands.

        Raises:
            StoppedError: a signal asked for it; the state is saved.
            DivergedError: a loss or gradient that is NaN or infinite; nothing was learned from it.
            ResnestError: memory or the disk ran out, or a photo cannot be read any more.
        """
        progress, epochs = self.progress, self._epochs()
        steps = len(self.task.train)
        self._display.start(epochs=epochs, steps=steps, first_epoch=progress.epoch + 1)
        try:
            while progress.epoch < epochs and not self._out_of_patience():
                if progress.position < steps:
                    self._train_epoch()
                self._finish_epoch()
        except StoppedError:
            self.save()
            raise
        return progress

    def _epochs(self) -> int:
        assert self.config.epochs is not None
        return self.config.epochs

    def _out_of_patience(self) -> bool:
        patience, progress = self.config.patience, self.progress
        return patience > 0 and progress.epoch - progress.best_epoch >= patience

    def _train_epoch(self) -> None:
        """The rest of the epoch's batches."""
        self._set_training()
        progress, begin = self.progress, time.perf_counter()
        for batch in self.task.train.epoch(progress.epoch, start=progress.position):
            loss, rate = self._step(batch)
            photos = len(batch.labels)
            progress.position += 1
            progress.step += 1
            progress.loss_sum += loss * photos
            progress.loss_photos += photos
            now = time.perf_counter()
            progress.seconds += now - begin
            self._speed.add(now - begin, photos)
            self._tell(loss, rate)
            self._save_if_due()
            begin = time.perf_counter()

    def _set_training(self) -> None:
        self._network.train()
        for module in self.task.frozen:
            module.eval()

    def _step(self, batch: Batch) -> tuple[float, float]:
        """One optimiser step: loss in nats, learning rate."""
        config, progress = self.config, self.progress
        seed = derived_seed(config.seed, "step", progress.epoch, progress.position)
        torch.manual_seed(seed)  # dropout, stochastic depth, DropBlock
        rate = self._schedule.lr(progress.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with _memory_errors(config):
            photos, targets = self._on_device(batch)
            if self._mixing.active:
                photos, targets = self._mixing(photos, targets, seed)
            with self._autocast():
                loss = self._loss(self._network(photos), targets)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._diverged("the loss", value)
            self._optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(self._scaler.scale(loss))
            self._scaler.unscale_(self._optimizer)
            norm = float(clip(self._network.parameters(), config.clip_grad))
            if not math.isfinite(norm) and not self._scaler.is_enabled():
                raise self._diverged("the gradient", norm)
            self._scaler.step(self._optimizer)
            self._scaler.update()
        if self._ema is not None:
            self._ema.update(progress.step)
        return value, rate

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        device = self.config.device
        photos = batch.photos.to(device, non_blocking=True)
        if photos.dim() == 4:
            photos = photos.contiguous(memory_format=self._format)
        return photos, batch.labels.to(device, non_blocking=True)

    def _autocast(self) -> AbstractContextManager[Any]:
        amp = self.config.amp
        dtype = torch.float16 if amp == "float16" else torch.bfloat16
        return torch.autocast(_kind(self.config.device), dtype=dtype, enabled=amp != "off")

    def _diverged(self, what: str, value: float) -> DivergedError:
        progress, config = self.progress, self.config
        rate = self._schedule.lr(progress.step)
        remedies = [f"a lower --lr (it was {rate:.3g})"]
        if not config.clip_grad:
            remedies.append("--clip-grad 1")
        remedies.append("a longer --warmup-epochs")
        if config.amp != "off":
            remedies.append("--amp off")
        return DivergedError(
            f"{what} became {value} in epoch {progress.epoch + 1}, batch {progress.position + 1}. "
            "The weights before are kept; nothing was learned from this batch. Start again with "
            + ", or ".join(remedies)
            + "."
        )

    def _tell(self, loss: float, rate: float) -> None:
        progress = self.progress
        steps, epochs = len(self.task.train), self._epochs()
        left = steps * (epochs - progress.epoch) - progress.position
        self._display.step(
            epoch=progress.epoch + 1,
            step=progress.position,
            loss=loss,
            lr=rate,
            photos_per_second=self._speed.photos_per_second(),
            seconds_left=self._speed.left(left, epochs - progress.epoch),
        )

    def _save_if_due(self) -> None:
        self._stop.check()
        every = self.config.save_every
        if every > 0 and time.monotonic() - self._saved >= every:
            self.save()

    def save(self) -> None:
        """Saves the state as it stands between two batches."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self._network.state_dict(),
            "optimizer": optimizer_tensors(self._optimizer, self._network),
            "best": self.best.tensors(),
        }
        if self._ema is not None:
            parts["ema"] = self._ema.network.state_dict()
        self._keeper.save_state(self.progress, parts, self._scaler.state_dict())
        self._saved = time.monotonic()

    def _finish_epoch(self) -> None:
        """Validates, keeps weights, history and state, and goes on to the next epoch."""
        begin = time.perf_counter()
        raw = self._validate(self._network)
        averaged = self._validate(self._ema.network) if self._ema is not None else None
        self._speed.validation = time.perf_counter() - begin
        row = self._row(raw, averaged)
        self._keep_weights(row, raw, averaged)
        progress = self.progress
        progress.rows.append(row)
        progress.epoch += 1
        progress.position = progress.loss_photos = 0
        progress.loss_sum = progress.seconds = 0.0
        winner = averaged if averaged is not None and row.which == "ema" else raw
        self._keeper.save_rows(progress.rows, winner.recall)
        self.save()
        self._display.epoch(row)

    def _validate(self, network: nn.Module) -> Evaluation:
        total = len(self.task.val)
        network.eval()
        meter = Meter(self.task.num_classes)
        with torch.inference_mode(), _memory_errors(self.config):
            for done, batch in enumerate(self.task.val, start=1):
                photos, labels = self._on_device(batch)
                with self._autocast():
                    logits = network(photos)
                meter.update(logits.float(), labels)
                self._display.validating(done, total)
                self._stop.check()
        return meter.result()

    def _row(self, raw: Evaluation, averaged: Evaluation | None) -> EpochRow:
        progress = self.progress
        ema_wins = averaged is not None and averaged.top1 > raw.top1
        winner = averaged if averaged is not None and ema_wins else raw
        best = winner.top1 > max(progress.best.values(), default=-1.0)
        if best:
            progress.best_epoch = progress.epoch + 1
            self.best = BestAnswers.of(winner)
        seconds = progress.seconds + self._speed.validation
        return EpochRow(
            epoch=progress.epoch + 1,
            step=progress.step,
            lr=self._schedule.lr(max(0, progress.step - 1)),
            train_loss=progress.loss_sum / max(1, progress.loss_photos),
            val_loss=raw.loss,
            top1=raw.top1,
            top5=raw.top5,
            ema_loss=averaged.loss if averaged else None,
            ema_top1=averaged.top1 if averaged else None,
            ema_top5=averaged.top5 if averaged else None,
            recall=winner.mean_recall,
            which="ema" if ema_wins else "raw",
            best=best,
            photos_per_second=progress.loss_photos / max(progress.seconds, 1e-9),
            train_seconds=progress.seconds,
            seconds=seconds,
        )

    def _keep_weights(self, row: EpochRow, raw: Evaluation, averaged: Evaluation | None) -> None:
        """`last`, and with a moving average `last_ema`; `best` of either kind, and of both."""
        sides = [("raw", raw, self._network)]
        if averaged is not None and self._ema is not None:
            sides.append(("ema", averaged, self._ema.network))
        best = self.progress.best
        for which, found, network in sides:
            names = ["last" if which == "raw" else "last_ema"]
            if found.top1 > best.get(which, -1.0):
                best[which] = found.top1
                names += [f"best_{which}"] if averaged is not None else []
            if row.best and row.which == which:
                names.append("best")
            metrics = _metrics(found, row.epoch, which)
            self._keeper.save_weights(names, network.state_dict(), metrics)


def _metrics(found: Evaluation, epoch: int, which: str) -> dict[str, Any]:
    metrics = {"epoch": epoch, "weights": which, "photos": found.photos}
    metrics |= {"loss": found.loss, "top1": found.top1, "mean_recall": found.mean_recall}
    return metrics if found.top5 is None else metrics | {"top5": found.top5}


def _kind(device: str) -> str:
    return device.partition(":")[0]


@contextmanager
def _memory_errors(config: Config) -> Iterator[None]:
    """Turns the many ways to say that memory ran out into advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(words in text for words in _MEMORY):
            raise
        batch = config.batch_size or 1
        half = f"-b {batch // 2}, or " if batch > 1 else ""
        raise ResnestError(
            f"memory ran out with {batch} photos of {config.img_size} pixels a batch. Try {half}"
            "a smaller --img-size or --model, or --freeze backbone."
        ) from error
