"""Photos in memory: the same batches, the same errors, and no more than there is room for."""

from functools import partial
from pathlib import Path

import pytest
import torch

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.training import photo_cache
from resnest_cli.training.augment import Augment
from resnest_cli.training.dataset import Sample
from resnest_cli.training.loader import EvalBatches, TrainBatches
from resnest_cli.training.photo_cache import free_memory, read_all, read_photo
from tests.conftest import make_photo
from tests.training.test_loader import CONFIG, PREPROCESSING, same


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    paths = [make_photo(tmp_path / f"{i}.jpg", (50, 40 + i), seed=i) for i in range(7)]
    return [Sample(str(path), path.name, i % 2) for i, path in enumerate(paths)]


def ignore(_done: int, _total: int | None) -> None:
    """Shows nothing."""


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_without(samples: list[Sample], workers: int) -> None:
    told: list[tuple[int, int | None]] = []
    photos = read_all(samples, lambda done, total: told.append((done, total)))
    assert told == [(i, 7) for i in range(1, 8)]
    augment = Augment(CONFIG, PREPROCESSING)
    train = partial(TrainBatches, samples, augment, size=32, batch_size=3, workers=workers, seed=7)
    val = partial(EvalBatches, samples, PREPROCESSING, batch_size=3, workers=workers)
    expected = list(train().epoch(0)), list(val())
    for sample in samples:  # from memory, for sure
        Path(sample.path).unlink()
    kept, kept_val = train(photos=photos), val(photos=photos)
    assert same(list(kept.epoch(0)), expected[0])
    assert same(list(kept_val), expected[1])
    kept.close()
    kept_val.close()


def test_sizes_of_an_epoch(samples: list[Sample]) -> None:
    augment = Augment(CONFIG, PREPROCESSING)
    batches = TrainBatches(
        samples, augment, size=32, batch_size=7, workers=0, seed=7,
        sizes=lambda epoch: 16 + 8 * epoch,
    )  # fmt: skip
    shapes = [next(iter(batches.epoch(epoch))).photos.shape for epoch in range(3)]
    assert shapes == [torch.Size([7, 3, side, side]) for side in (16, 24, 32)]


def test_a_photo_that_is_gone_is_left_out(samples: list[Sample]) -> None:
    Path(samples[3].path).unlink()
    with pytest.raises(ResnestError, match=r"3\.jpg .*was it changed"):
        read_photo(samples[3])
    photos = read_all(samples, ignore)
    assert [index for index, photo in enumerate(photos) if isinstance(photo, ImageError)] == [3]
    (batch,) = EvalBatches(samples, PREPROCESSING, batch_size=7, workers=0, photos=photos)
    assert batch.indices == [0, 1, 2, 4, 5, 6]
    assert batch.lost[0].name == "3.jpg"


def test_too_many_are_told_with_the_remedy(samples: list[Sample]) -> None:
    with pytest.raises(ResnestError, match=r"--cache: 7 photos .*Use --no-cache"):
        read_all(samples, ignore, free=60_000)
    assert len(read_all(samples, ignore, free=100_000)) == 7


def test_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    monkeypatch.setattr(photo_cache, "_MEMINFO", meminfo)
    monkeypatch.setattr(photo_cache, "_CGROUP", tmp_path)
    assert free_memory() == 512_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory() == 512_000
    (tmp_path / "memory.max").write_text("4000\n")
    assert free_memory() == 3000
    meminfo.unlink()
    (tmp_path / "memory.max").unlink()
    assert free_memory() is None
