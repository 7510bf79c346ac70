"""Packing: the same bytes whoever does it, verified, and nothing half under a final name."""

import errno
import hashlib
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.data import pack as packing
from resnest_cli.data.pack import PhotoDone, layout, pack, run
from resnest_cli.data.shards import from_text
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.progress import silent
from resnest_cli.signals import StoppedError
from tests.conftest import make_photo
from tests.data.making import files, job, load, make_data, packed

pytest.importorskip("webdataset")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def contents(folder: Path, side: str) -> list[tuple[str, bytes]]:
    """Class and bytes of every photo of a side, by Python's tarfile."""
    found = []
    for path in sorted(folder.glob(f"{side}-*.tar")):
        with tarfile.open(path) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        keys = sorted({name.partition(".")[0] for name in members})
        found += [(members[f"{key}.cls"].decode(), members[f"{key}.jpg"]) for key in keys]
    return found


def test_the_same_bytes_whoever_packs(data: Path, tmp_path: Path) -> None:
    one = packed(data, tmp_path / "one")
    packed(data, tmp_path / "two", workers=2)
    # The folder was listed in another order, and its files have other times.
    for path in sorted(data.rglob("*.jpg"), reverse=True):
        path.rename(path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
        os.utime(path, (1, 1))
    packed(data, tmp_path / "three")

    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "three")
    assert [shard.place for shard in one.index.train] == [f"train-{n:06d}.tar" for n in range(5)]
    packed(data, tmp_path / "other", seed=1)
    assert (
        files(tmp_path / "other")["train-000000.tar"] != files(tmp_path / "one")["train-000000.tar"]
    )


def test_shards_hold_the_photos_of_the_split(data: Path, tmp_path: Path) -> None:
    found = packed(data, tmp_path / "out").index
    dataset = load(data)
    for side, samples in (("train", dataset.train), ("val", dataset.val)):
        wanted = sorted((str(s.label), Path(s.path).read_bytes()) for s in samples)
        there = contents(tmp_path / "out", side)
        assert sorted(there) == wanted
        assert [label for label, _ in there] != sorted(label for label, _ in there)  # a mix
    assert found.train_counts == (8, 8, 8)
    assert found.val_counts == (2, 2, 2)
    assert found.class_ids == ("class0", "class1", "class2")


def test_the_index_says_what_is_there(data: Path, tmp_path: Path) -> None:
    packed(data, tmp_path / "out")
    text = (tmp_path / "out" / "index.json").read_bytes()
    index = from_text(text, "index.json")
    assert index is not None
    assert dict(index.made) == {"seed": 0, "val_split": 0.2, "photos_per_shard": 5}
    for shard in (*index.train, *index.val):
        path = tmp_path / "out" / shard.place
        assert shard.size == path.stat().st_size
        assert shard.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        assert 2 * shard.photos == len(members)
        assert sum(count for _, count in shard.classes) == shard.photos
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}


def test_shards_are_cut_by_their_size(data: Path, tmp_path: Path) -> None:
    packed(data, tmp_path / "out", photos_per_shard=None, shard_bytes=20_000)
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("train-*.tar")]
    assert len(sizes) > 2
    assert max(sizes) <= 20_480  # tar fills the last record
    plan = layout(load(data), job(tmp_path, photos_per_shard=None, shard_bytes=10))
    assert [len(shard.photos) for shard in plan] == [1] * 30  # each larger than a shard


