"""Batches from shards keep the promises of batches from folders."""

import multiprocessing
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch

from resnest_cli.data import shard_files
from resnest_cli.data.shards import Index, find_shards
from resnest_cli.errors import ResnestError
from resnest_cli.net import Patience
from resnest_cli.training import order
from resnest_cli.training.augment import Augment
from resnest_cli.training.loader import Batch, Batches
from resnest_cli.training.order import Draw, ShardPhotos, batch_bounds
from tests.data.making import load, make_data, others, packed, write_tar
from tests.server import File, Reply, Server
from tests.training.test_loader import CONFIG, PREPROCESSING, same

pytest.importorskip("webdataset")

WINDOW = 7


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that begin and end within the shards of five photos."""
    monkeypatch.setattr(order, "MOST_PHOTOS", WINDOW)


def patience(sleep: Callable[[float], None]) -> Callable[..., Patience]:
    """Patience whose pauses are `sleep`."""
    return lambda **how: Patience(**how | {"sleep": sleep})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


@pytest.fixture
def index(data: Path, tmp_path: Path) -> Index:
    packed(data, tmp_path / "shards")
    return find(tmp_path / "shards")


def find(data: object, val_data: str | None = None) -> Index:
    return find_shards(str(data), val_data=val_data, classes=None, progress=lambda *_: None)


def batches(index: Index, workers: int = 0, **more: object) -> Batches:
    draw: dict = {"batch_size": 4, "seed": 7} | more
    photos, augment = ShardPhotos(index.train, 3), Augment(CONFIG, PREPROCESSING)
    return Batches(photos, augment, Draw(**draw), workers=workers)


def epoch(index: Index, number: int = 0, workers: int = 0, **more: object) -> list[Batch]:
    loader = batches(index, workers, **more)
    found = list(loader.epoch(number))
    loader.close()
    return found


def places(found: Sequence[Batch]) -> list[int]:
    return [index for batch in found for index in batch.indices]


def test_an_epoch_has_each_photo_once(index: Index, data: Path) -> None:
    found = [epoch(index, number) for number in range(3)]
    for one in found:
        assert sorted(places(one)) == list(range(24))
        assert [len(batch.labels) for batch in one] == [4] * 6
    assert len({tuple(places(one)) for one in found}) == 3
    # A place is a photo, whatever the epoch: its label and, without augmentation, its pixels.
    labels = [dict(zip(places(one), torch.cat([b.labels for b in one]).tolist(), strict=True))
              for one in found]  # fmt: skip
    assert labels[0] == labels[1] == labels[2]
    assert sorted(labels[0].values()) == sorted(sample.label for sample in load(data).train)


def test_the_number_of_workers_changes_nothing(index: Index) -> None:
    found = {workers: [epoch(index, n, workers) for n in (0, 1)] for workers in (0, 1, 2)}
    assert same(found[0][0], found[1][0])
    assert same(found[0][1], found[2][1])
    assert not same(found[0][0], found[0][1])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("repeats", [1, 3])
def test_an_epoch_can_begin_anywhere(index: Index, workers: int, repeats: int) -> None:
    loader = batches(index, workers, aug_repeats=repeats)
    whole = list(loader.epoch(3))
    assert len(whole) == len(loader) == 6
    for start in range(1, 7):
        assert same(list(loader.epoch(3, start=start)), whole[start:])
    abandoned = loader.epoch(2)
    next(abandoned)
    abandoned.close()
    assert same(list(loader.epoch(3)), whole)
    loader.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("shards")]


def test_a_resumed_epoch_opens_no_shard_before_it(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    from resnest_cli.data import shard_files

    original = shard_files.open_local
    monkeypatch.setattr(
        shard_files, "open_local", lambda shard: (opened.append(shard.name), original(shard))[1]
    )
    loader = batches(index)
    list(loader.epoch(0))
    every = list(opened)
    assert len(every) == len(set(every)) == 5  # each is read once
    opened.clear()
    list(loader.epoch(0, start=4))  # from photo 16 on: its window begins with photo 14
    assert every[2] == "train-000004.tar"  # the one with four photos: 5 + 5 + 4 lie before
    assert opened == every[3:]


def test_repeated_augmentation(index: Index) -> None:
    found = epoch(index, aug_repeats=3)
    order = places(found)
    assert len(order) == 24
    assert [order[at] for at in range(0, 24, 3)] == [order[at + 2] for at in range(0, 24, 3)]
    assert len(set(order)) == 8
    first = torch.cat([batch.photos for batch in found])[:3]
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("ranks", [2, 3])
def test_devices_have_each_photo_once(index: Index, ranks: int) -> None:
    found = [
        epoch(index, rank=rank, ranks=ranks, batch_size=4 if ranks == 2 else 5)
        for rank in range(ranks)
    ]
    assert len({len(one) for one in found}) == 1
    assert sorted(place for one in found for place in places(one)) == list(range(24))


def evaluated(index: Index, **more: int) -> list[Batch]:
    draw = Draw(**{"batch_size": 4} | more)
    loader = Batches(ShardPhotos(index.val, 3), PREPROCESSING, draw)
    found = list(loader.epoch())
    assert list(map(len, (b.labels for b in loader.epoch()))) == [len(b.labels) for b in found]
    loader.close()
    return found


def test_validation_is_that_of_the_folder_in_another_order(index: Index, data: Path) -> None:
    found = evaluated(index)
    folder = Batches(load(data).val, PREPROCESSING, Draw(4))

    def photos(batches: Sequence[Batch]) -> set[tuple[int, bytes]]:
        return {
            (int(label), photo.numpy().tobytes())
            for batch in batches
            for photo, label in zip(batch.photos, batch.labels, strict=True)
        }

    assert photos(found) == photos(list(folder.epoch()))
    assert places(found) == list(range(6))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_devices_validate_each_photo_once(index: Index, ranks: int) -> None:
    alone = evaluated(index, batch_size=2)
    found = [evaluated(index, batch_size=2, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert [place for one in found for place in places(one)] == places(alone)
    loaders = [
        Batches(ShardPhotos(index.val, 3), PREPROCESSING, Draw(2, ranks=ranks, rank=r))
        for r in range(ranks)
    ]
    assert {len(loader) for loader in loaders} == {max(map(len, found))}


@pytest.fixture
def far(index: Index, tmp_path: Path, server: Server) -> Index:
    """The same shards behind addresses."""
    for path in (tmp_path / "shards").glob("[!.]*"):
        server.files[f"/{path.name}"] = File(path.read_bytes())
    return find(server.url("/train-{000000..000004}.tar"))


def test_addresses_give_the_same_bits(index: Index, far: Index, server: Server) -> None:
    for number in range(2):
        assert same(epoch(index, number), epoch(far, number, workers=number))
    assert same(evaluated(index), evaluated(far))
    whole = epoch(index)
    loader = batches(far)
    server.requests.clear()
    assert same(list(loader.epoch(0, start=4)), whole[4:])
    assert len({request.path for request in server.requests}) == 2  # three lie before the window


def test_a_broken_connection_is_taken_up_again(
    index: Index, far: Index, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(shard_files, "Patience", patience(waited.append))
    server.script("/train-000002.tar", Reply(503), Reply(send=6000, then="reset"), Reply(500))
    server.script("/train-000004.tar", Reply(send=100, then="close"))
    assert same(epoch(index), epoch(far))
    assert len(waited) == 4
    assert [request.status for request in server.log("/train-000002.tar")] == [503, 200, 500, 200]


@pytest.mark.parametrize("what", ["gone", "truncated", "changed", "stops"])
def test_an_address_that_does_not_give_the_shard(
    far: Index, server: Server, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(shard_files, "Patience", patience(lambda _: None))
    name, whole = "/train-000001.tar", server.files["/train-000001.tar"].data
    if what == "gone":
        del server.files[name]
    elif what == "truncated":
        server.files[name] = File(whole[:9000])
    elif what == "changed":
        server.files[name] = File(whole[:1500] + b"x" + whole[1501:])
    else:
        server.script(name, *[Reply(send=50, then="close", ranges=False)] * 60)
    with pytest.raises(ResnestError, match=r"/train-000001\.tar: the shard cannot be fetched: "):
        epoch(far)


def broken(index: Index, tmp_path: Path, change: object, workers: int = 0) -> Iterator[Batch]:
    path = tmp_path / "shards" / "train-000003.tar"
    data = bytearray(path.read_bytes())
    change(data)  # type: ignore[operator]
    path.write_bytes(data)
    with closing(batches(index, workers)) as loader:
        yield from loader.epoch(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_changed_is_an_error_that_names_it(
    index: Index, tmp_path: Path, workers: int
) -> None:
    def cut(data: bytearray) -> None:
        del data[5000:]

    with pytest.raises(ResnestError, match=r"train-000003\.tar: has 5,000 bytes, not the"):
        list(broken(index, tmp_path, cut, workers))


def test_a_damaged_header_is_an_error(index: Index, tmp_path: Path) -> None:
    """Python's tarfile ends there without a word."""

    def damage(data: bytearray) -> None:
        third = data.index(b".cls", data.index(b".cls", 600) + 600)
        data[third : third + 4] = b".CLS"  # no longer what the header's checksum says

    words = (
        r"train-000003\.tar: the shard is truncated or damaged \(it does not end as a tar file does"
    )
    with pytest.raises(ResnestError, match=words):
        list(broken(index, tmp_path, damage))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_cannot_be_decoded_is_left_out_and_named(
    index: Index, tmp_path: Path, workers: int
) -> None:
    path = tmp_path / "shards" / "train-000003.tar"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1))
    loader = batches(index, workers)
    found = list(loader.epoch(0))
    loader.close()
    (lost,) = (one for batch in found for one in batch.lost)
    assert re.search(r"train-000003\.tar: \d{9}_class\d\.jpg$", lost.name)
    assert lost.error.startswith("is not an image in a known format")
    assert sorted([*places(found), lost.place]) == list(range(sum(index.train_counts)))


