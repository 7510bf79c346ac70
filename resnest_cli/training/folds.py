"""`--folds K`: how good the network becomes, with few photos; then one fit on all of them.

    for each fold: a network from the same start, trained on the other folds -> its answers to this
    all answers    -> figures with intervals, records, a page; see `evaluation.fold_scores`
    all photos     -> the weights that are kept, by the usual loop

Nothing is chosen by the photos that are held out: every fit has the same number of epochs, and its
last one counts. So no epoch is validated either, in the folds as in the fit on all photos. Of a
frozen backbone the features of all photos are computed once, and each fold is a choice of rows.

A fold that has ended is `resume/fold-<k>.npz`, its answers; one that is being trained has a state
of its own in `resume/fold-<k>/`, from which it goes on, bit for bit; of epochs that take moments,
not each one writes it.
"""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.evaluation import figures, report, thresholds
from resnest_cli.evaluation.evaluate import TOPK, Answered, Gathered
from resnest_cli.evaluation.fold_scores import Figures, FoldScores, figures_of
from resnest_cli.evaluation.label_scores import binary_loss
from resnest_cli.evaluation.scores import answer
from resnest_cli.files import atomic_file, write_text
from resnest_cli.inference.ranking import Record, rank, sigmoid
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.report.pages import PageTable
from resnest_cli.signals import StopRequest
from resnest_cli.text import count, csv_rows
from resnest_cli.training.loop import Trainer
from resnest_cli.training.runs import RunFolder, RunKeeper
from resnest_cli.training.setup import Ready
from resnest_cli.training.state import State, load_state, saving
from resnest_cli.training.step import DivergedError

Float32 = NDArray[np.float32]

_MISTAKES = 60  # on the page
_BETWEEN_STATES = 2.0  # seconds
_INTERVAL = (
    "Figures are means over the folds; their intervals are those of Nadeau and Bengio (2003), "
    "which count the luck of the photos that train, too, and never narrower than Wilson's."
)


