"""What `train` and `finetune` print: the data, the plan, progress, a row per epoch, the end.

All of it goes to stderr, but for `--dry-run`, whose output is what was asked for: stdout.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from resnest_cli.data.label_sets import count_labels
from resnest_cli.output.label_counts import show_label_counts
from resnest_cli.output.messages import Bar, Line, message
from resnest_cli.output.sink import emit, show_table
from resnest_cli.progress import Progress
from resnest_cli.text import count, duration, percent, printable, printable_name, wrapped

if TYPE_CHECKING:
    from resnest_cli.data.dataset import DataSet
    from resnest_cli.training.lost_photos import LostPhoto
    from resnest_cli.training.state import EpochRow

# Title, width, and the cell of an epoch.
_Column = tuple[str, int, Callable[["EpochRow"], str]]

_WIDTH, _INDENT = 80, 10  # columns of the plan, and of its names
_ROWS, _SHORT = 20, 1.0  # epochs that are shown of many, where they take less than so many seconds
_FEW = 10  # unreadable photos and class names that are listed before "and N more"

# What a run folder holds, as the summary names it.
_FILES = {
    "folds.csv": "the figures of each fold, their means and intervals",
    "folds.html": "the same, and the surest mistakes",
    "out_of_fold": "the answers to photos that were held out, as of evaluate",
    "weights/best.safetensors": "the weights of the best epoch",
    "weights/last.safetensors": "the weights of the last epoch",
    "results.csv": "a row per epoch",
    "recall.csv": "the recall of each class, per epoch",
    "average_precision.csv": "the average precision of each class, per epoch",
    "report.html": "all of it on one page",
    "curves.png": "losses, accuracy and learning rate",
    "confusion_matrix.png": "which classes are taken for which",
    "val_predictions.jpg": "validation photos with their predictions",
    "train_batch.jpg": "training photos as the network sees them",
    "args.toml": "every setting; --config args.toml repeats the run",
    "split.csv": "which photos trained and which validated",
    "lost.csv": "photos that could not be read any more",
    "shards.json": "which shards trained and which validated",
}

# The same where the folds said how good it is, and all photos trained.
_OF_FOLDS = {
    "weights/best.safetensors": "the weights of the fit on all photos",
    "weights/last.safetensors": "the same, not averaged",
    "split.csv": "in which fold each photo was held out",
}


class TrainingDisplay:
    """Shows a training run; a context manager, which removes the live line at its end.

    With `dry_run`, data and plan go to stdout, with a row for every class and every bad photo.
    """

    def __init__(self, *, dry_run: bool = False) -> None:
        self._dry_run = dry_run
        self._status = Bar(logged=True)
        self._epochs = self._steps = self._lost = 0
        self.fold = ""  # such as "Fold 2/5, "; while it is set, epochs get no row
        self._columns: list[_Column] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._status.clear()

    def message(self, text: str) -> None:
        """A line above the live one."""
        message(text)

    def _say(self, text: str) -> None:
        if self._dry_run:
            emit(printable(text) + "\n")
        else:
            message(text)

    def progress(self, title: str) -> Progress:
        """Shows how far something has come, until another begins."""
        self._status.title = title
        return self._status

    @contextmanager
    def showing(self, title: str) -> Iterator[Progress]:
        """Shows how far something has come; the line goes at the end."""
        with self._status:
            yield self.progress(title)

    # Before the training

    def data(self, dataset: "DataSet", listed: str = "split.csv") -> None:
        """Counts, notes, and the photos left out, which the file `listed` has all of."""
        if self._dry_run:
            _show_classes(dataset)
            emit("\n")
        self.plan([("data", _counts(dataset))])
        for note in dataset.notes:
            self._say(note)
        bad = dataset.bad
        if bad:
            self._say(f"{count(len(bad), 'photo')} cannot be read and will be left out:")
        shown = len(bad) if self._dry_run else _FEW
        for photo in bad[:shown]:
            self._say(f"  {printable_name(photo.name)}: {photo.error}")
        if len(bad) > shown:
            self._say(f"  and {len(bad) - shown:,} more; {listed} lists them all.")

    def plan(self, lines: Sequence[tuple[str, str]]) -> None:
        """Names and what they are, in two columns; long values go on below themselves."""
        from rich.cells import cell_len  # Chinese letters take two columns

        indent = max(_INDENT, *(len(name) + 2 for name, _ in lines)) if lines else 0
        for name, value in lines:
            first, *rest = wrapped(printable_name(value), _WIDTH - indent, cell_len)
            self._say(f"{name:<{indent}}{first}".rstrip())
            for line in rest:
                self._say(" " * indent + line)

    # The training itself

    @property
    def statistics(self) -> Progress:
        """Shows how many photos batch norm's statistics have seen."""
        return self.progress("Computing statistics")

    def start(self, *, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins, or goes on, with `first_epoch` of `epochs`, of so many steps each."""
        self._status.clear()
        self._epochs, self._steps = epochs, steps
        if 1 < first_epoch <= epochs:
            message(f"{self.fold}Epoch {first_epoch} of {epochs} is next.")

    def step(
        self, *, epoch: int, step: int, loss: float, lr: float, speed: float, left: float
    ) -> None:
        """A step is done, `step` of this epoch, from 1; `speed` in photos/s, `left` in seconds.

        What is not known yet is not finite.
        """

        def line() -> Line:
            parts = [f"loss {_loss(loss)}"]
            parts += [f"{duration(left)} left"] if math.isfinite(left) else []
            parts += [f"{speed:,.0f} photos/s"] if math.isfinite(speed) else []
            parts.append(f"lr {lr:.3g}")
            title = f"{self.fold}epoch" if self.fold else "Epoch"
            return Line(f"{title} {epoch}/{self._epochs}", step, self._steps, tuple(parts))

        self._status.show(line)

    def validating(self, done: int, total: int) -> None:
        """So many batches of the validation are done."""
        self._status.show(lambda: Line("Validating", done, total))

    def epoch(self, row: "EpochRow") -> None:
        """A row of the table; its header before the first. Of many short epochs, some are shown."""
        if self.fold:
            return
        every = math.ceil(self._epochs / _ROWS)
        if row.seconds < _SHORT and row.epoch % every and 1 < row.epoch < self._epochs:
            return
        if not self._columns:
            if row.seconds < _SHORT and every > 1:
                message(f"The epochs are short: one in {every} is shown, results.csv has all.")
            self._columns = _columns(row, self._epochs)
            header = "  ".join(title.rjust(width) for title, width, _ in self._columns)
            message(header, style="1")
        line = "  ".join(cell(row).rjust(width) for _, width, cell in self._columns)
        best = row.best and row.val_loss is not None  # else each new one is
        message(line + " best" * best, style="32" if best else "")

    def lost(self, new: "Sequence[LostPhoto]", emptied: "Sequence[LostPhoto]") -> None:
        """Photos that cannot be read any more; `emptied` were the last of their classes."""
        for photo in new[: max(0, _FEW - self._lost)]:
            message(f"{printable_name(photo.name)} {photo.error}; it is left out from here on.")
        self._lost += len(new)
        if self._lost - len(new) < _FEW < self._lost:
            message("More photos cannot be read any more; lost.csv lists them all.")
        for photo in emptied:
            message(
                f"{printable_name(photo.name)} was the last photo of its class to learn from: the "
                "rest of the run teaches nothing of that class."
            )

    def folds(self, title: str, rows: Sequence[Sequence[str]], note: str) -> None:
        """What the folds came to, before the fit on all photos; `note` says what that is worth."""
        self._status.clear()
        message(f"\n{title}:")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            message("  ".join([row[0].ljust(widths[0]), *cells]))
        if note:
            message(note)
        message("\nThe fit on all photos, whose weights are kept:")

    # After it

    def summary(
        self, folder: Path, rows: Sequence["EpochRow"], command: str, seconds: float, lost: int = 0
    ) -> None:
        """How good it became, what lies where, a command to try.

        The whole run took so many seconds; `lost` photos were left out.
        """
        self._status.clear()
        best = [row for row in rows if row.best]
        if best and best[-1].val_loss is not None:
            row = best[-1]
            score = f"{percent(row.score(row.which))}{' (EMA)' if row.which == 'ema' else ''}"
            text = f"Best top-1: {score}, mean recall {percent(row.recall)}"
            if row.map is not None:
                text = f"Best mAP: {score}, macro F1 {percent(row.macro_f1)}"
            message(f"\n{text}, in epoch {row.epoch} of {len(rows)}. It took {duration(seconds)}.")
        if lost:
            message(
                f"{count(lost, 'photo')} could not be read, for a while or to the end (lost.csv). "
                "The same seed may give other weights with all photos."
            )
        message(f"In {printable_name(str(folder))}:")
        unvalidated = bool(rows) and rows[-1].val_loss is None
        for name, what in _FILES.items():
            if (folder / name).exists():
                message(f"  {name:<26}{_OF_FOLDS.get(name, what) if unvalidated else what}")
        message(f"Try it:\n  {command}")

    def learning_rate(self, rate: float, picture: Path) -> None:
        """The learning rate that was found, on stdout as an option that can be used as it is."""
        self._status.clear()
        emit(f"--lr {rate:g}\n")
        message(f"The curve: {printable_name(str(picture))}")


def _columns(first: "EpochRow", epochs: int) -> list[_Column]:
    """The columns of the table of epochs, which its first row decides. At most 80 wide."""
    width = max(5, 2 * len(str(epochs)) + 1)
    columns: list[_Column] = [
        ("Epoch", width, lambda row: f"{row.epoch}/{epochs}"),
        ("Loss", 7, lambda row: _loss(row.train_loss)),
        ("Val loss", 8, lambda row: _loss(row.val_loss)),
        ("Top-1", 7, lambda row: percent(row.top1)),
        ("Top-5", 7, lambda row: percent(row.top5)),
        ("EMA top-1", 9, lambda row: percent(row.ema_top1)),
        ("Recall", 7, lambda row: percent(row.recall)),
        ("mAP", 7, lambda row: percent(row.map)),
        ("EMA mAP", 7, lambda row: percent(row.ema_map)),
        ("Micro F1", 8, lambda row: percent(row.micro_f1)),
        ("Macro F1", 8, lambda row: percent(row.macro_f1)),
        ("Time", 8, lambda row: duration(row.seconds)),
    ]
    return [column for column in columns if column[2](first) != percent(None)]


def _loss(loss: float | None) -> str:
    """A loss in at most 7 characters."""
    if loss is None:
        return percent(None)
    return f"{loss:.4f}" if abs(loss) < 100 else f"{loss:.3g}"


def _counts(dataset: "DataSet") -> str:
    """How many photos and classes there are, and the names of the first classes."""
    names = dataset.class_names
    shown = ", ".join(map(printable_name, names[:_FEW])) + (", ..." if len(names) > _FEW else "")
    several = ", of which a photo may have several, or none" if dataset.multi_label else ""
    split = "as the data have it" if dataset.own_split else "split by class"
    if dataset.multi_label and not dataset.own_split:
        split = "split by labels"
    if dataset.folds:
        return (
            f"{dataset.train_photos:,} photos in {max(dataset.folds)} folds; {len(names):,} "
            f"classes: {shown}{several}"
        )
    if (shards := dataset.shards) is not None:
        split = f"in {len(shards.train):,} and {len(shards.val):,} shards"
    loose = f", {len(dataset.unlabelled):,} of them without a label" if dataset.unlabelled else ""
    if dataset.unlabelled and not dataset.train:
        split, loose = "by the teacher's first answers", ", none with a label"
    return (
        f"{dataset.train_photos:,} photos to train on{loose}, {dataset.val_photos:,} to validate "
        f"({split}); {len(names):,} classes: {shown}{several}"
    )


def _show_classes(dataset: "DataSet") -> None:
    """A table on stdout: each class and how many photos it has on either side."""
    if dataset.multi_label:
        sides = {"Training": dataset.train, "Validation": dataset.val}
        ids = dataset.class_ids
        counted = {
            title: count_labels([ids[label] for label in one.labels] for one in photos)
            for title, photos in sides.items()
        }
        show_label_counts(ids, counted, dataset.class_names)
        return
    train, val = dataset.train_counts, dataset.val_counts
    named = dataset.class_names != dataset.class_ids
    titles = ["Class", *(["Name"] if named else []), "Training", "Validation"]
    rows = []
    for label, (id_, name) in enumerate(zip(dataset.class_ids, dataset.class_names, strict=True)):
        if train[label] or val[label]:  # of a teacher's classes most may have none
            rows.append([id_, *([name] if named else []), f"{train[label]:,}", f"{val[label]:,}"])
    if loose := len(dataset.unlabelled):
        validating = f"{dataset.val_photos - sum(val):,}"
        rows.append(["no label", *([""] if named else []), f"{loose:,}", validating])
    total = ["all", *([""] if named else [])]
    rows.append([*total, f"{dataset.train_photos:,}", f"{dataset.val_photos:,}"])
    show_table(titles, rows, "llr" if named else "lr")
