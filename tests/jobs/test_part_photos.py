"""The bytes of a part's photos, read ahead."""

import pickle
from pathlib import Path

import pytest

from resnest_cli.errors import ImageError
from resnest_cli.jobs import inputs
from resnest_cli.jobs.filesystems import opened
from resnest_cli.jobs.inputs import PartPhotos, part_photos
from resnest_cli.jobs.listing import Input
from tests.conftest import make_photo

pytest.importorskip("pyarrow")


def contents(photos: PartPhotos) -> list:
    """Bytes, or message and kind of an error."""
    return [
        (str(one), one.kind) if isinstance(one, ImageError) else one if one is None else bytes(one)
        for one in photos.contents
    ]


def test_a_part_has_bytes_errors_and_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [make_photo(tmp_path / f"{i}.png", seed=i) for i in range(4)]
    given = [Input(str(path), "file", str(path)) for path in photos]
    given.insert(1, Input("gone.png", "file", str(tmp_path / "gone.png")))
    given.insert(2, Input("a*", "error", "is a pattern that matches no file"))
    monkeypatch.setattr(inputs, "HELD", photos[0].stat().st_size)
    found = part_photos(given, offline=True)
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
    found = part_photos([*near, far], offline=True, alone=True)
    assert contents(found) == [None, None, photo.read_bytes()]


def test_a_large_photo_is_left_on_the_disk(tmp_path: Path) -> None:
    large = tmp_path / "large.bmp"
    with large.open("wb") as file:
        file.truncate(2**25 + 1)
    given = [Input("large.bmp", "file", str(large))]
    assert contents(part_photos(given, offline=True)) == [None]


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
    assert contents(part_photos(given, offline=True)) == [
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
    monkeypatch.setattr(inputs, "opened", lambda where: (asked.append(where), opened(where))[1])
    found = part_photos(given, offline=True)
    assert contents(found) == expected
    assert sorted(asked) == sorted({item.where for item in given})
