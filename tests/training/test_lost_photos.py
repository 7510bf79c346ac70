"""Photos that vanish in the middle of a run: left out, counted, and the end where too many do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resnest_cli.data.dataset import DataSet, Sample
from resnest_cli.data.labelled_photos import Side
from resnest_cli.evaluation.scores import Meter
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.variants import Preprocessing
from resnest_cli.signals import StopRequest
from resnest_cli.training import cached_features
from resnest_cli.training.loader import Batch
from resnest_cli.training.loop import Trainer
from resnest_cli.training.lost_photos import (
    DataLostError,
    Lost,
    LostPhoto,
    LostPhotos,
    found_again,
)
from resnest_cli.training.order import Draw
from resnest_cli.training.runs import RunFolder, RunKeeper
from resnest_cli.training.state import State
from resnest_cli.training.step import Task
from tests.conftest import make_photo
from tests.networks import TINY
from tests.training.test_loop import (
    CLASSES,
    CONFIG,
    STEPS,
    Kept,
    Photos,
    Validation,
    Watch,
    network,
    same,
)

COUNTS, VAL = (6, 4, 2), 5


def lost(side: Side, labels: Sequence[int], back: bool = False) -> list[LostPhoto]:
    return [
        LostPhoto(side, f"{side}{place}", label, 1, "does not exist", back)
        for place, label in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("photos", "words"),
    [
        ([], None),
        (lost("train", [0] * 6), None),  # half, and two classes are left
        (lost("train", [0] * 6 + [1]), "7 of 12 training photos cannot be read any more"),
        (lost("train", [0] * 6 + [1], back=True), None),
        (lost("val", [0, 1]), None),
        (lost("val", [0, 1, 2]), "3 of 5 validation photos cannot be .* such as val2: does not"),
        (lost("train", [1] * 4), None),
        (lost("train", [1] * 4 + [2] * 2), "the training photos of all classes but one cannot"),
    ],
)
def test_when_data_count_as_gone(photos: list[LostPhoto], words: str | None) -> None:
    found = LostPhotos(photos, COUNTS, VAL)
    if words is None:
        found.check()
        return
    with pytest.raises(DataLostError, match=rf"{words}.*disk.*--resume DATA") as error:
        found.check()
    assert error.value.exit_code == 1


def test_each_is_counted_once_and_the_last_of_a_class_is_told() -> None:
    found = LostPhotos([], COUNTS, VAL)
    one, two = Lost(7, 2, "a", "does not exist"), Lost(8, 2, "b", "is truncated")
    (first,) = found.add("train", [one, one], 3)
    assert (first.name, first.epoch, found.emptied([first])) == ("a", 3, [])
    (second,) = found.add("train", [one, two], 4)
    assert found.emptied([second]) == [second]
    first.back = True  # a resumed run found it, and it goes once more
    assert found.add("train", [one], 5) == [first]
    assert [photo.name for photo in found.photos] == ["a", "b"]
    assert found.add("val", [one], 5)[0].side == "val"


def test_what_is_back(tmp_path: Path) -> None:
    make_photo(tmp_path / "train0.jpg").rename(tmp_path / "train0")
    samples = [Sample(str(tmp_path / name), name, 0) for name in ("train0", "train1", "val0")]
    dataset = DataSet(("a",), ("a",), tuple(samples[:2]), tuple(samples[2:]))
    photos = [*lost("train", [0, 0]), *lost("val", [0])]
    assert found_again(photos, dataset) == 1
    assert [photo.back for photo in photos] == [True, False, False]


def test_the_list(tmp_path: Path) -> None:
    photos = [LostPhoto("val", "a,\udce9\n.jpg", 1, 2, "is empty (0 bytes)")]
    info = CheckpointInfo(variant=TINY, class_names=("cat", "dog"))
    RunKeeper(RunFolder(tmp_path), info, {}).save_lost(photos)
    assert (tmp_path / "lost.csv").read_bytes() == (
        b'path,class_name,split,epoch,error\n"a,\xe9\n.jpg",dog,val,2,is empty (0 bytes)\n'
    )


def test_answers_keep_the_places_of_lost_photos() -> None:
    meter, logits = Meter(2), torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    meter.update(logits, torch.tensor([0, 0]), np.array([True, False, True]))
    meter.update(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), np.array([False]))
    found = meter.result()
    assert found.predicted.tolist() == [0, -1, 1, -1]
    assert (found.scores.photos, found.scores.top1.value) == (2, 0.5)
    assert found.scores.confusion.tolist() == [[1, 1], [0, 0]]


class Vanishing(Photos):
    """Of the batches with these numbers, counted over all epochs, so many photos are left."""

    def __init__(self, left: Mapping[int, int]) -> None:
        self.left = left

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for position, batch in enumerate(super().epoch(epoch, start), start=start):
            yield without(batch, self.left.get(epoch * STEPS + position, 6), str(position))


def without(batch: Batch, left: int, name: str) -> Batch:
    photos = [Lost(place, place, f"{name}/{place}", "does not exist") for place in range(left, 6)]
    return Batch(batch.photos[:left], batch.labels[:left], batch.indices[:left], photos)


class Listening(Watch):
    """Knows what it was told of photos that are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def lost(self, new: Sequence[LostPhoto], emptied: Sequence[LostPhoto]) -> None:
        self.told += [photo.name for photo in new]