def test_other_photos_than_the_index_says(data: Path, tmp_path: Path) -> None:
    pattern = others(tmp_path / "theirs", data)
    others(tmp_path / "theirs", data, "val-{}.tar", shards=1)
    index = find(pattern, str(tmp_path / "theirs" / "val-0.tar"))
    assert sorted(places(epoch(index))) == list(range(30))

    path = tmp_path / "theirs" / "train-1.tar"
    photo = (data / "class0" / "0.jpg").read_bytes()
    size = path.stat().st_size
    for count in (14, 16):  # in files of the same size, for the index has that, too
        members = [
            member for n in range(count) for member in ((f"{n}.jpg", photo), (f"{n}.cls", b"0"))
        ]
        write_tar(path, members)
        with path.open("ab") as file:
            file.truncate(max(size, path.stat().st_size))
        assert path.stat().st_size == size
        words = "ends after 14 of 15" if count == 14 else "has more photos than the 15"
        with pytest.raises(ResnestError, match=rf"train-1\.tar: .*{words}"):
            epoch(index)


def test_a_class_that_there_is_not(data: Path, tmp_path: Path) -> None:
    pattern = others(tmp_path / "theirs", data)
    others(tmp_path / "theirs", data, "val-{}.tar", shards=1)
    index = find(pattern, str(tmp_path / "theirs" / "val-0.tar"))
    path = tmp_path / "theirs" / "train-0.tar"
    path.write_bytes(path.read_bytes().replace(b"2\n", b"7\n", 1))
    with pytest.raises(ResnestError, match=r"train-0\.tar: .*\.cls: class 7, but there are only 3"):
        epoch(index)


def test_batches_are_those_of_the_folder(index: Index) -> None:
    """As many, of the same sizes: the schedule is the same."""
    for size in (4, 5, 23, 100):
        loader = batches(index, batch_size=size)
        assert [len(b.labels) for b in loader.epoch(0)] == [
            last - first for first, last in batch_bounds(24, size)
        ]