@dataclass(frozen=True)
class HeldOut:
    """The answers to all photos, each by a network that did not learn from it.

    `logits` float32 (N, classes), NaN of a photo that could not be read, whose error is in `errors`
    by its place, or that is in no fold. Photos are those of `ready.dataset.train`.
    """

    run: RunFolder
    ready: Ready
    logits: Float32
    errors: dict[int, str]

    @cached_property
    def _folds(self) -> NDArray[np.int64]:
        return np.array(self.ready.dataset.folds, np.int64)

    @cached_property
    def _readable(self) -> NDArray[np.bool_]:
        return np.asarray(~np.isnan(self.logits).any(axis=1), np.bool_)

    @cached_property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of the classes, fitted on all answers, where a photo may have several labels."""
        return self._thresholds(self._readable)

    def _thresholds(self, chosen: NDArray[np.bool_]) -> tuple[float, ...] | None:
        """The same, fitted on the answers to some of the photos."""
        data = self.ready.dataset
        if not data.multi_label:
            return None
        truth = np.zeros(self.logits.shape, np.bool_)
        for row, sample in zip(truth, data.train, strict=True):
            row[list(sample.labels)] = True
        precision = self.ready.config.min_precision
        return thresholds.fitted(truth[chosen], sigmoid(self.logits[chosen]), precision)

    @property
    def title(self) -> str:
        """How many photos there are answers to, in how many folds."""
        photos, folds = self.scores.photos, len(self.scores.folds)
        return f"{count(sum(photos), 'photo')}, each held out once in {folds} folds"

    @cached_property
    def scores(self) -> FoldScores:
        """The figures of the folds; of several labels at thresholds of all other folds' answers."""
        there = self._readable
        found, counts = list[Figures](), list[int]()
        for number in range(1, (self.ready.config.folds or 0) + 1):
            inside = self._folds == number
            limits = self._thresholds(there & ~inside)
            photos, figures_ = figures_of(self._gathered(np.flatnonzero(inside), limits))
            counts.append(photos)
            found.append(figures_)
        asked = np.count_nonzero(self._folds)
        return FoldScores(tuple(counts), tuple(found), len(self._folds) - asked / len(found))

    @property
    def metrics(self) -> dict[str, Any]:
        """What the checkpoint says: the means, and the interval of the first figure."""
        scores = self.scores
        means = {name: scores.spread(name).mean for name in scores.names}
        first = scores.spread(scores.names[0])
        return {
            "photos": sum(scores.photos),
            "folds": len(scores.folds),
            **means,
            f"{scores.names[0]}_interval": [first.low, first.high],
        }

    def _gathered(self, places: NDArray[np.int64], limits: tuple[float, ...] | None) -> Gathered:
        """The answers to some of the photos, as `evaluate` has them; `limits` are thresholds."""
        ready, data, known = self.ready, self.ready.dataset, None
        trained_on = 0 if ready.model is None else None
        learned: Callable[[bytes], bool] = lambda _: False  # noqa: E731
        if ready.model is not None and (known := ready.model.trained_on) is not None:
            trained_on, learned = known.photos, known.membership(ready.model.path)
        return Gathered(
            items=tuple(self._answered(place, limits, learned) for place in places.tolist()),
            model=f"{ready.network.variant.id} in {ready.config.folds} folds",
            path=str(self.run.weights("best")),
            split=None,
            trained_on=trained_on,
            class_names=data.class_names,
            class_ids=data.class_ids,
            temperature=1.0,
            notes=(),
            thresholds=limits,
        )

    def _answered(
        self, place: int, limits: tuple[float, ...] | None, learned: Callable[[bytes], bool]
    ) -> Answered:
        data, row, model = self.ready.dataset, self.logits[place], self.ready.network.variant.id
        sample, several = data.train[place], limits is not None
        name = os.path.abspath(sample.path)  # noqa: PTH100 - the same when resumed
        truth = sample.labels if several else (sample.label,)
        if np.isnan(row).any():
            error = self.errors.get(place, "cannot be read")
            return Answered(Record(name, model, error, several=several), truth)
        (found,) = rank(row[None], data.class_names, TOPK, thresholds=limits)
        record = Record(name, model, predictions=found, several=several)
        if several:
            before, loss = 0, binary_loss(row, truth, 1.0)
        else:
            before, loss = answer(row, sample.label, 1.0)
        return Answered(record, truth, before, loss, row, learned(sample.digest))

    def write(self) -> str:
        """Writes `folds.csv`, `out_of_fold/` and `folds.html`; returns what they are worth."""
        run = self.run
        with saving(run.path):
            write_text(run.path / "folds.csv", csv_rows(self.scores.rows()))
        found = figures.evaluated(self._gathered(np.flatnonzero(self._folds), self.thresholds))
        summary, folder = figures.summary(found), run.path / "out_of_fold"
        report.write_all(folder, found, summary)
        mistakes = tuple(item for item, _ in found.worst(_MISTAKES))
        page = report.evaluation_page(replace(found, judged=mistakes), summary, folder)
        page.title = f"{run.path.name}: {summary['model']}"
        page.subtitle = f"{self.title}, by a network that did not learn from it. {_INTERVAL}"
        page.figures = [(row[0], row[1], f"{row[2]} (95%)") for row in self.scores.shown()[1:]]
        columns, *cells = self.scores.shown_by_fold()
        table = PageTable("Folds", columns, cells, frozenset(range(1, len(columns))))
        page.tables = [table, *page.tables]
        page.photos_title = "The surest mistakes, each of a network that did not know the photo"
        page.write(run.path / "folds.html")
        return figures.training_note(summary)


