"""From what the user calls data to shards: folders, patterns, addresses, those of others."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from resnest_cli.data.shard_files import Shard
from resnest_cli.data.shards import (
    Index,
    class_counts,
    expanded,
    find_shards,
    from_text,
    is_shards,
    to_text,
)
from resnest_cli.errors import ResnestError, UsageError
from tests.data.making import make_data, others, packed, write_tar
from tests.server import File, Reply, Server

pytest.importorskip("webdataset")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


@pytest.fixture
def shards(data: Path, tmp_path: Path) -> Path:
    packed(data, tmp_path / "shards")
    return tmp_path / "shards"


def find(data: str | Path, val_data: str | None = None, classes: int | None = None) -> Index:
    return find_shards(str(data), val_data=val_data, classes=classes, progress=lambda *_: None)


def serve(server: Server, folder: Path) -> str:
    for path in folder.iterdir():
        server.files[f"/s/{path.name}"] = File(path.read_bytes())
    return server.url("/s/")


def test_what_is_taken_for_shards(shards: Path, data: Path) -> None:
    for name in (
        str(shards), "a/train-{0..3}.tar", "https://host/shards/", "x.tar", "{a.tar,b.tar}",
        "x.tgz",
    ):  # fmt: skip
        assert is_shards(name), name
    for name in (str(data), "photos.csv", "tar", "folder.tard"):
        assert not is_shards(name), name
    (data / "index.json").write_text("{}")
    assert not is_shards(str(data))


def test_patterns(shards: Path) -> None:
    assert expanded("--data", "a-{0..2}.tar") == ["a-0.tar", "a-1.tar", "a-2.tar"]
    assert expanded("--data", "a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expanded("--data", f"{shards}/val-*.tar") == [
        str(shards / f"val-{n:06d}.tar") for n in range(2)
    ]
    with pytest.raises(UsageError, match=r"--data a-\{0: is no pattern"):
        expanded("--data", "a-{0")
    with pytest.raises(UsageError, match=r"nothing-\*\.tar: no such file"):
        expanded("--data", f"{shards}/nothing-*.tar")
    with pytest.raises(UsageError, match=r"names a\.tar more than once"):
        expanded("--data", "{a,a}.tar")


def test_a_folder_a_pattern_and_addresses_are_the_same(shards: Path, server: Server) -> None:
    whole = find(shards)
    assert [shard.name for shard in whole.val] == ["val-000000.tar", "val-000001.tar"]
    assert find(f"{shards}/train-{{000000..000004}}.tar") == whole
    assert find(f"{shards}/train-*.tar", f"{shards}/val-*.tar") == whole

    base = serve(server, shards)
    far = find(f"{base}train-{{000000..000004}}.tar")
    assert [shard.place for shard in far.train] == [f"{base}train-{n:06d}.tar" for n in range(5)]
    assert (far.train_counts, far.val_counts) == (whole.train_counts, whole.val_counts)
    assert find(base) == find(base[:-1]) == far
    assert {request.path for request in server.requests} == {"/s/index.json"}


def test_some_of_the_shards(shards: Path) -> None:
    found = find(f"{shards}/train-{{000001,000003}}.tar")
    assert [shard.name for shard in found.train] == ["train-000001.tar", "train-000003.tar"]
    assert sum(found.train_counts) == 10
    assert found.class_ids == ("class0", "class1", "class2")


def test_shards_of_others(data: Path, tmp_path: Path, server: Server) -> None:
    train = others(tmp_path / "theirs", data)
    val = others(tmp_path / "theirs", data, "val-{}.tar", shards=1)
    with pytest.raises(UsageError, match=r"no index\.json .* --val-data"):
        find(train)
    found = find(train, val.replace("{0..0}", "0"))
    assert (found.class_ids, found.train_counts) == (("0", "1", "2"), (10, 10, 10))
    assert [shard.photos for shard in found.train] == [15, 15]
    assert find(train, f"{tmp_path}/theirs/val-0.tar", classes=3).val_counts == (10, 10, 10)
    with pytest.raises(UsageError, match="--classes 2: "):
        find(train, f"{tmp_path}/theirs/val-0.tar", classes=2)
    more = find(train, f"{tmp_path}/theirs/val-0.tar", classes=5)
    assert more.class_ids == ("0", "1", "2", "3", "4")

    base = serve(server, tmp_path / "theirs")
    far = find(f"{base}train-{{0..1}}.tar", f"{base}val-0.tar")
    assert [shard.photos for shard in far.train] == [15, 15]
    assert far.train_counts == (10, 10, 10)


def test_compressed_shards_of_others(data: Path, tmp_path: Path) -> None:
    photo = (data / "class0" / "0.jpg").read_bytes()
    for name, label in (("a", b"0"), ("b", b"1")):
        write_tar(tmp_path / f"{name}.tar.gz", [("1.jpg", photo), ("1.cls", label)], "w:gz")
    found = find(tmp_path / "a.tar.gz", str(tmp_path / "b.tar.gz"))
    assert (found.train_counts, found.val_counts) == ((1, 0), (0, 1))


def test_shards_that_are_not_as_they_should_be(shards: Path, tmp_path: Path) -> None:
    path = shards / "train-000002.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:9000])
    with pytest.raises(ResnestError, match=r"train-000002\.tar: has 9,000 bytes, not the [\d,]+ "):
        find(shards)
    path.unlink()
    with pytest.raises(UsageError, match=r"train-000002\.tar: cannot be read: No such file"):
        find(shards)
    path.write_bytes(whole)
    with pytest.raises(UsageError, match=r"train-000005\.tar: is not in .*index\.json \(1 of 6"):
        find(f"{shards}/train-{{000000..000005}}.tar")
    with pytest.raises(UsageError, match=r"val-000000\.tar would train and validate"):
        find(f"{shards}/val-*.tar")
    with pytest.raises(UsageError, match="--classes 4: "):
        find(shards, classes=4)


@pytest.mark.parametrize("end", [700, 4000, -1024, "between two members"])
def test_a_truncated_shard_of_others(data: Path, tmp_path: Path, end: int | str) -> None:
    others(tmp_path / "theirs", data)
    path = tmp_path / "theirs" / "train-1.tar"
    whole = path.read_bytes()
    content = whole.rstrip(b"\0")
    last = -(-len(content) // 512) * 512  # where the blocks of zeros begin
    path.write_bytes(whole[: last if isinstance(end, str) else end if end > 0 else last + end])
    with pytest.raises(ResnestError, match=r"train-1\.tar: the shard is truncated or damaged"):
        find(f"{tmp_path}/theirs/train-{{0..1}}.tar", str(tmp_path / "theirs" / "train-0.tar"))


def test_members_that_cannot_be_photos(data: Path, tmp_path: Path) -> None:
    photo = (data / "class0" / "0.jpg").read_bytes()
    for members, words in (
        ([("1.jpg", photo)], r"a\.tar: 1\.cls is missing"),
        ([("1.cls", b"0")], r"a\.tar: 1 has a class, but no photo"),
        ([("1.jpg", photo), ("1.cls", b"cat")], r"1\.cls: holds 'cat', not the index"),
        ([("1.txt", b"")], r"a\.tar: has no photos"),
    ):
        write_tar(tmp_path / "a.tar", members)
        with pytest.raises(ResnestError, match=words):
            find(tmp_path / "a.tar", str(tmp_path / "a.tar"))
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ResnestError, match=r"a\.tar: the shard is truncated or damaged"):
        find(tmp_path / "a.tar", str(tmp_path / "a.tar"))


def test_addresses_that_fail(shards: Path, server: Server) -> None:
    with pytest.raises(UsageError, match=r"/s/: has no index\.json of `resnest pack`"):
        find(server.url("/s/"))
    serve(server, shards)
    server.script("/s/index.json", *[Reply(500)] * 10)
    with pytest.raises(UsageError, match=r"/s/index\.json cannot be fetched: it answered 500"):
        find(server.url("/s/"))


def test_no_message_shows_a_password(data: Path, tmp_path: Path, server: Server) -> None:
    write_tar(tmp_path / "a.tar", [("1.jpg", b"")])
    server.files["/a.tar"] = File((tmp_path / "a.tar").read_bytes())
    place = server.url("/a.tar").replace("://", "://me:secret@")
    with pytest.raises(ResnestError, match=r"127\.0\.0\.1:\d+/a\.tar: 1\.cls is missing") as error:
        find(place, place)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (b"1", None), (b" 1 \n", None), (b"001", None),
        (b"99", None), (b"300", r"has .* class 300, but .* 4 photos of 3 .* --classes 301"),
        (b"999999999", r"has .* class 999,999,999, but the shards have 4 photos of 3 classes\."),
        (b"9" * 5000, r"b\.cls: holds '9{40}', not the index"),
        (b"1" * 3_000_000, r"b\.cls: holds '1{40}', not the index"),
        (b"-1", "holds '-1', not the index"), (b"", "holds '', not the index"),
        (b"+1", "not the index"), (b"1.0", "not the index"), (b"[1]", "not the index"),
        (b"1_0", "not the index"), ("\u0663".encode(), "not the index"),
    ],
)  # fmt: skip
def test_classes_of_others(data: Path, tmp_path: Path, label: bytes, words: str | None) -> None:
    photo = (data / "class0" / "0.jpg").read_bytes()
    pair = [("a.jpg", photo), ("a.cls", b"0"), ("b.jpg", photo)]
    write_tar(tmp_path / "train.tar", [*pair, ("b.cls", label)])
    val = str(write_tar(tmp_path / "val.tar", [*pair, ("b.cls", b"1")]))
    if words is None:
        found = find(tmp_path / "train.tar", val)
        assert len(found.class_ids) == max(2, int(label) + 1)
    else:
        with pytest.raises(ResnestError, match=rf"train\.tar: .*{words}"):
            find(tmp_path / "train.tar", val)
    if label == b"300":
        assert len(find(tmp_path / "train.tar", val, classes=400).class_ids) == 400
    if label == b"999999999":
        with pytest.raises(UsageError, match="no more than 10,000,000 can be learned"):
            find(tmp_path / "train.tar", val, classes=10**9)


def header(data: bytearray, at: int, **fields: bytes) -> bytearray:
    """A tar file with another header at this place, and its checksum."""
    places = {"size": (124, 12), "type": (156, 1), "map": (386, 12), "real": (483, 12)}
    for name, value in fields.items():
        start, length = places[name]
        data[at + start : at + start + length] = value.ljust(length, b"\0")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return data


HUGE = b"\x80" + (2**62).to_bytes(11, "big")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": b"%011o" % 10**9}, "truncated or damaged"),
        ({"size": HUGE}, "truncated or damaged"),
        ({"size": b"\xff" + (2**88 - 5).to_bytes(11, "big")}, "truncated or damaged"),
        ({"type": b"x", "size": HUGE}, "truncated or damaged"),
        ({"type": b"g", "size": HUGE}, "truncated or damaged"),
        ({"type": b"L", "size": HUGE}, "truncated or damaged"),
        ({"type": b"S"}, r"a\.jpg is a sparse member, as `tar --sparse`"),
        ({"type": b"S", "map": b"%011o" % 5, "real": HUGE}, r"a\.jpg is a sparse member"),
    ],
)
def test_headers_that_lie(data: Path, tmp_path: Path, fields: dict[str, bytes], words: str) -> None:
    photo = (data / "class0" / "0.jpg").read_bytes()
    members = [("a.jpg", photo), ("a.cls", b"0"), ("b.jpg", photo), ("b.cls", b"1")]
    val = str(write_tar(tmp_path / "val.tar", members))
    path = write_tar(tmp_path / "train.tar", members)
    path.write_bytes(header(bytearray(path.read_bytes()), 0, **fields))
    with pytest.raises(ResnestError, match=rf"train\.tar: .*{words}"):
        find(path, val)


@pytest.mark.parametrize("size", ["99999999999999999999", "x"])
def test_extended_headers_that_lie(data: Path, tmp_path: Path, size: str) -> None:
    photo = (data / "class0" / "0.jpg").read_bytes()
    members = [("a.jpg", photo), ("a.cls", b"0"), ("b.jpg", photo), ("b.cls", b"1")]
    val = str(write_tar(tmp_path / "val.tar", members))
    key = "size" if size.isdigit() else "GNU.sparse.size"
    with tarfile.open(tmp_path / "train.tar", "w", pax_headers={key: size}) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ResnestError, match=r"train\.tar: the shard is truncated or damaged"):
        find(tmp_path / "train.tar", val)


TRAIN = (Shard("train-0.tar", 3, 1000, "ab", ((0, 1), (1, 2))), Shard("a b.tar", 1, 5))
INDEX = Index(
    ("ä", "b\u2028"), ("Ä", "b"), TRAIN, (Shard("val-0.tar", 1, 9, "", ((1, 1),)),), (2, 2), (0, 1),
    left_out=(("x.jpg", "ä", "is empty"),), made={"seed": 3},
)  # fmt: skip


def test_it_is_read_back() -> None:
    assert from_text(to_text(INDEX), "index.json") == INDEX
    assert to_text(INDEX).isascii()
    assert json.loads(to_text(INDEX))["seed"] == 3
    assert class_counts(TRAIN, 3) == (1, 2, 0)


def test_another_kind_of_index_is_none_of_ours() -> None:
    assert from_text('{"shardlist": []}', "index.json") is None
    assert from_text("[1]", "index.json") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "resnest-shards-9"}, "has the format resnest-shards-9"),
        ({"train_counts": [2, 3]}, "do not add up"),
        ({"class_names": ["one"]}, "as many names"),
        ({"train": [], "train_counts": [0, 0]}, "no shard to train on"),
        ({"val": None}, "is damaged"),
    ],
)
def test_damage_is_told(change: dict[str, object], words: str) -> None:
    text = json.dumps(json.loads(to_text(INDEX)) | change)
    with pytest.raises(ResnestError, match=words):
        from_text(text, "there/index.json")
    with pytest.raises(ResnestError, match=r"^there/index\.json: is damaged"):
        from_text(to_text(INDEX)[:50], "there/index.json")
