"""The training loop, the only one: `train`, `finetune`, and a classifier on cached features.

    for each epoch: batches -> (mix) -> logits -> loss -> gradient -> step -> moving average,
                    then validation of the raw and the averaged weights, weights on disk, a row

A step takes the gradient of one batch, or of `grad_accum_steps` of them; states are saved, and
signals answered, between two steps, so that no half of a gradient has to be kept. On several
devices each has batches of its own, and all do the same at the same step; see `distributed`.

Every state that it saves, and every draw that it makes, is a function of (seed, epoch, batch), so
that a run that was killed and resumed gives the same weights, bit for bit, on the same CPU. It
knows no files: `Keeper` saves what it is told to.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resnest_cli.errors import ResnestError
from resnest_cli.training.budget import Clock, budget_seconds
from resnest_cli.training.config import Config
from resnest_cli.training.distributed import World, as_rows, interleaved
from resnest_cli.training.ema import Ema
from resnest_cli.training.history import EpochRow
from resnest_cli.training.interfaces import Display, Keeper, Task
from resnest_cli.training.loader import Batch
from resnest_cli.training.losses import Loss
from resnest_cli.training.metrics import BestAnswers, Evaluation, Meter
from resnest_cli.training.mixing import Mixing
from resnest_cli.training.optim import clip, create_optimizer, set_rate
from resnest_cli.training.resume import Progress, State, optimizer_tensors, restore_optimizer
from resnest_cli.training.schedule import Schedule
from resnest_cli.training.seeds import derived_seed
from resnest_cli.training.speed import Speed
from resnest_cli.training.stopping import BudgetUsedError, StoppedError, StopRequest

_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class DivergedError(ResnestError):
    """The loss or its gradient is no longer a finite number."""


class _Part(NamedTuple):
    """A batch whose gradient has been added: its loss, its photos, what its mean was divided by."""

    loss: float
    photos: int
    share: float


class Trainer:
    """Runs a task from a state, or from the beginning, to its end."""

    def __init__(
        self,
        task: Task,
        keeper: Keeper,
        display: Display,
        stop: StopRequest,
        state: State | None,
        began: float | None = None,
        world: World | None = None,
    ) -> None:
        config = task.config
        self.task, self.config = task, config
        self._world = world or World()
        self._keeper, self._display, self._stop = keeper, display, stop
        self._format = torch.channels_last if config.channels_last else torch.contiguous_format
        self._network = task.network.to(config.device).to(memory_format=self._format)
        self.optimizer = create_optimizer(self._network, config)
        self._accumulated = config.grad_accum_steps
        self._summed = config.grad_accum_steps > 1 or self._world.size > 1
        self._steps = -(-len(task.train) // self._accumulated)  # of an epoch
        self._schedule = Schedule(config, self._steps)
        self._mixing = Mixing(config, task.num_classes)
        self._loss = Loss(config, task.class_weights)
        self._scaler = torch.amp.GradScaler(_kind(config.device), enabled=config.amp == "float16")
        self.progress = Progress()
        if state is not None:
            self._network.load_state_dict(state.tensors["model"])
        self._ema = Ema(self._network, config.model_ema_decay) if config.model_ema else None
        self.best = BestAnswers.none(task.num_classes)
        if state is not None:
            self._restore(state)
        self._learner = self._world.learner(self._network, unused=config.unfreeze_every > 0)
        self._saved = time.monotonic()
        self._clock = Clock(budget_seconds(config), self.progress.used, began)
        self._speed = Speed()

    def _restore(self, state: State) -> None:
        self.progress = state.progress
        if self._ema is not None:
            self._ema.network.load_state_dict(state.tensors["ema"])
        restore_optimizer(self.optimizer, self._network, state.tensors.get("optimizer", {}))
        if state.scaler:
            self._scaler.load_state_dict(state.scaler)
        self.best = BestAnswers.restored(state.tensors["best"], self.task.num_classes)

    def run(self) -> Progress:
        """Trains to the last epoch, or until it no longer gets better; returns where it stands.

        Raises:
            StoppedError: a signal asked for it, or the time budget is used up (BudgetUsedError);
                the state is saved.
            DivergedError: a loss or gradient that is NaN or infinite; nothing was learned from it.
            ResnestError: memory or the disk ran out, or a photo cannot be read any more.
        """
        progress, epochs = self.progress, self._epochs()
        self._display.start(epochs=epochs, steps=self._steps, first_epoch=progress.epoch + 1)
        try:
            while progress.epoch < epochs and not self._out_of_patience():
                self._end_in_time(0.0)
                if progress.position < len(self.task.train):
                    self._train_epoch()
                self._finish_epoch()
        except BudgetUsedError:
            self.save()
            self._keep_unfinished()
            raise
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
        parts: list[_Part] = []
        for batch in self.task.train.epoch(progress.epoch, start=progress.position):
            done = progress.position + len(parts) + 1
            last = len(parts) + 1 == self._accumulated or done == len(self.task.train)
            self._add_gradient(batch, parts, last)
            if not last:
                continue
            rate = self._schedule.lr(progress.step)
            self._step(parts, rate)
            if self._ema is not None:
                self._ema.update(progress.step)
            photos = sum(part.photos for part in parts)
            loss = math.fsum(part.loss * part.photos for part in parts)
            progress.position = done
            progress.step += 1
            progress.loss_sum += loss
            progress.loss_photos += photos
            now = time.perf_counter()
            progress.seconds += now - begin
            self._speed.add(now - begin, photos)
            self._tell(loss / photos, rate)
            self._between_steps()
            parts, begin = [], time.perf_counter()

    def trial(self, batches: Iterator[Batch], rate: float) -> float:
        """One step at this learning rate, of which nothing is kept; the loss before it.

        Raises:
            DivergedError: a loss or gradient that is NaN or infinite.
        """
        self._set_training()
        parts: list[_Part] = []
        for count in range(1, self._accumulated + 1):
            self._add_gradient(next(batches), parts, count == self._accumulated)
        self._step(parts, rate)
        self.progress.position += len(parts)  # other draws in the next
        return math.fsum(p.loss * p.photos for p in parts) / sum(p.photos for p in parts)

    def _set_training(self) -> None:
        """Training mode, but for what is frozen in this epoch."""
        self._network.train()
        for module in self.task.frozen:
            module.eval()
        for number, module in enumerate(self.task.thawing, start=1):
            learns = self.progress.epoch >= number * self.config.unfreeze_every
            module.train(learns).requires_grad_(learns)

    def _add_gradient(self, batch: Batch, parts: list[_Part], last: bool) -> None:
        """Adds a batch's gradient to that of the step's `parts`, and the batch to them.

        With the `last` one, `parts` become those of all devices, and the gradient their mean.
        """
        config, world = self.config, self._world
        position = world.position(self.progress.position + len(parts))
        seed = derived_seed(config.seed, "step", self.progress.epoch, position)
        torch.manual_seed(seed)  # dropout, stochastic depth, DropBlock
        with _memory_errors(config), world.adding(self._learner, last):
            photos, targets = self._on_device(batch)
            if self._mixing.active:
                photos, targets = self._mixing(photos, targets, seed)
            with self._autocast():
                loss = self._loss(self._learner(photos), targets)
            if not parts:
                self.optimizer.zero_grad(set_to_none=True)
            share = self._loss.share(targets)
            parts.append(_Part(float(loss.detach()), len(batch.labels), share))
            if last:  # before the devices wait for each other's gradients
                parts[:] = self._of_all(parts)
            if last or world.size == 1:
                self._check_losses(parts)
            if self._summed:  # the sum over photos; `_step` divides by all of them
                loss = loss * (share / self._nominal())
            torch.autograd.backward(self._scaler.scale(loss))

    def _of_all(self, parts: Sequence[_Part]) -> list[_Part]:
        """A step's parts of all devices, in the order in which one device would have them."""
        rows = self._world.exchange([number for part in parts for number in part])
        every = interleaved([as_rows(row, len(_Part._fields)) for row in rows])
        return [_Part(loss, int(photos), share) for loss, photos, share in every]

    def _check_losses(self, parts: Sequence[_Part]) -> None:
        before = self.progress.position * self._world.size
        for index, part in enumerate(parts):
            if not math.isfinite(part.loss):
                raise self._diverged("the loss", part.loss, before + index)

    def _nominal(self) -> int:
        """Photos of a whole step: gradients in this unit are as large as those of a mean."""
        return (self.config.batch_size or 1) * self._accumulated

    def _step(self, parts: Sequence[_Part], rate: float) -> None:
        """One optimiser step with the gradient of these batches, at a learning rate."""
        config, progress = self.config, self.progress
        set_rate(self.optimizer, rate)
        with _memory_errors(config):
            self._scaler.unscale_(self.optimizer)
            if self._summed:  # over devices it is a mean
                factor = (
                    self._nominal() * self._world.size / math.fsum(part.share for part in parts)
                )
                gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
                torch._foreach_mul_(gradients, factor)
            norm = float(clip(self._network.parameters(), config.clip_grad))
            if not math.isfinite(norm) and not self._scaler.is_enabled():
                before = progress.position * self._world.size
                raise self._diverged("the gradient", norm, before + len(parts) - 1)
            self._scaler.step(self.optimizer)
            self._scaler.update()

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

    def _diverged(self, what: str, value: float, position: int) -> DivergedError:
        progress, config = self.progress, self.config
        rate = self._schedule.lr(progress.step)
        remedies = [f"a lower --lr (it was {rate:.3g})"]
        if not config.clip_grad:
            remedies.append("--clip-grad 1")
        remedies.append("a longer --warmup-epochs")
        if config.amp != "off":
            remedies.append("--amp off")
        return DivergedError(
            f"{what} became {value} in epoch {progress.epoch + 1}, batch {position + 1}. "
            "The weights before are kept; nothing was learned from this batch. Start again with "
            + ", or ".join(remedies)
            + "."
        )

    def _tell(self, loss: float, rate: float) -> None:
        progress = self.progress
        epochs, done = self._epochs(), -(-progress.position // self._accumulated)
        left = self._steps * (epochs - progress.epoch) - done
        self._display.step(
            epoch=progress.epoch + 1,
            step=done,
            loss=loss,
            lr=rate,
            photos_per_second=self._speed.photos_per_second(),
            seconds_left=self._speed.left(left, epochs - progress.epoch),
        )

    def _between_steps(self) -> None:
        every = self.config.save_every
        due = every > 0 and time.monotonic() - self._saved >= every
        if self.progress.position < len(self.task.train):
            (due,) = self._end_in_time(self._speed.validation, due)
        else:
            (due,) = self._world.decide(self._stop, due)
            self._stop.check()
        if due:
            self.save()

    def _end_in_time(self, reserve: float, *wishes: bool) -> list[bool]:
        """Where the run may end, for a signal or for its budget; `wishes` as in `World.decide`."""
        late, *wishes_ = self._world.decide(self._stop, self._clock.late(reserve), *wishes)
        self._stop.check()
        if late:
            raise BudgetUsedError("the time budget is used up")
        return wishes_

    def save(self) -> None:
        """Saves the state as it stands between two steps."""
        self.progress.used = self._clock.used()
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self._network.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self._network),
            "best": self.best.tensors(),
        }
        if self._ema is not None:
            parts["ema"] = self._ema.network.state_dict()
        self._keeper.save_state(self.progress, parts, self._scaler.state_dict())
        self._world.meet()
        self._saved = time.monotonic()

    def _finish_epoch(self) -> None:
        """Validates, keeps weights, history and state, and goes on to the next epoch."""
        begin = time.perf_counter()
        self._world.share_buffers(*(network for _, network in self._sides()))
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

    def _keep_unfinished(self) -> None:
        """`last`, of the middle of an epoch; `best` too where no epoch was ever finished.

        The state was saved before, so that a run that goes on does not know of it.
        """
        progress = self.progress
        if not progress.position:
            return
        self._world.share_buffers(*(network for _, network in self._sides()))
        for suffix, network in self._sides():
            found = self._validate(network)
            names = [f"last{suffix}"] + ([] if progress.rows or suffix else ["best"])
            metrics = _metrics(found, progress.epoch + 1, suffix.strip("_") or "raw")
            self._keeper.save_weights(names, network.state_dict(), metrics)

    def _sides(self) -> list[tuple[str, nn.Module]]:
        averaged = [("_ema", self._ema.network)] if self._ema is not None else []
        return [("", self._network), *averaged]

    def _validate(self, network: nn.Module) -> Evaluation:
        total = len(self.task.val)
        network.eval()
        meter = Meter(self.task.num_classes)
        with torch.inference_mode(), _memory_errors(self.config):
            batches = iter(self.task.val)
            for done in range(1, total + 1):
                batch = next(batches, None)
                if batch is not None:  # of several devices some have one batch less
                    photos, labels = self._on_device(batch)
                    with self._autocast():
                        logits = network(photos)
                    meter.update(logits.float(), labels)
                self._display.validating(done, total)
                self._world.decide(self._stop)
                self._stop.check()
            meter.batches = interleaved(self._world.gathered(meter.batches))
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
            if which == "raw" and self.config.keep_epochs:
                names.append(f"epoch-{row.epoch:04d}")
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
