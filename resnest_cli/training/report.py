"""The pictures of a run and its page `report.html`, from its data, history and best weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from resnest_cli.data.dataset import UNLABELLED, DataSet
from resnest_cli.data.seeds import derived_seed
from resnest_cli.data.shards import ShardSide, first_photos
from resnest_cli.errors import ResnestError
from resnest_cli.evaluation.scores import class_scores, surest_mistakes
from resnest_cli.inference.ranking import Prediction, Record, sigmoid, softmax
from resnest_cli.model import checkpoint
from resnest_cli.model.variants import Preprocessing
from resnest_cli.output.results import class_table
from resnest_cli.progress import Notify
from resnest_cli.report import plots, sheets
from resnest_cli.report.confusion_matrix import confusion_matrix
from resnest_cli.report.pages import Page, PageTable, picture_of
from resnest_cli.text import percent
from resnest_cli.training import label_report
from resnest_cli.training.augment import Augment, Mixing
from resnest_cli.training.label_report import CLASSES, LabelAnswers
from resnest_cli.training.loader import Batch, batch_of
from resnest_cli.training.order import FixedCrops, FolderOrder, Key
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.setup import Ready
from resnest_cli.training.state import Best, BestAnswers, BestLabelAnswers, EpochRow, RunRecord

_SHOWN, _MISTAKES = 16, 60
_NO_LABEL = "no label"
_WHOLE = 0.995  # a share that is shown without its number
_PICTURES = {
    "curves.png": "Losses, accuracy and learning rate",
    "confusion_matrix.png": "Which classes are taken for which",
    "train_batch.jpg": "Training photos as the network sees them",
    "val_predictions.jpg": "Validation photos with their predictions",
}

Float32 = NDArray[np.float32]


def _drawn(path: Path, draw: Callable[[Path], None], notify: Notify) -> None:
    """A picture is worth less than the run: where it cannot be drawn, a message says so."""
    try:
        draw(path)
    except Exception as error:
        notify(f"{path} was not drawn: {error}")


def picture_of_training(folder: Path, ready: Ready, notify: Notify) -> None:
    """`train_batch.jpg`: the first photos of the first epoch as the network sees them."""
    config, names = ready.config, ready.dataset.class_names
    order = FolderOrder([sample.label for sample in ready.dataset.learned], ready.draw)
    prepare = ready.preprocessing if ready.config.cached else Augment(config, ready.preprocessing)
    batch = _batch(ready, "train", order.keys(0)[:_SHOWN], prepare)
    if not batch.indices:
        return
    photos, titles = batch.photos, _titles(batch.labels, names)
    mixing = Mixing(config, len(names))
    if mixing.active and not ready.config.cached:
        seed = derived_seed(config.seed, "step", 0, 0)
        photos, targets, _ = mixing(photos, batch.labels, seed)
        if config.multi_label:
            titles = _titles(targets, names)
        else:
            titles = [_mixed(row, names, config.smoothing) for row in targets.numpy()]
    pixels = _pixels(photos.numpy(), ready)
    _drawn(
        folder / "train_batch.jpg", lambda path: sheets.train_batch(path, pixels, titles), notify
    )


def _titles(labels: torch.Tensor, names: Sequence[str]) -> list[str]:
    """The labels of a batch as text: "cat", "no label", "cat, dog", "cat 0.70, dog"."""
    if not labels.is_floating_point():
        return [_NO_LABEL if n == UNLABELLED else names[n] for n in labels.tolist()]
    rows = (
        sorted(zip(row, names, strict=True), key=lambda pair: -pair[0]) for row in labels.tolist()
    )
    return [
        ", ".join(
            name if share > _WHOLE else f"{name} {share:.2f}" for share, name in row if share > 0.01
        )
        or _NO_LABEL
        for row in rows
    ]


def _batch(
    ready: Ready, side: ShardSide, keys: Sequence[Key], prepare: Augment | Preprocessing
) -> Batch:
    """These photos of a side, of shards the first ones; those that are gone are not in it."""
    data = ready.dataset
    if data.shards is not None:
        shown = first_photos(data.shards, side, _SHOWN)
        keys = [Key(0, place, photo=photo) for place, photo in enumerate(shown)]
    samples = data.learned if side == "train" else data.val
    config, crops = ready.config, None
    if side == "train" and config.teacher and config.teacher_crops:
        crops = FixedCrops(config.seed, config.teacher_crops)
    columns = data.label_columns
    return batch_of(samples, prepare, keys, config.seed, crops, columns, grey=config.grey)


def _mixed(targets: Float32, names: Sequence[str], smoothing: float) -> str:
    """A label such as "cat 0.7 + dog 0.3", or "cat 0.7 + no label 0.3"."""
    labelled = float(targets.sum())
    rest = smoothing / len(names) * labelled
    shares = [(float((one - rest) / (1 - smoothing)), index) for index, one in enumerate(targets)]
    named = [(share, names[index]) for share, index in shares] + [(1 - labelled, _NO_LABEL)]
    parts = sorted((part for part in named if part[0] > 0.01), reverse=True)
    if len(parts) == 1:
        return parts[0][1]
    return " + ".join(f"{name} {share:.2f}" for share, name in parts)


def _pixels(photos: Float32, ready: Ready) -> Float32:
    """Undoes the normalisation: float32 (B, C, H, W) -> (B, 3, H, W) in [0, 1]."""
    batch, channels, *size = photos.shape
    mean = np.asarray(ready.preprocessing.mean, np.float32)[:channels, None, None]
    std = np.asarray(ready.preprocessing.std, np.float32)[:channels, None, None]
    return np.broadcast_to(np.clip(photos * std + mean, 0, 1), (batch, 3, *size))


def final_pictures(
    run: RunFolder, ready: Ready, record: RunRecord, best: Best, notify: Notify
) -> None:
    """`curves.png`, `confusion_matrix.png` of the best epoch, `val_predictions.jpg`; `report.html`
    with all of them. Where a photo may have several labels, there is no matrix.
    """
    names = ready.dataset.class_names
    draws: dict[str, Callable[[Path], None]] = {
        "curves.png": lambda path: plots.curves(path, list(map(asdict, record.rows))),
        "val_predictions.jpg": lambda path: _val_predictions(path, run, ready),
    }
    if isinstance(best, BestAnswers):
        matrix = best.confusion
        draws["confusion_matrix.png"] = lambda path: confusion_matrix(path, matrix, names)
    draws["report.html"] = lambda path: training_page(run, ready, record, best).write(path)
    for name, draw in draws.items():
        _drawn(run.path / name, draw, notify)


def _val_predictions(path: Path, run: RunFolder, ready: Ready) -> None:
    """Of up to 16 photos, evenly over all and so over the classes; of shards the first ones."""
    loaded = checkpoint.load(run.weights("best"))
    network = checkpoint.instantiate(loaded)
    total, names = len(ready.dataset.val), ready.dataset.class_names
    count = min(_SHOWN, total)
    keys = [Key(0, number * total // count) for number in range(count)]
    batch = _batch(ready, "val", keys, ready.preprocessing)
    if not batch.indices:
        raise ResnestError("none of its photos can be read any more")
    with torch.inference_mode():
        logits = network(batch.photos).numpy()
    if (limits := loaded.info.thresholds) is not None:
        given = torch.from_numpy(sigmoid(logits) >= np.array(limits)).float()
        said, true = _titles(given, names), _titles(batch.labels, names)
        sheets.val_predictions(path, _pixels(batch.photos.numpy(), ready), true, said)
        return
    probabilities = softmax(logits)
    best, labels = probabilities.argmax(axis=1), batch.labels.tolist()
    sheets.val_predictions(
        path,
        _pixels(batch.photos.numpy(), ready),
        [names[label] for label in labels],
        [names[index] for index in best],
        [float(row[index]) for row, index in zip(probabilities, best, strict=True)],
        [label == index for label, index in zip(labels, best, strict=True)],
    )


def training_page(run: RunFolder, ready: Ready, record: RunRecord, best: Best) -> Page:
    """The page of a run that has ended; photos are read for their thumbnails."""
    config, dataset, names = ready.config, ready.dataset, ready.dataset.class_names
    settings = [[key, str(value)] for key, value in asdict(config).items() if value is not None]
    page = Page(
        title=f"{config.command} {ready.network.variant.id}: {run.path.name}",
        subtitle=(
            f"{dataset.train_photos:,} photos to train on, {dataset.val_photos:,} to validate, "
            f"{len(dataset.class_ids):,} classes"
        ),
        figures=_figures(record),
        pictures=[
            picture_of(title, run.path / name)
            for name, title in _PICTURES.items()
            if (run.path / name).exists()
        ],
        photos_title="The surest mistakes of the best epoch",
    )
    mistakes: Iterator[tuple[int, tuple[Prediction, ...], str | Sequence[str]]]
    if isinstance(best, BestLabelAnswers):
        answers = LabelAnswers.of(best, names, config.min_precision)
        classes, mistakes = answers.tables(), answers.mistakes(_MISTAKES)
    else:
        classes, mistakes = [_classes(names, best)], _mistakes(dataset, best)
    page.tables = [
        _epochs(record.rows), *classes, PageTable("Settings", ["Setting", "Value"], settings)
    ]  # fmt: skip
    variant, several = ready.network.variant.id, dataset.multi_label
    for place, answer, truth in mistakes:
        photo = dataset.val[place].path
        page.add(Record(photo, variant, predictions=answer, several=several), truth)
    return page


def _mistakes(
    dataset: DataSet, best: BestAnswers
) -> Iterator[tuple[int, tuple[Prediction, ...], str]]:
    """Places of validation photos, the class that each was taken for, and the true one."""
    names, labels = dataset.class_names, np.array([one.label for one in dataset.val], np.int64)
    if len(best.predicted) != len(labels):
        return
    for place in surest_mistakes(labels, best.predicted, best.confidence, _MISTAKES):
        predicted, sure = int(best.predicted[place]), float(best.confidence[place])
        yield place, (Prediction(1, predicted, names[predicted], sure),), names[labels[place]]


def _figures(record: RunRecord) -> list[tuple[str, str, str]]:
    row = next((row for row in record.rows if row.epoch == record.best_epoch), None)
    if row is None:
        return []
    which = f"epoch {row.epoch}, {'moving average' if row.which == 'ema' else 'raw'}"
    if row.map is not None:
        return [
            ("best mAP", percent(row.score(row.which)), which),
            ("micro F1", percent(row.micro_f1), "at 0.5"),
            ("macro F1", percent(row.macro_f1), "at 0.5"),
            ("epochs", str(record.epoch), f"{record.step:,} steps"),
            ("training speed", f"{row.photos_per_second:,.0f}", "photos/s"),
        ]
    ema = row.which == "ema" and row.ema_top1 is not None
    top1, top5 = (row.ema_top1, row.ema_top5) if ema else (row.top1, row.top5)
    figures = [
        ("best top-1", percent(top1), which),
        ("top-5", percent(top5), ""),
        ("mean recall", percent(row.recall), ""),
        ("epochs", str(record.epoch), f"{record.step:,} steps"),
        ("training speed", f"{row.photos_per_second:,.0f}", "photos/s"),
    ]
    return [figure for figure in figures if figure[1] != "-"]


def _epochs(rows: list[EpochRow]) -> PageTable:
    if rows and rows[0].map is not None:
        return label_report.epochs(rows)
    columns = ["Epoch", "Learning rate", "Training loss", "Validation loss", "Top-1", "Top-5",
               "EMA top-1", "Seconds"]  # fmt: skip
    cells = [
        [str(row.epoch), f"{row.lr:.3g}", f"{row.train_loss:.4f}", f"{row.val_loss:.4f}",
         percent(row.top1), percent(row.top5), percent(row.ema_top1), f"{row.seconds:.3f}"]
        for row in rows
    ]  # fmt: skip
    return PageTable("Epochs", columns, cells, frozenset(range(len(columns))))


def _classes(names: Sequence[str], best: BestAnswers) -> PageTable:
    scores = zip(names, class_scores(best.confusion), strict=True)
    figures = {"classes": [{"label": name, **asdict(one)} for name, one in scores]}
    return PageTable(*class_table(figures, CLASSES, every=True))
