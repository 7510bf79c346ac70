"""Batches: the same bits whoever prepares them, and no hang whatever happens to the workers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from resnest_cli.data.dataset import Sample
from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images.batches import Preparation
from resnest_cli.model.variants import Preprocessing
from resnest_cli.training import loader as loading
from resnest_cli.training.augment import Augment
from resnest_cli.training.defaults import default_workers
from resnest_cli.training.loader import (
    Batch,
    Batches,
    free_memory,
    read_all,
)
from resnest_cli.training.order import Draw, balanced_order, batch_bounds
from resnest_cli.training.settings import Config
from resnest_cli.training.workers import check_shared_memory
from tests.conftest import make_photo
from tests.processes import running, wait_until_gone

ROOT = Path(__file__).parents[2]
PREPROCESSING = Preprocessing(32, 0.9, "bilinear")
CONFIG = Config(command="train", data="d", model="m", recipe="quick", scale=0.3, aa="rand-m9-n2")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    found = []
    for index in range(11):
        path = make_photo(tmp_path / f"{index}.jpg", (50, 40), seed=index)
        found.append(Sample(str(path), path.name, index % 3))
    return found


def batches(samples: list[Sample], workers: int = 0, **more: object) -> Batches:
    draw: dict = {"batch_size": 4, "seed": 7} | more
    return Batches(samples, Augment(CONFIG, PREPROCESSING), Draw(**draw), workers=workers)


def same(one: Sequence[Batch], two: Sequence[Batch]) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a.photos, b.photos)
        and torch.equal(a.labels, b.labels)
        and a.indices == b.indices
        for a, b in zip(one, two, strict=True)
    )


def test_the_number_of_workers_changes_nothing(samples: list[Sample]) -> None:
    found = {}
    for workers in (0, 1, 2):
        loader = batches(samples, workers)
        found[workers] = [list(loader.epoch(epoch)) for epoch in (0, 1)]
        loader.close()
    assert same(found[0][0], found[1][0])
    assert same(found[0][1], found[2][1])
    assert not same(found[0][0], found[0][1])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_begin_anywhere(samples: list[Sample], workers: int) -> None:
    loader = batches(samples, workers)
    whole = list(loader.epoch(3))
    assert len(whole) == len(loader) == 3
    assert same(list(loader.epoch(3, start=1)), whole[1:])
    abandoned = loader.epoch(2)
    next(abandoned)
    abandoned.close()
    assert same(list(loader.epoch(3, start=2)), whole[2:])
    assert list(loader.epoch(3, start=3)) == []
    loader.close()


def test_an_epoch_has_every_photo_once_with_its_label(samples: list[Sample]) -> None:
    found = list(batches(samples).epoch(0))
    indices = [index for batch in found for index in batch.indices]
    assert sorted(indices) == list(range(11))
    assert indices != list(range(11))
    labels = torch.cat([batch.labels for batch in found])
    assert labels.tolist() == [samples[index].label for index in indices]
    assert all(batch.photos.shape[1:] == (3, 32, 32) for batch in found)


def test_another_seed_another_order_and_other_crops(samples: list[Sample]) -> None:
    one, two = (list(batches(samples, seed=seed).epoch(0)) for seed in (1, 2))
    assert [b.indices for b in one] != [b.indices for b in two]
    crops = [
        {i: photo for b in side for i, photo in zip(b.indices, b.photos, strict=True)}
        for side in (one, two)
    ]
    assert not any(torch.equal(crops[0][index], crops[1][index]) for index in range(11))


@pytest.mark.parametrize(
    ("photos", "size", "bounds"),
    [
        (9, 4, [(0, 4), (4, 9)]), (8, 4, [(0, 4), (4, 8)]), (10, 4, [(0, 4), (4, 8), (8, 10)]),
        (1, 4, [(0, 1)]), (5, 1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]), (3, 2, [(0, 3)]),
        (0, 4, []),
    ],
)  # fmt: skip
def test_a_last_batch_of_one_joins_the_one_before(
    photos: int, size: int, bounds: list[tuple[int, int]]
) -> None:
    assert batch_bounds(photos, size) == bounds


def test_balanced() -> None:
    labels = [0] * 90 + [1] * 9 + [2]
    drawn = balanced_order(labels, 0, 0)
    assert len(drawn) == 100
    assert sorted(Counter(labels[index] for index in drawn).values()) == [33, 33, 34]
    assert len({index for index in drawn if labels[index] == 0}) >= 33
    assert {index for index in drawn if labels[index] == 1} == set(range(90, 99))
    other = balanced_order(labels, 0, 1)
    assert set(other) != set(drawn)
    assert balanced_order(labels, 0, 0) == drawn


def test_balanced_acts(samples: list[Sample]) -> None:
    few = [Sample(s.path, s.name, 0 if i < 9 else 1) for i, s in enumerate(samples)]
    found = torch.cat([b.labels for b in batches(few, balanced=True).epoch(0)])
    assert sorted(found.bincount().tolist()) == [5, 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_sees_what_predict_sees(samples: list[Sample], workers: int) -> None:
    loader = Batches(samples, PREPROCESSING, Draw(4), workers=workers)
    for _ in range(2):
        found = list(loader.epoch())
        assert [batch.indices for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
        preparation = Preparation(PREPROCESSING)
        for batch in found:
            for photo, index in zip(batch.photos, batch.indices, strict=True):
                assert torch.equal(photo, torch.from_numpy(preparation(samples[index].path)))
    assert len(loader) == 3
    loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_has_gone_is_left_out_and_all_others_stay(
    samples: list[Sample], workers: int
) -> None:
    whole = list(batches(samples).epoch(0))
    Path(samples[5].path).unlink()
    Path(samples[7].path).write_bytes(b"\xff\xd8\xff half a photo")
    loader = batches(samples, workers)
    found = list(loader.epoch(0))
    loader.close()
    for one, two in zip(whole, found, strict=True):
        kept = [place for place, index in enumerate(one.indices) if index not in {5, 7}]
        assert two.indices == [one.indices[place] for place in kept]
        assert torch.equal(two.photos, one.photos[kept])
        assert torch.equal(two.labels, one.labels[kept])
    lost = {place: (label, name) for batch in found for place, label, name, _ in batch.lost}
    assert lost == {5: (2, "5.jpg"), 7: (1, "7.jpg")}
    assert not any(batch.too_few for batch in found)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_that_is_all_gone(samples: list[Sample], workers: int) -> None:
    for sample in samples[4:]:
        Path(sample.path).unlink()
    loader = Batches(samples, PREPROCESSING, Draw(3), workers=workers)
    found = list(loader.epoch())
    loader.close()
    assert [batch.indices for batch in found] == [[0, 1, 2], [3], [], []]
    assert [batch.too_few for batch in found] == [False, True, True, True]
    assert [len(batch.lost) for batch in found] == [0, 2, 3, 2]
    assert not Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1), [0]).too_few  # as it was meant


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(24, "Too many open files"), "this process may open no more files"),
        (OSError(12, "Cannot allocate memory"), "refuses more memory"),
        (MemoryError(), "does not fit into this machine's memory"),
    ],
)
def test_a_photo_is_not_lost_because_the_machine_is_at_its_limits(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def refuse(*_: object) -> object:
        raise ImageError("does not fit into this machine's memory") from error

    monkeypatch.setattr("resnest_cli.training.loader.decode", refuse)
    with pytest.raises(ResnestError, match=rf"\.jpg.* {words}"):
        list(batches(samples).epoch(0))


@dataclass
class Slow:
    """An augmentation that takes its time."""

    seconds: float
    size: int = 32

    def __call__(self, image: object, seed: int, epoch: int, crop_seed: int | None) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.zeros(3, 32, 32)


PARENT = """
import os, signal, sys
from torch.utils.data._utils import worker
from tests.training.test_loader import *
worker.MP_STATUS_CHECK_INTERVAL = 0.1  # between two looks whether the parent lives, not 5 seconds
parent = os.getpid()
# A worker that does not ignore SIGINT would inherit this, and end.
signal.signal(signal.SIGINT, lambda *_: None if os.getpid() == parent else os._exit(1))
samples = [Sample(path, path, 0) for path in sys.argv[1:]]
loader = Batches(samples, Slow(0.05), Draw(2, 0), workers=2)
for epoch in range(1000):
    for batch in loader.epoch(epoch):
        print([child.pid for child in multiprocessing.active_children()], flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_leave_signals_to_the_parent_and_end_with_it(samples: list[Sample]) -> None:
    command = [sys.executable, "-c", PARENT, *(sample.path for sample in samples)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().strip()[1:-1].split(",")]
        assert len(workers) == 2
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C sends it: to the whole group
        assert all(process.stdout.readline() for _ in range(12))  # more than were under way
        assert all(map(running, workers))
        process.kill()
    wait_until_gone(*workers)


def test_small_shared_memory_is_told_before_it_runs_full(tmp_path: Path) -> None:
    check_shared_memory(1000, tmp_path)
    check_shared_memory(1 << 60, tmp_path / "none")
    with pytest.raises(ResnestError, match=r"--workers 0.*--shm-size"):
        check_shared_memory(1 << 60, tmp_path)


def test_shared_memory_is_checked(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    batches(samples, workers=0)
    if Path("/dev/shm").exists():
        with pytest.raises(ResnestError, match="/dev/shm has"):
            batches(samples, workers=1)


@pytest.mark.parametrize(("cores", "cpu", "cuda"), [(1, 0, 1), (2, 0, 2), (8, 2, 8), (64, 16, 8)])
def test_default_workers(monkeypatch: pytest.MonkeyPatch, cores: int, cpu: int, cuda: int) -> None:
    monkeypatch.setattr("resnest_cli.training.defaults.usable_cores", lambda: cores)
    assert (default_workers("cpu"), default_workers("cuda:0")) == (cpu, cuda)


@pytest.fixture
def few(tmp_path: Path) -> list[Sample]:
    paths = [make_photo(tmp_path / f"{i}.jpg", (50, 40 + i), seed=i) for i in range(7)]
    return [Sample(str(path), path.name, i % 2) for i, path in enumerate(paths)]


def ignore(_done: int, _total: int | None) -> None:
    """Shows nothing."""


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_without(few: list[Sample], workers: int) -> None:
    told: list[tuple[int, int | None]] = []
    photos = read_all(few, lambda done, total: told.append((done, total)))
    assert told == [(i, 7) for i in range(1, 8)]
    augment = Augment(CONFIG, PREPROCESSING)
    train = partial(Batches, few, augment, Draw(3, 7), workers=workers)
    val = partial(Batches, few, PREPROCESSING, Draw(3), workers=workers)
    expected = list(train().epoch(0)), list(val().epoch())
    for sample in few:  # from memory, for sure
        Path(sample.path).unlink()
    kept, kept_val = train(photos=photos), val(photos=photos)
    assert same(list(kept.epoch(0)), expected[0])
    assert same(list(kept_val.epoch()), expected[1])
    kept.close()
    kept_val.close()


def test_sizes_of_an_epoch(few: list[Sample]) -> None:
    augment = Augment(replace(CONFIG, epochs=4, start_size=16), PREPROCESSING)
    batches = Batches(few, augment, Draw(7, 7))
    shapes = [next(iter(batches.epoch(epoch))).photos.shape for epoch in range(4)]
    assert shapes == [torch.Size([7, 3, side, side]) for side in (16, 24, 24, 32)]


def test_a_photo_that_is_gone_is_left_out(few: list[Sample]) -> None:
    Path(few[3].path).unlink()
    photos = read_all(few, ignore)
    assert [index for index, photo in enumerate(photos) if isinstance(photo, ImageError)] == [3]
    (batch,) = Batches(few, PREPROCESSING, Draw(7), photos=photos).epoch()
    assert batch.indices == [0, 1, 2, 4, 5, 6]
    assert batch.lost[0].name == "3.jpg"


def test_too_many_are_told_with_the_remedy(few: list[Sample]) -> None:
    with pytest.raises(ResnestError, match=r"--cache: 7 photos .*Use --no-cache"):
        read_all(few, ignore, free=60_000)
    assert len(read_all(few, ignore, free=100_000)) == 7


def test_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    monkeypatch.setattr(loading, "_MEMINFO", meminfo)
    monkeypatch.setattr(loading, "_CGROUP", tmp_path)
    assert free_memory() == 512_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory() == 512_000
    (tmp_path / "memory.max").write_text("4000\n")
    assert free_memory() == 3000
    meminfo.unlink()
    (tmp_path / "memory.max").unlink()
    assert free_memory() is None