def test_a_second_run_keeps_what_is_whole(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = packed(data, out)
    before = files(out)
    kept = (out / "train-000001.tar").stat().st_mtime_ns
    (out / "train-000003.tar").unlink()
    (out / "index.json").unlink()
    (out / ".train-000003.tar.0a0b0c0d.tmp").write_bytes(b"left by a kill")

    again = packed(data, out)
    assert again.kept == len(first.index.train) + len(first.index.val) - 1
    assert files(out) == before
    assert (out / "train-000001.tar").stat().st_mtime_ns == kept
    assert packed(data, out).kept == len(first.index.train) + len(first.index.val)


def test_other_shards_are_not_replaced_unasked(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    packed(data, out)
    before = files(out)
    with pytest.raises(UsageError, match=r"index\.json: is not what these .* --overwrite"):
        packed(data, out, seed=1)
    with pytest.raises(UsageError, match="--overwrite"):
        packed(data, out, photos_per_shard=7)
    make_photo(data / "class0" / "new.jpg", (50, 40), seed=999)
    with pytest.raises(UsageError, match=r"\.tar: is not what these data and options give"):
        packed(data, out)
    assert files(out) == before

    packed(data, out, photos_per_shard=12, overwrite=True)
    packed(data, tmp_path / "fresh", photos_per_shard=12)
    assert files(out) == files(tmp_path / "fresh")


def test_a_damaged_shard_is_found(data: Path, tmp_path: Path) -> None:
    packed(data, tmp_path / "out")
    path = tmp_path / "out" / "train-000002.tar"
    damaged = bytearray(path.read_bytes())
    damaged[1600] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match=r"train-000002\.tar"):
        packed(data, tmp_path / "out")
    packed(data, tmp_path / "out", overwrite=True)
    packed(data, tmp_path / "fresh")
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


@pytest.mark.parametrize("what", ["photo", "label", "lost"])
def test_what_comes_back_changed_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    import webdataset

    original = webdataset.TarWriter.write
    written = []

    def write(self: Any, sample: dict[str, Any]) -> Any:
        written.append(sample)
        if len(written) == 3:
            if what == "lost":
                return None
            name = "jpg" if what == "photo" else "cls"
            changed = bytearray(sample[name])
            changed[-1] ^= 1
            sample = sample | {name: bytes(changed)}
        return original(self, sample)

    monkeypatch.setattr(webdataset.TarWriter, "write", write)
    with pytest.raises(ResnestError, match=r"train-000000\.tar: what was read back is not what"):
        packed(data, tmp_path / "out")
    assert not {"train-000000.tar", "index.json"} & set(files(tmp_path / "out"))
    assert not any(name.endswith(".tmp") for name in files(tmp_path / "out"))


def test_a_full_disk(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(packing.os, "fsync", full)
        with pytest.raises(
            ResnestError, match=r"\.tar: cannot be written: No space left .*same command"
        ):
            packed(data, out)
    assert files(out) == {}

    class Usage:
        free = 1000

    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: Usage)
        with pytest.raises(ResnestError, match=r"out: the shards need \S+ MB, and 1.0 kB are free"):
            packed(data, out)
    packed(data, out)


def test_photos_that_change_meanwhile(data: Path, tmp_path: Path) -> None:
    dataset = load(data)
    Path(dataset.train[3].path).unlink()
    with pytest.raises(ResnestError, match=r"\.jpg: cannot be read: No such file"):
        pack(job(tmp_path / "out"), dataset, silent, lambda: None)


def test_a_stop_leaves_whole_shards(data: Path, tmp_path: Path) -> None:
    calls = []

    def check() -> None:
        calls.append(len(list((tmp_path / "out").glob("*.tar"))))
        if calls[-1]:
            raise StoppedError("stopped")

    dataset, out = load(data), tmp_path / "out"
    try:
        pack(job(out), dataset, silent, check)
    except StoppedError:
        assert "index.json" not in files(out)
    assert not list(out.glob(".*.tmp"))
    packed(data, out)
    packed(data, tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers: int) -> None:
    def square(number: int, photo_done: PhotoDone) -> int:
        photo_done()
        return number * number

    seen: list[int] = []
    found = run(square, range(20), workers=workers, progress=seen.append, check=lambda: None)
    assert found == [number * number for number in range(20)]
    assert seen[-1] == 20


@pytest.mark.timeout(120)
def test_the_first_error_stops_all() -> None:
    def failing(number: int, photo_done: PhotoDone) -> None:
        if number == 2:
            raise ResnestError("the third cannot be done")
        while True:
            time.sleep(0.01)
            photo_done()

    with pytest.raises(ResnestError, match="the third cannot be done"):
        run(failing, range(3), workers=3, progress=lambda _: None, check=lambda: None)