@dataclass(frozen=True, slots=True)
class _StateKeeper(RunKeeper):
    """Keeps what a fold goes on from, and nothing else; at a signal, and every few seconds.

    An epoch of a frozen backbone's features takes less time than writing its state. What a kill
    loses is trained again, to the same bits.
    """

    stop: StopRequest = field(default_factory=StopRequest)
    saved: list[float] = field(default_factory=lambda: [time.monotonic()])  # when last

    def save_state(self, state: State) -> None:
        """Everything that a resumed fold needs."""
        due = time.monotonic() - self.saved[0] >= _BETWEEN_STATES
        if due or self.stop.signal is not None:
            RunKeeper.save_state(self, state)
            self.saved[0] = time.monotonic()

    def save_weights(self, *_: Any, **__: Any) -> None:
        """No weights of a fold are kept."""

    def save_rows(self, *_: Any) -> None:
        """Nor a row for each of its epochs."""

    def save_lost(self, *_: Any) -> None:
        """The fit on all photos lists them."""


def cross_validate(
    run: RunFolder, ready: Ready, stop: StopRequest, display: TrainingDisplay
) -> HeldOut:
    """Trains on all folds but one, in turns, and asks about that one.

    Raises:
        StoppedError: a signal; everything so far is saved.
        DivergedError, DataLostError: as of a fit.
    """
    config, data = ready.config, ready.dataset
    if config.cached:
        ready.kept = ready.features(run.states, stop, display)
    logits = np.full((len(data.train), len(data.class_ids)), np.nan, np.float32)
    errors: dict[int, str] = {}
    total = config.folds or 0
    for number in range(1, total + 1):
        stop.check()
        places = [place for place, fold in enumerate(data.folds) if fold == number]
        path = run.states / f"fold-{number}.npz"
        found = _read(path, len(places), len(data.class_ids))
        if found is None:
            display.fold = f"Fold {number}/{total}, "
            try:
                found = _answers(run, ready, number, stop, display)
            finally:
                display.fold = ""
            _write(path, *found)
        shutil.rmtree(_folder(run, number).path, ignore_errors=True)
        logits[places] = found[0]
        errors |= {places[place]: error for place, error in found[1].items()}
    return HeldOut(run, ready, logits, errors)


def _folder(run: RunFolder, number: int) -> RunFolder:
    return RunFolder(run.states / f"fold-{number}")


def _answers(
    run: RunFolder,
    whole: Ready,
    number: int,
    stop: StopRequest,
    display: TrainingDisplay,
) -> tuple[Float32, dict[int, str]]:
    """Trains without one fold, and asks about it: logits in its order, errors by place."""
    folder, every = _folder(run, number), whole.dataset.folds
    ready = whole.held_out(number)
    if whole.kept is not None:
        train, val = (
            [place for place, fold in enumerate(every) if (fold == number) is asked]
            for asked in (False, True)
        )
        ready.kept = whole.kept[0].of(train), whole.kept[0].of(val)
    try:
        task = ready.task(folder, stop, display)
        keeper = _StateKeeper(folder, CheckpointInfo(), {}, stop=stop)
        state = load_state(folder.states, display.message)
        trainer = Trainer(replace(task, val=None), keeper, display, stop, state)
        trainer.run()
        assert task.val is not None
        logits, errors = trainer.logits(task.val)
    except DivergedError as error:
        raise DivergedError(f"fold {number} of {whole.config.folds}: {error}") from None
    finally:
        ready.close()
    return logits.numpy(), errors


def _write(path: Path, logits: Float32, errors: dict[int, str]) -> None:
    with saving(path), atomic_file(path) as file:
        np.savez(file, logits=logits, errors=np.array(json.dumps(errors)))


def _read(path: Path, photos: int, classes: int) -> tuple[Float32, dict[int, str]] | None:
    """The answers of a fold that has ended; None where they are missing or damaged."""
    try:
        with np.load(path) as found:
            logits, errors = found["logits"], json.loads(str(found["errors"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if logits.shape != (photos, classes) or logits.dtype != np.float32:
        return None
    return logits, {int(place): str(error) for place, error in errors.items()}
