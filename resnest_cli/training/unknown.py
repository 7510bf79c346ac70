"""What a run keeps in its best checkpoint so that `predict --unknown` can serve.

After the last epoch the best weights see, in evaluation mode and prepared as `predict` prepares
photos, at most `MOST_TRAIN` training photos (a seeded draw, as many of each class as there are) and
`MOST_VAL` validation photos; of shards the first ones, which `resnest pack` has mixed. Of a frozen
backbone's features, which are on disk, `MOST_ROWS` serve. `inference.unknown` says what becomes of
them. A run that is killed meanwhile repeats this pass: it is short beside an epoch.

Only `best` has it: `last` is where a run may go on.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from resnest_cli.data.dataset import Sample
from resnest_cli.data.seeds import drawn
from resnest_cli.data.shards import ShardSide
from resnest_cli.errors import ResnestError
from resnest_cli.inference.unknown import SHARES, Unknown, fitted
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import set_metadata
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.progress import Progress, checking
from resnest_cli.signals import StoppedError, StopRequest
from resnest_cli.text import count
from resnest_cli.training.cached_features import FeatureBatches
from resnest_cli.training.loader import Batches
from resnest_cli.training.order import Draw, ShardPhotos
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.setup import Ready
from resnest_cli.training.step import BatchSource, Task, memory_errors

MOST_TRAIN, MOST_VAL = 2000, 1000  # photos
MOST_ROWS = 10_000  # of either; of 2,048 features 0.5 GB of memory while they are measured

Float32 = NDArray[np.float32]
Both = tuple[Float32, Float32]  # features (N, num_features) and logits (N, classes)


def keep(
    run: RunFolder, ready: Ready, task: Task, stop: StopRequest, display: TrainingDisplay
) -> None:
    """Writes it into the header of `best`, and says for which shares there are too few photos.

    Where that cannot be done, a message says so: it is worth less than the run. Where a photo may
    have several labels nothing is kept: the distance takes the classes' softmax for granted; nor
    where none validates, as the thresholds are of photos that did not train.

    Raises:
        StoppedError: a signal.
    """
    if ready.dataset.multi_label or task.val is None:
        return
    best = run.weights("best")
    try:
        found = _measured(ready, task, checkpoint.instantiate(checkpoint.load(best)), stop, display)
        if found is not None:
            set_metadata(best, unknown=found.text)
    except StoppedError:
        raise
    except ResnestError as error:
        display.message(f"{best} does not keep what --unknown needs: {error}")
        return
    few = [share for share in SHARES if found is not None and share < found.least]
    if found is not None and few:
        display.message(
            f"{count(found.validated, 'validation photo')} are too few for `predict --unknown "
            f"{max(few):.0%}`, which needs {round(1 / max(few)) - 1}."
        )


def _measured(
    ready: Ready, task: Task, network: ResNeSt, stop: StopRequest, display: TrainingDisplay
) -> Unknown | None:
    """None where no training photo can be read any more."""
    if isinstance(task.train, FeatureBatches) and isinstance(task.val, FeatureBatches):
        train, val = (_of_rows(side, network) for side in (task.train, task.val))
    else:
        ready.close()  # the processes of the training's own batches
        show = checking(display.progress("Measuring features"), stop.check)
        data = ready.dataset
        counts = min(MOST_TRAIN, data.train_photos), min(MOST_VAL, data.val_photos)
        train = _of_photos(ready, network, "train", counts, show)
        val = _of_photos(ready, network, "val", counts, show)
    return fitted(train, val) if len(train[0]) else None


def _of_rows(batches: FeatureBatches, network: ResNeSt) -> Both:
    """Of features on disk; of too many those at equal distances, as labelled data are in order."""
    values, _, lost = batches.plain
    there = [place for place in range(len(values)) if place not in lost]
    there = there[:: max(1, -(-len(there) // MOST_ROWS))]
    rows = values[there, 0]
    with torch.inference_mode():
        return rows.numpy(), network.fc(rows).numpy()


def _of_photos(
    ready: Ready, network: ResNeSt, side: ShardSide, counts: tuple[int, int], show: Progress
) -> Both:
    config, train = ready.config, side == "train"
    samples: Sequence[Sample] | ShardPhotos
    if ready.dataset.shards is not None:
        samples = ShardPhotos(ready.dataset.shards.side(side), len(ready.dataset.class_ids))
    else:
        every = ready.dataset.train if train else ready.dataset.val
        samples = chosen(every, counts[not train])
    network, most = network.to(config.device), counts[not train]
    how = Draw(config.batch_size or 1)
    workers = config.workers or 0
    batches = Batches(samples, ready.preprocessing, how, workers=workers, grey=config.grey)
    features = [np.empty((0, network.variant.num_features), np.float32)]
    logits = [np.empty((0, len(ready.dataset.class_ids)), np.float32)]
    try:
        with torch.inference_mode(), memory_errors(config):
            for photos in _photos(batches, most):
                maps = network.forward_features(photos.to(config.device))
                rows = network.forward_head(maps, pre_logits=True)
                features.append(rows.cpu().numpy())
                logits.append(network.fc(rows).cpu().numpy())
                done = sum(map(len, features))
                show(done if train else counts[0] + done, sum(counts))
    finally:
        batches.close()
    return np.concatenate(features), np.concatenate(logits)


def _photos(batches: BatchSource, most: int) -> Iterator[torch.Tensor]:
    """The photos of batches, at most so many."""
    for batch in batches.epoch(0):
        photos = batch.photos[: max(0, most)]
        most -= len(batch.indices) + len(batch.lost)
        if batch.indices:
            yield photos
        if most <= 0:
            return


def chosen(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many, in their order: of each class as many as there are, in turns."""
    if len(samples) <= most:
        return list(samples)
    order = sorted(samples, key=lambda one: (one.label, drawn(0, "order", one.name)))
    ranked = [
        (turn, one)
        for _, members in groupby(order, key=lambda one: one.label)
        for turn, one in enumerate(members)
    ]
    taken = {id(one) for _, one in sorted(ranked, key=lambda pair: pair[0])[:most]}
    return [one for one in samples if id(one) in taken]
