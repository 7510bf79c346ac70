"""The listing, and the bytes of a part."""

import json
import os
import pickle
from pathlib import Path

import pytest

from resnest_cli.errors import ImageError
from resnest_cli.jobs import inputs, ray_worker
from resnest_cli.jobs.filesystems import opened
from resnest_cli.jobs.listing import Chain, Input
from resnest_cli.jobs.ray_output import Manifest, Output
from resnest_cli.jobs.ray_worker import PartPhotos, part_photos
from tests.conftest import make_photo

pytest.importorskip("pyarrow")


def items(count: int) -> list[Input]:
    return [Input(f"p{i}.png", "file", f"/photos/p{i}.png", i, 2 * i) for i in range(count)]


def contents(photos: PartPhotos) -> list:
    """Bytes, or message and kind of an error."""
    return [
        (str(one), one.kind) if isinstance(one, ImageError) else one if one is None else bytes(one)
        for one in photos.contents
    ]


@pytest.mark.parametrize("count", [1, 3, 4, 9, 600])
def test_what_is_written_is_read_part_by_part(tmp_path: Path, count: int) -> None:
    listing = Output(str(tmp_path), "parquet").list_inputs(items(count), 4)
    assert listing.listed == count
    sizes = Manifest({}, listing, 4, 0).sizes
    read = [Output(str(tmp_path), "parquet").inputs_of(part) for part in range(len(sizes))]
    assert [len(part) for part in read] == sizes
    assert [item for part in read for item in part] == items(count)
    assert len(list((tmp_path / "_listing").iterdir())) == -(-count // 256)


def test_the_hash_tells_another_list(tmp_path: Path) -> None:
    listing = Output(str(tmp_path), "parquet").list_inputs(items(5), 4)
    same, other, more = Chain(), Chain(), Chain()
    list(same(items(5))), list(other(reversed(items(5)))), list(more(items(6)))
    assert same.mark == listing
    assert len({chain.mark for chain in (same, other, more)}) == 3


def test_the_hash_is_that_of_the_local_runner(tmp_path: Path) -> None:
    from tests.jobs import fake

    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(item.name for item in items(9)))
    fake.run(fake.job_for(tmp_path / "out.npy", listed))
    told = json.loads((tmp_path / "out.json").read_text())["list"]
    chain = Chain()
    list(chain(items(9)))
    assert told == {"inputs": 9, "sha256": chain.mark.chain}


def test_names_of_any_bytes_get_through(tmp_path: Path) -> None:
    name = os.fsdecode(b"photo \xff\n.png")
    Output(str(tmp_path), "parquet").list_inputs([Input(name, "file", f"/x/{name}")], 4)
    assert Output(str(tmp_path), "parquet").inputs_of(0) == [Input(name, "file", f"/x/{name}")]
    assert [item.name for item in part_photos(str(tmp_path), 0, offline=True).inputs] == [name]


def test_a_part_has_bytes_errors_and_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [make_photo(tmp_path / f"{i}.png", seed=i) for i in range(4)]
    given = [Input(str(path), "file", str(path)) for path in photos]
    given.insert(1, Input("gone.png", "file", str(tmp_path / "gone.png")))
    given.insert(2, Input("a*", "error", "is a pattern that matches no file"))
    Output(str(tmp_path / "out"), "parquet").list_inputs(given, 8)
    monkeypatch.setattr(ray_worker, "HELD", photos[0].stat().st_size)
    found = part_photos(str(tmp_path / "out"), 0, offline=True)
    assert found.inputs == given
    gone, pattern = ("does not exist", "missing"), ("is a pattern that matches no file", "other")
    assert contents(found) == [
        photos[0].read_bytes(),
        gone,
        pattern,
        photos[1].read_bytes(),
        None,
        None,
    ]
    sources = list(pickle.loads(pickle.dumps(found)).sources(offline=True))
    assert [source.name for source in sources] == [item.name for item in given]
    assert [source.data for source in sources[:4]] == [
        contents(found)[0],
        None,
        None,
        contents(found)[3],
    ]
    assert [(source.error, source.kind) for source in sources[1:3]] == [gone, pattern]
    assert [source.path for source in sources[4:]] == [item.where for item in given[4:]]


def test_of_one_machine_alone_files_are_left_on_the_disk(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "a.png")
    near = [Input("a", "file", str(photo)), Input("b", "member", str(photo), 10, 20)]
    far = Input("c", "file", f"file://{photo}")
    Output(str(tmp_path), "parquet").list_inputs([*near, far], 8)
    found = part_photos(str(tmp_path), 0, offline=True, alone=True)
    assert contents(found) == [None, None, photo.read_bytes()]


def test_a_large_photo_is_left_on_the_disk(tmp_path: Path) -> None:
    large = tmp_path / "large.bmp"
    with large.open("wb") as file:
        file.truncate(2**25 + 1)
    Output(str(tmp_path), "parquet").list_inputs([Input("large.bmp", "file", str(large))], 8)
    assert contents(part_photos(str(tmp_path), 0, offline=True)) == [None]


def test_photos_of_other_file_systems_are_read(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "a.png")
    data = photo.read_bytes()
    address = f"file://{photo}"
    given = [
        Input("whole", "file", address),
        Input("member", "member", address, 10, 20),
        Input("cut", "member", address, len(data) - 5, 20),
        Input("gone", "file", f"file://{tmp_path}/gone.png"),
    ]
    Output(str(tmp_path), "parquet").list_inputs(given, 8)
    assert contents(part_photos(str(tmp_path), 0, offline=True)) == [
        data,
        data[10:30],
        ("is truncated: its shard ends before it", "truncated"),
        ("does not exist", "missing"),
    ]


def test_a_shard_is_opened_once_for_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads read its members, and no more than so many shards stay open."""
    monkeypatch.setattr(inputs, "_OPEN", 2)
    asked, given, expected = [], [], []
    for number in range(5):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(bytes(range(number, number + 200)))
        for at in range(0, 200, 10):
            given.append(Input(f"{number}/{at}", "member", f"file://{path}", at, 10))
            expected.append(bytes(range(number + at, number + at + 10)))
    Output(str(tmp_path), "parquet").list_inputs(given, 128)
    monkeypatch.setattr(inputs, "opened", lambda where: (asked.append(where), opened(where))[1])
    found = part_photos(str(tmp_path), 0, offline=True)
    assert contents(found) == expected
    assert sorted(asked) == sorted({item.where for item in given})