class Listing(Kept):
    def save_lost(self, photos: Sequence[LostPhoto]) -> None:
        self.lost = [photo.name for photo in photos]


def trainer(
    left: Mapping[int, int], kept: Kept, state: State | None = None, accumulated: int = 1
) -> tuple[Trainer, Listening]:
    config, watch = replace(CONFIG, epochs=2, grad_accum_steps=accumulated), Listening()
    task = Task(
        config, network(config), Vanishing(left), Validation(), CLASSES,
        train_counts=(100,) * CLASSES, val_photos=12,
    )  # fmt: skip
    return Trainer(task, kept, watch, StopRequest(), state), watch


def test_a_smaller_batch_teaches_and_one_of_too_few_is_passed_over() -> None:
    outcomes = {}
    for left in (6, 4, 2, 1, 0):
        kept = Listing()
        found, watch = trainer({1: left}, kept)
        progress = found.run()
        assert progress.step == 2 * STEPS
        assert len(watch.losses) == 2 * STEPS - (left < 2)
        assert watch.told == [f"1/{place}" for place in range(left, 6)]
        assert left == 6 or kept.lost == watch.told
        outcomes[left] = kept.weights["last"]
    assert same(outcomes[1], outcomes[0])
    assert not any(same(outcomes[one], outcomes[two]) for one, two in ((6, 4), (4, 2), (2, 1)))


def test_a_step_of_several_batches_is_passed_over_as_a_whole() -> None:
    outcomes = []
    for left in ({1: 0}, {0: 0}, {0: 0, 1: 0}):
        found, watch = trainer(left, kept := Listing(), accumulated=2)
        assert found.run().step == 4
        assert len(watch.losses) == 3
        outcomes.append(kept.weights["last"])
    for name, tensor in outcomes[0].items():  # its statistics were seen before that was known
        assert "running" in name or "num_batches" in name or torch.equal(tensor, outcomes[1][name])


def test_data_that_are_gone_end_the_run_where_it_can_go_on_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resnest_cli.training.loop.MOST_IN_A_ROW", 12)  # two batches
    straight, kept, again = Listing(), Listing(), Listing()
    trainer({}, straight)[0].run()
    trainer({STEPS + 1: 0, STEPS + 2: 2, STEPS + 3: 0}, kept)[0].run()  # not in a row
    found, watch = trainer({STEPS + 1: 0, STEPS + 2: 0, STEPS + 3: 0}, kept)
    with pytest.raises(DataLostError, match="12 training photos, one after the other, cannot be"):
        found.run()
    assert len(watch.losses) == STEPS + 1
    state = kept.states[-1]
    assert (state.record.epoch, state.record.position) == (1, 1)
    trainer({}, again, state)[0].run()
    assert same(again.weights["last"], straight.weights["last"])


class Engine:
    """Features are the mean colours of the photos that it is given."""

    def output(self, photos: np.ndarray, _: str) -> np.ndarray:
        return photos.mean(axis=(2, 3)).astype(np.float32)

    def fingerprint(self, _: int) -> str:
        return "means"


def test_features_of_what_is_there(tmp_path: Path) -> None:
    samples = []
    for index in range(12):
        path = make_photo(tmp_path / f"{index}.jpg", (50, 40), seed=index)
        samples.append(Sample(str(path), path.name, index % 3))

    def features(folder: str) -> cached_features.Features:
        preprocessing = Preprocessing(32, 0.9, "bilinear")
        extractor = cached_features.Extractor(Engine(), preprocessing, "", tmp_path / folder)  # type: ignore[arg-type]
        return extractor.features(samples, mirrored=True, progress=lambda _: None)

    whole = features("whole")
    assert not whole.lost
    Path(samples[5].path).unlink()
    found = features("some")
    assert not list((tmp_path / "some").rglob("*.npy"))  # to be tried again by a run that goes on
    there = [place for place in range(12) if place != 5]
    assert torch.equal(found.values[there], whole.values[there])
    assert found.lost == {5: Lost(5, 2, "5.jpg", "does not exist")}
    made = [cached_features.FeatureBatches(f, Draw(4, 0), hflip=0.5) for f in (whole, found)]
    batches = [list(one.epoch(0)) for one in made]
    for one, two in zip(*batches, strict=True):
        kept = [place for place, index in enumerate(one.indices) if index != 5]
        assert two.indices == [one.indices[place] for place in kept]
        assert torch.equal(two.photos, one.photos[kept])
    (batch,) = cached_features.FeatureBatches(found, Draw(1024)).epoch(0)
    assert (batch.indices, [one.place for one in batch.lost]) == (there, [5])
