"""`report.html` of a run: curves, confusion matrix, mistakes, epochs, classes, settings."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from resnest_cli.evaluation.scores import class_scores
from resnest_cli.inference.records import Prediction, Record
from resnest_cli.output.messages import percent
from resnest_cli.report.html import Page, Table, picture_of
from resnest_cli.training.metrics import BestAnswers
from resnest_cli.training.resume import Progress
from resnest_cli.training.runs import RunFolder

if TYPE_CHECKING:
    from resnest_cli.training.history import EpochRow
    from resnest_cli.training.setup import Ready

_MISTAKES = 60
_PICTURES = {
    "curves.png": "Losses, accuracy and learning rate",
    "confusion_matrix.png": "Which classes are taken for which",
    "train_batch.jpg": "Training photos as the network sees them",
    "val_predictions.jpg": "Validation photos with their predictions",
}


def training_page(run: RunFolder, ready: "Ready", progress: Progress, best: BestAnswers) -> Page:
    """The page of a run that has ended; photos are read for their thumbnails."""
    config, dataset = ready.config, ready.dataset
    page = Page(
        title=f"{config.command} {ready.network.variant.id}: {run.path.name}",
        subtitle=(
            f"{dataset.train_photos:,} photos to train on, {dataset.val_photos:,} to validate, "
            f"{len(dataset.class_ids):,} classes"
        ),
        figures=_figures(progress),
        pictures=[
            picture_of(title, run.path / name)
            for name, title in _PICTURES.items()
            if (run.path / name).exists()
        ],
        tables=[_epochs(progress.rows), _classes(ready, best), _settings(ready)],
        photos_title="The surest mistakes of the best epoch",
    )
    names = dataset.class_names
    labels = np.array([sample.label for sample in dataset.val], np.int64)
    if len(best.predicted) != len(labels):
        return page
    wrong = np.flatnonzero((best.predicted != labels) & (best.predicted >= 0))
    order = wrong[np.argsort(-best.confidence[wrong], kind="stable")][:_MISTAKES]
    for index in map(int, order):
        sample, predicted = dataset.val[index], int(best.predicted[index])
        answer = Prediction(1, predicted, names[predicted], float(best.confidence[index]))
        record = Record(sample.path, ready.network.variant.id, predictions=(answer,))
        page.add(record, names[sample.label])
    return page


def _figures(progress: Progress) -> list[tuple[str, str, str]]:
    row = next((row for row in progress.rows if row.epoch == progress.best_epoch), None)
    if row is None:
        return []
    ema = row.which == "ema" and row.ema_top1 is not None
    top1, top5 = (row.ema_top1, row.ema_top5) if ema else (row.top1, row.top5)
    figures = [
        ("best top-1", percent(top1), f"epoch {row.epoch}, {'moving average' if ema else 'raw'}"),
        ("top-5", percent(top5), ""),
        ("mean recall", percent(row.recall), ""),
        ("epochs", str(progress.epoch), f"{progress.step:,} steps"),
        ("training speed", f"{row.photos_per_second:,.0f}", "photos/s"),
    ]
    return [figure for figure in figures if figure[1] != "-"]


def _epochs(rows: "list[EpochRow]") -> Table:
    columns = ["Epoch", "Learning rate", "Training loss", "Validation loss", "Top-1", "Top-5",
               "EMA top-1", "Seconds"]  # fmt: skip
    cells = [
        [str(row.epoch), f"{row.lr:.3g}", f"{row.train_loss:.4f}", f"{row.val_loss:.4f}",
         percent(row.top1), percent(row.top5), percent(row.ema_top1), f"{row.seconds:.1f}"]
        for row in rows
    ]  # fmt: skip
    return Table("Epochs", columns, cells, frozenset(range(len(columns))))


def _classes(ready: "Ready", best: BestAnswers) -> Table:
    names = ready.dataset.class_names
    cells = [
        [name, str(one.support), percent(one.precision), percent(one.recall), percent(one.f1)]
        for name, one in zip(names, class_scores(best.confusion), strict=True)
    ]
    columns = ["Class", "Validation photos", "Precision", "Recall", "F1"]
    return Table("Classes in the best epoch", columns, cells, frozenset({1, 2, 3, 4}))


def _settings(ready: "Ready") -> Table:
    cells = [[key, str(value)] for key, value in asdict(ready.config).items() if value is not None]
    return Table("Settings", ["Setting", "Value"], cells)
