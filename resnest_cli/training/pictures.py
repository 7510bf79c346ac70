"""The pictures of a run, from its data, its history and its best weights."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images.batches import Preparation
from resnest_cli.images.decode import decode
from resnest_cli.inference.ranking import softmax
from resnest_cli.model import checkpoint
from resnest_cli.report import plots, sheets
from resnest_cli.training.augment import Augment
from resnest_cli.training.dataset import Sample
from resnest_cli.training.loader import epoch_keys, sample_seed
from resnest_cli.training.metrics import BestAnswers
from resnest_cli.training.mixing import Mixing
from resnest_cli.training.page import training_page
from resnest_cli.training.resume import Progress
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.seeds import derived_seed
from resnest_cli.training.setup import Ready
from resnest_cli.training.sharded import first_photos

_SHOWN = 16

Float32 = NDArray[np.float32]
Notify = Callable[[str], None]


def picture_of_training(folder: Path, ready: Ready, notify: Notify) -> None:
    """`train_batch.jpg`: the first photos of the first epoch as the network sees them."""
    config, samples = ready.config, ready.dataset.train
    if ready.dataset.shards is not None:
        _picture_of_shards(folder, ready, notify)
        return
    labels = [sample.label for sample in samples]
    keys = epoch_keys(
        labels,
        seed=config.seed,
        epoch=0,
        balanced=config.balanced,
        aug_repeats=config.aug_repeats,
    )[:_SHOWN]
    preparation, augment = Preparation(ready.preprocessing), Augment(config, ready.preprocessing)
    photos, shown = [], []
    for key in keys:
        path = samples[key[1]].path
        with contextlib.suppress(ImageError):  # gone since it was checked: training tells
            if ready.cached:  # as the engine sees them; half of them mirrored later
                photos.append(torch.from_numpy(preparation(path)))
            else:
                photos.append(augment(decode(path), sample_seed(config.seed, key)))
            shown.append(labels[key[1]])
    _draw_training(folder, ready, photos, shown, notify)


def _picture_of_shards(folder: Path, ready: Ready, notify: Notify) -> None:
    """The same of the first photos of the first shard."""
    config, shown = ready.config, first_photos(ready.dataset, "train", _SHOWN)
    augment = Augment(config, ready.preprocessing)
    photos, labels = [], []
    for index, photo in enumerate(shown):
        with contextlib.suppress(ImageError):
            image = decode(photo.data)
            photos.append(augment(image, sample_seed(config.seed, (0, index, 0))))
            labels.append(photo.label)
    _draw_training(folder, ready, photos, labels, notify)


def _draw_training(
    folder: Path, ready: Ready, photos: list[Tensor], labels: list[int], notify: Notify
) -> None:
    config, names = ready.config, ready.dataset.class_names
    if not photos:
        return
    batch = torch.stack(photos)
    titles = [names[label] for label in labels]
    mixing = Mixing(config, len(names))
    if mixing.active and not ready.cached:
        seed = derived_seed(config.seed, "step", 0, 0)
        batch, targets = mixing(batch, torch.tensor(labels), seed)
        titles = [_mixed(row, names, config.smoothing) for row in targets.numpy()]
    _drawn(
        folder / "train_batch.jpg",
        lambda path: sheets.train_batch(path, _pixels(batch.numpy(), ready), titles),
        notify,
    )


def _mixed(targets: Float32, names: Sequence[str], smoothing: float) -> str:
    """A label such as "cat 0.7 + dog 0.3"."""
    rest = smoothing / len(names)
    shares = [
        (float((share - rest) / (1 - smoothing)), index) for index, share in enumerate(targets)
    ]
    parts = sorted((part for part in shares if part[0] > 0.01), reverse=True)
    if len(parts) == 1:
        return names[parts[0][1]]
    return " + ".join(f"{names[index]} {share:.2f}" for share, index in parts)


def final_pictures(
    run: RunFolder,
    ready: Ready,
    progress: Progress,
    best: BestAnswers,
    notify: Notify,
) -> None:
    """`curves.png`, `confusion_matrix.png` of the best epoch, `val_predictions.jpg`; `report.html`
    with all of them.
    """
    _drawn(run.path / "curves.png", lambda path: plots.curves(path, progress.rows), notify)
    names = ready.dataset.class_names
    _drawn(
        run.path / "confusion_matrix.png",
        lambda path: plots.confusion_matrix(path, best.confusion, names),
        notify,
    )
    _drawn(
        run.path / "val_predictions.jpg",
        lambda path: _val_predictions(path, run, ready),
        notify,
    )
    _drawn(
        run.path / "report.html",
        lambda path: training_page(run, ready, progress, best).write(path),
        notify,
    )


def _val_predictions(path: Path, run: RunFolder, ready: Ready) -> None:
    network = checkpoint.instantiate(checkpoint.load(run.weights("best")))
    preparation = Preparation(ready.preprocessing)
    sources: list[tuple[str | bytes, int]]
    if ready.dataset.shards is not None:
        shown = first_photos(ready.dataset, "val", _SHOWN)
        sources = [(photo.data, photo.label) for photo in shown]
    else:
        sources = [(sample.path, sample.label) for sample in _spread(ready.dataset.val)]
    found, labels = [], []
    for source, label in sources:
        with contextlib.suppress(ImageError):  # lost meanwhile
            found.append(preparation(source))
            labels.append(label)
    if not found:
        raise ResnestError("none of its photos can be read any more")
    photos = np.stack(found)
    with torch.inference_mode():
        logits = network(torch.from_numpy(photos)).numpy()
    probabilities = softmax(logits)
    best = probabilities.argmax(axis=1)
    names = ready.dataset.class_names
    sheets.val_predictions(
        path,
        _pixels(photos, ready),
        [names[label] for label in labels],
        [names[index] for index in best],
        [float(row[index]) for row, index in zip(probabilities, best, strict=True)],
        [label == index for label, index in zip(labels, best, strict=True)],
    )


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """Up to 16 samples, evenly over all of them and so over the classes."""
    count = min(_SHOWN, len(samples))
    return [samples[index * len(samples) // count] for index in range(count)]


def _pixels(photos: Float32, ready: Ready) -> Float32:
    """Undoes the normalisation: float32 (B, 3, H, W) in [0, 1]."""
    mean = np.asarray(ready.preprocessing.mean, np.float32)[:, None, None]
    std = np.asarray(ready.preprocessing.std, np.float32)[:, None, None]
    pixels: Float32 = np.clip(photos * std + mean, 0, 1)
    return pixels


def _drawn(path: Path, draw: Callable[[Path], None], notify: Notify) -> None:
    """A picture is worth less than the run: where it cannot be drawn, that is said."""
    try:
        draw(path)
    except Exception as error:
        notify(f"{path} was not drawn: {error}")
