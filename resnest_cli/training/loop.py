"""The training loop, the only one: `train`, `finetune`, and a classifier on cached features.

    for each epoch: batches -> (mix) -> logits -> loss -> gradient -> step -> moving average,
                    then validation of the raw and the averaged weights, weights on disk, a row

A step takes the gradient of one batch, or of `grad_accum_steps` of them; states are saved, and
signals answered, between two steps, so that no half of a gradient has to be kept. On several
devices each has batches of its own, and all do the same at the same step; see `distributed`.

Every state that it saves, and every draw that it makes, is a function of (seed, epoch, batch), so
that a run that was killed and resumed gives the same weights, bit for bit, on the same CPU. It
knows no files: a `runs.RunKeeper` saves. Photos that cannot be read any more are left out; see
`lost_photos`.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnest_cli.data.labelled_photos import Side
from resnest_cli.evaluation import thresholds
from resnest_cli.evaluation.label_scores import LabelEvaluation, LabelMeter, LabelScores
from resnest_cli.evaluation.scores import Evaluation, Meter, Scores
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.signals import BudgetUsedError, StoppedError, StopRequest
from resnest_cli.training.average import Ema
from resnest_cli.training.distributed import World, interleaved
from resnest_cli.training.loader import Batch
from resnest_cli.training.lost_photos import MOST_IN_A_ROW, DataLostError, Lost, LostPhotos
from resnest_cli.training.optim import Schedule
from resnest_cli.training.runs import RunKeeper
from resnest_cli.training.state import (
    Best,
    BestAnswers,
    BestLabelAnswers,
    EpochRow,
    RunRecord,
    State,
    optimizer_tensors,
    restore_optimizer,
)
from resnest_cli.training.step import BatchSource, Stepper, Task, memory_errors
from resnest_cli.training.time_budget import Clock, budget_seconds

Validated = Evaluation | LabelEvaluation


class Trainer:
    """Runs a task from a state, or from the beginning, to its end; keeps nothing without `keeper`.

    `began` is when the program did, monotonic, for the time budget.
    """

    def __init__(
        self,
        task: Task,
        keeper: RunKeeper | None,
        display: TrainingDisplay,
        stop: StopRequest,
        state: State | None,
        began: float | None = None,
        world: World | None = None,
    ) -> None:
        config = task.config
        self.task, self.config, self._epochs = task, config, config.epochs or 0
        self._world = world or World()
        self._keeper, self._display, self._stop = keeper, display, stop
        self.stepper = Stepper(
            config,
            task.network,
            task.num_classes,
            task.class_weights,
            self._world,
            task.teacher,
        )
        self._network = self.stepper.network
        self._accumulated = config.grad_accum_steps
        self._steps = -(-len(task.train) // self._accumulated)  # of an epoch
        self._schedule = Schedule(config, self._steps)
        self.record = RunRecord()
        self._kind_of_best = BestLabelAnswers if config.multi_label else BestAnswers
        self.best: Best = self._kind_of_best.none(task.num_classes)
        self._ema = Ema(self._network, config.model_ema_decay) if config.model_ema else None
        ema = {"ema": self._ema.network} if self._ema is not None else {}
        self._sides = {"raw": self._network, **ema}
        if state is not None:
            self._restore(state)
        self._lost = LostPhotos(
            self.record.lost, task.train_counts, task.val_photos, task.unlabelled
        )
        self._lost_in_a_row = 0  # training photos
        self._learned: tuple[int, int] | None = None  # position and step before steps passed over
        self._saved = time.monotonic()
        self._clock = Clock(budget_seconds(config), self.record.used, began)
        self._latest = deque[tuple[float, int]](maxlen=20)  # seconds and photos of steps
        self._validation_seconds = 0.0  # of the last one

    def _restore(self, state: State) -> None:
        self.record = state.record
        self._network.load_state_dict(state.tensors["model"])
        if self._ema is not None:
            self._ema.network.load_state_dict(state.tensors["ema"])
        restore_optimizer(self.stepper.optimizer, self._network, state.tensors.get("optimizer", {}))
        if state.scaler:
            self.stepper.scaler.load_state_dict(state.scaler)
        self.best = self._kind_of_best.restored(state.tensors["best"], self.task.num_classes)

    def run(self) -> RunRecord:
        """Trains to the last epoch, or until it no longer gets better; returns where it stands.

        Raises:
            StoppedError: a signal, or the time budget (BudgetUsedError); the state is saved.
            DivergedError: a loss or gradient that is NaN or infinite; nothing was learned from it.
            DataLostError: too many photos cannot be read any more; the state is saved.
        """
        record, patience = self.record, self.config.patience
        self._display.start(epochs=self._epochs, steps=self._steps, first_epoch=record.epoch + 1)
        try:
            self._lost.check()  # of a run that goes on
            while record.epoch < self._epochs:
                if 0 < patience <= record.epoch - record.best_epoch:
                    break
                if record.step:  # at least one, for the weights to be something
                    self._end_in_time(0.0)
                if record.position < len(self.task.train):
                    self._train_epoch()
                self._finish_epoch()
        except (StoppedError, DataLostError) as error:
            if isinstance(error, DataLostError) and self._learned is not None:
                record.position, record.step = self._learned
            self.save()
            if isinstance(error, BudgetUsedError):
                self._keep_unfinished()
            raise
        return record

    def trial(self, batches: Iterator[Batch], rate: float) -> float:
        """One step at this learning rate, of which nothing is kept; the loss before it."""
        self._set_training()
        for done in range(1, self._accumulated + 1):
            self._add_gradient(next(batches), last=done == self._accumulated)
        loss, photos = self.stepper.step(rate)
        self.record.position += self._accumulated  # other draws in the next
        return loss / photos if photos else self.trial(batches, rate)

    def logits(self, batches: BatchSource) -> tuple[Tensor, dict[int, str]]:
        """The answers of the weights that count to photos that did not train, in their order.

        float32 (N, classes), NaN where a photo could not be read; and why, by place. Raises
        DataLostError where those are too many, and StoppedError.
        """
        network = self._network if self._ema is None else self._ema.network
        network.eval()
        total, lost = len(batches), list[Lost]()
        found: dict[int, Tensor] = {}
        with torch.inference_mode(), memory_errors(self.config):
            for done, batch in enumerate(batches.epoch(0), start=1):
                lost += batch.lost
                if batch.indices:
                    photos, _ = self.stepper.on_device(batch)
                    with self.stepper.autocast():
                        rows = network(photos)
                    found |= zip(batch.indices, rows.float().cpu(), strict=True)
                self._display.validating(done, total)
                self._stop.check()
        self._leave_out("val", [lost])
        errors = {one.place: one.error for one in lost}
        nothing = torch.full((self.task.num_classes,), math.nan)
        every = range(len(found) + len(errors))
        return torch.stack([found.get(place, nothing) for place in every]), errors

    # An epoch

    def _set_training(self) -> None:
        """Training mode, but for what is frozen in this epoch."""
        self._network.train()
        for module in self.task.frozen:
            module.eval()
        for number, module in enumerate(self.task.thawing, start=1):
            learns = self.record.epoch >= number * self.config.unfreeze_every
            module.train(learns).requires_grad_(learns)

    def _train_epoch(self) -> None:
        self._set_training()
        record, begin = self.record, time.perf_counter()
        rate, done = self._schedule.lr(record.step), 0
        for batch in self._begun(self.task.train.epoch(record.epoch, record.position)):
            done += 1
            last = done == self._accumulated or record.position + done == len(self.task.train)
            self._add_gradient(batch, last=last)
            if not last:
                continue
            loss, photos = self.stepper.step(rate)
            if photos:
                self._learned = None
            else:  # remembered, so that the run can go back to before what it could not learn from
                self._learned = self._learned or (record.position, record.step)
            if self._ema is not None and photos:
                self._ema.update(record.step)
            record.position += done
            record.step += 1
            record.loss_sum += loss
            record.loss_photos += photos
            seconds = time.perf_counter() - begin
            record.seconds += seconds
            self._latest.append((seconds, photos))
            if photos:
                self._show_step(loss / photos, rate)
            self._between_steps()
            rate, done, begin = self._schedule.lr(record.step), 0, time.perf_counter()

    def _begun(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches. Devices wait for each other's first, for which a shard may be fetched."""
        first = next(batches, None)
        self._world.meet()
        if first is not None:
            yield first
        yield from batches

    def _add_gradient(self, batch: Batch, *, last: bool) -> None:
        """A batch's part of a step, or a step that is passed over; the same on all devices."""
        rows = self._world.exchange([len(batch.indices), len(batch.lost), batch.too_few])
        there, lost, few = map(sum, zip(*rows, strict=True))
        if lost:
            self._leave_out("train", self._world.gathered(batch.lost))
        self._lost_in_a_row = 0 if there else self._lost_in_a_row + int(lost)
        if self._lost_in_a_row >= MOST_IN_A_ROW:
            what = f"{self._lost_in_a_row:,} training photos, one after the other,"
            raise DataLostError(what, self.record.lost[-1])
        if few:
            self.stepper.pass_over()
        record = self.record
        self.stepper.add_gradient(batch, record.epoch, record.position, last=last)

    def _leave_out(self, side: Side, found: list[Sequence[Lost]]) -> None:
        """Notes what the devices could not read; raises DataLostError where that is too much."""
        lost = self._lost
        new = lost.add(side, chain.from_iterable(found), self.record.epoch + 1)
        if new:
            if self._keeper is not None:
                self._keeper.save_lost(lost.photos)
            self._display.lost(new, lost.emptied(new))
        lost.check()

    def _show_step(self, loss: float, rate: float) -> None:
        record, done = self.record, -(-self.record.position // self._accumulated)
        epochs_left = self._epochs - record.epoch
        seconds, photos = map(sum, zip(*self._latest, strict=True))
        a_step = seconds / len(self._latest)
        left = (self._steps * epochs_left - done) * a_step + epochs_left * self._validation_seconds
        self._display.step(
            epoch=record.epoch + 1,
            step=done,
            loss=loss,
            lr=rate,
            speed=photos / max(seconds, 1e-9),
            left=left,
        )

    def _between_steps(self) -> None:
        every = self.config.save_every
        due = every > 0 and time.monotonic() - self._saved >= every
        if self.record.position < len(self.task.train):
            (due,) = self._end_in_time(self._validation_seconds, due)
        else:
            (due,) = self._world.decide(self._stop, due)
            self._stop.check()
        if due and self._learned is None:  # else the run could not go back to there
            self.save()

    def _end_in_time(self, reserve: float, *wishes: bool) -> list[bool]:
        """Where the run may end, for a signal or for its budget; `wishes` as in `World.decide`."""
        late, *decided = self._world.decide(self._stop, self._clock.late(reserve), *wishes)
        self._stop.check()
        if late:
            raise BudgetUsedError("the time budget is used up")
        return decided

    def save(self) -> None:
        """Saves the state as it stands between two steps."""
        self.record.used = self._clock.used()
        if self._keeper is not None:
            tensors: dict[str, Mapping[str, Tensor]] = {
                "model": self._network.state_dict(),
                "optimizer": optimizer_tensors(self.stepper.optimizer, self._network),
                "best": self.best.tensors(),
            }
            if self._ema is not None:
                tensors["ema"] = self._ema.network.state_dict()
            state = State(self.record, tensors, self.stepper.scaler.state_dict())
            self._keeper.save_state(state)
        self._world.meet()
        self._saved = time.monotonic()

    # Its end

    def _finish_epoch(self) -> None:
        """Validates, keeps weights, history and state, and goes on to the next epoch."""
        begin = time.perf_counter()
        self._world.share_buffers(*self._sides.values())
        found: dict[str, Validated] = {}
        if self.task.val is not None:
            found = {which: self._validate(network) for which, network in self._sides.items()}
        self._validation_seconds = time.perf_counter() - begin
        row, record = self._row(found), self.record
        self._keep_weights(row, found)
        record.rows.append(row)
        record.epoch += 1
        record.position = record.loss_photos = 0
        self._learned = None
        record.loss_sum = record.seconds = 0.0
        if self._keeper is not None:
            known = _of_classes(found[row.which]) if found else []
            self._keeper.save_rows(record.rows, known)
        self.save()
        self._display.epoch(row)

    def _validate(self, network: nn.Module) -> Validated:
        assert self.task.val is not None
        total = len(self.task.val)
        network.eval()
        kind = LabelMeter if self.config.multi_label else Meter
        meter, lost = kind(self.task.num_classes), list[Lost]()
        with torch.inference_mode(), memory_errors(self.config):
            batches = self._begun(self.task.val.epoch(0))
            for done in range(1, total + 1):
                batch = next(batches, None)
                if batch is not None:  # of several devices some have one batch less
                    lost += batch.lost
                    self._answer(network, batch, meter)
                self._display.validating(done, total)
                self._world.decide(self._stop)
                self._stop.check()
            meter.batches = interleaved(self._world.gathered(meter.batches))
        self._leave_out("val", self._world.gathered(lost))
        return meter.result()

    def _answer(self, network: nn.Module, batch: Batch, meter: Meter | LabelMeter) -> None:
        """The network's answers to a batch, in the places that its photos have in it."""
        places = np.sort([*batch.indices, *(lost.place for lost in batch.lost)])
        logits = torch.empty(0, self.task.num_classes)
        photos, labels = self.stepper.on_device(batch)
        if batch.indices:
            with self.stepper.autocast():
                logits = network(photos)
        meter.update(logits.float(), labels, np.isin(places, batch.indices))

    def _row(self, found: Mapping[str, Validated]) -> EpochRow:
        record = self.record
        raw, ema = (found[which].scores if which in found else None for which in ("raw", "ema"))
        which, best = "raw" if self._ema is None else "ema", True
        if raw is not None:
            which = "ema" if ema is not None and ema.sort_key > raw.sort_key else "raw"
            best = found[which].scores.sort_key > max(map(record.best_score, ("raw", "ema")))
        if best and found:
            self.best = _answers(found[which])
        return EpochRow(
            epoch=record.epoch + 1,
            step=record.step,
            lr=self._schedule.lr(max(0, record.step - 1)),
            train_loss=record.loss_sum / max(1, record.loss_photos),
            val_loss=raw.loss if raw else None,
            ema_loss=ema.loss if ema else None,
            which=which,
            best=best,
            photos_per_second=record.loss_photos / max(record.seconds, 1e-9),
            train_seconds=record.seconds,
            seconds=record.seconds + self._validation_seconds,
            **(_figures(raw, ema, found[which].scores) if raw else {}),
        )

    def _keep_weights(self, row: EpochRow, found: Mapping[str, Validated]) -> None:
        """`last`, and with a moving average `last_ema`; `best` of either kind, and of both."""
        record = self.record
        for which, network in self._sides.items():
            names = ["last" if which == "raw" else "last_ema"]
            if which == "raw" and self.config.keep_epochs:
                names.append(f"epoch-{row.epoch:04d}")
            if self._ema is not None and row.sort_key(which) > record.best_score(which):
                names.append(f"best_{which}")
            if row.best and row.which == which:
                names.append("best")
            self._save_weights(names, network, found.get(which), row.epoch, which)

    def _keep_unfinished(self) -> None:
        """`last`, of the middle of an epoch; `best` too where no epoch was ever finished."""
        record = self.record
        if not record.position:
            return
        self._world.share_buffers(*self._sides.values())
        for which, network in self._sides.items():
            names = ["last" if which == "raw" else "last_ema"]
            names += ["best"] if which == "raw" and not record.rows else []
            found = self._validate(network) if self.task.val is not None else None
            self._save_weights(names, network, found, record.epoch + 1, which)

    def _save_weights(
        self,
        names: Sequence[str],
        network: nn.Module,
        found: Validated | None,
        epoch: int,
        which: str,
    ) -> None:
        if self._keeper is None:
            return
        metrics = {"epoch": epoch, "weights": which, **(_metrics(found) if found else {})}
        limits = None
        if isinstance(found, LabelEvaluation):
            there = found.there
            limits = thresholds.fitted(
                found.truth[there], found.probabilities[there], self.config.min_precision
            )
        self._keeper.save_weights(names, network.state_dict(), metrics, limits)


# What depends on whether a photo may have several labels


def _answers(found: Validated) -> Best:
    if isinstance(found, LabelEvaluation):
        return BestLabelAnswers(found.truth, found.probabilities)
    return BestAnswers(found.scores.confusion, found.predicted, found.confidence)


def _of_classes(found: Validated) -> list[float | None]:
    """The average precision of each class, or its recall."""
    if isinstance(found, LabelEvaluation):
        return [one.average_precision for one in found.scores.classes]
    return [one.recall for one in found.scores.classes]


def _figures(
    raw: Scores | LabelScores, ema: Scores | LabelScores | None, winner: Scores | LabelScores
) -> dict[str, float | None]:
    """The fields of an `EpochRow` that say how good it is; `winner` is one of the two."""
    if isinstance(raw, LabelScores):
        assert isinstance(winner, LabelScores)
        averaged = ema.mean_average_precision if isinstance(ema, LabelScores) else None
        return {
            "map": raw.mean_average_precision,
            "ema_map": averaged,
            "micro_f1": winner.micro_f1,
            "macro_f1": winner.macro_f1,
        }
    assert isinstance(winner, Scores)
    found: dict[str, float | None] = {
        "top1": raw.top1.value,
        "top5": raw.top5.value if raw.top5 else None,
        "recall": winner.mean_recall,
    }
    if isinstance(ema, Scores):
        found |= {"ema_top1": ema.top1.value, "ema_top5": ema.top5.value if ema.top5 else None}
    return found


def _metrics(found: Validated) -> dict[str, Any]:
    """What a checkpoint says of its validation."""
    scores = found.scores
    metrics: dict[str, Any] = {"photos": scores.photos, "loss": scores.loss}
    if isinstance(scores, LabelScores):
        return metrics | {
            "map": scores.mean_average_precision,
            "micro_f1": scores.micro_f1,
            "macro_f1": scores.macro_f1,
        }
    metrics |= {"top1": scores.top1.value, "mean_recall": scores.mean_recall}
    return metrics | ({"top5": scores.top5.value} if scores.top5 else {})
