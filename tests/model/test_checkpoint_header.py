"""Damaged and foreign files: each is one clear error, quick and small in memory."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.errors import CheckpointError
from resnest_cli.model.checkpoint import load, save
from resnest_cli.model.checkpoint_header import (
    MAX_HEADER,
    CheckpointInfo,
    file_kind,
    read_header,
    read_info,
    set_metadata,
    set_temperature,
)
from resnest_cli.model.resnest import build
from tests.networks import TINY


def tensor(shape: list[Any], begin: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def sized(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def packed(header: object, data: bytes = b"") -> bytes:
    return sized(json.dumps(header).encode(), data)


GOOD = packed({"a": tensor([1], 0, 4)}, b"0000")

DAMAGED = {
    "empty": b"",
    "one byte": b"\x01",
    "shorter than its length field": b"\x08\x00\x00\x00\x00\x00\x00",
    "length without header": (8).to_bytes(8, "little"),
    "length of 2^63": (2**63).to_bytes(8, "little") + b"{}",
    "length of 2^64 - 1": b"\xff" * 8 + b"{}",
    "length beyond the file": (100).to_bytes(8, "little") + b'{"a": 1}',
    "header over the limit": sized(b"{" + b" " * MAX_HEADER + b"}"),
    "no text": sized(b'{"\xff\xfe": 1}'),
    "no JSON": sized(b"{'a': 1}"),
    "JSON cut short": sized(b'{"a": {"dtype": "F32"'),
    "a list": sized(b"[]"),
    "null": sized(b"null"),
    "a deep list": sized(b"[" * 200_000),
    "deep objects": sized(b'{"a":' * 200_000),
    "a number of many digits": sized(b'{"a": ' + b"9" * 100_000 + b"}"),
    "end beyond the data": packed({"a": tensor([2], 0, 8)}, b"0000"),
    "end before begin": packed({"a": tensor([1], 4, 0)}, b"0000"),
    "negative offset": packed({"a": tensor([1], -4, 0)}, b"0000"),
    "offset of 2^64": packed({"a": tensor([1], 0, 2**64)}, b"0000"),
    "offset that is no integer": packed({"a": tensor([1], 0, 4.0)}, b"0000"),
    "overlap": packed({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, b"0000"),
    "hole": packed({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, b"0" * 12),
    "hole at the start": packed({"a": tensor([1], 4, 8)}, b"0" * 8),
    "unknown dtype": packed({"a": tensor([1], 0, 4, "Q9")}, b"0000"),
    "shape that overflows": packed({"a": tensor([2**62, 2**62], 0, 4)}, b"0000"),
    "shape of another size": packed({"a": tensor([3], 0, 4)}, b"0000"),
    "negative shape": packed({"a": tensor([-1, -1], 0, 4)}, b"0000"),
    "shape that is text": packed({"a": tensor(["1"], 0, 4)}, b"0000"),
    "trailing garbage": GOOD + b"0",
    "data cut short": GOOD[:-1],
    "tensor without dtype": packed({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"0000"),
    "tensor twice": sized(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"0000",
    ),
    "metadata key twice": sized(b'{"__metadata__": {"a": "1", "a": "2"}}'),
    "metadata twice": sized(b'{"__metadata__": {"a": "1"}, "__metadata__": {"b": "2"}}'),
    "metadata with a number": packed({"__metadata__": {"a": 1}}),
    "metadata as a list": packed({"__metadata__": ["a"]}),
    "metadata with half a surrogate": sized(b'{"__metadata__": {"a": "\\ud800"}}'),
    "ours without tensors": packed({"__metadata__": {"format_version": "1"}}),
}


def test_the_undamaged_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(GOOD)
    assert read_info(path).tensors == 1


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("read", [read_info, load])
def test_a_damaged_safetensors_file_is_an_error(
    tmp_path: Path, content: bytes, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message) < 500
    assert message.isprintable()


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.5, 0.999])
def test_a_checkpoint_cut_short_is_an_error(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.safetensors"
    save(path, build(TINY, num_classes=2), CheckpointInfo(variant=TINY))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for read in (read_info, load):
        with pytest.raises(CheckpointError, match="again"):
            read(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_headers_are_read_without_torch_and_in_little_memory(tmp_path: Path) -> None:
    for number, content in enumerate(DAMAGED.values()):
        (tmp_path / f"{number}.safetensors").write_bytes(content)
    lists = b'{"__metadata__":' + b"[[]," * (MAX_HEADER // 4 - 10) + b"[]"
    (tmp_path / "lists.safetensors").write_bytes(sized(lists))
    huge = tmp_path / "huge.safetensors"  # a sparse file of 1 TB that claims to be all header
    with huge.open("wb") as file:
        file.write((2**40 - 8).to_bytes(8, "little") + b"{")
        file.truncate(2**40)
    save(tmp_path / "good.safetensors", build(TINY, num_classes=2), CheckpointInfo(variant=TINY))
    script = """
import sys
from pathlib import Path
from resnest_cli.errors import CheckpointError
from resnest_cli.model.checkpoint_header import read_info
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_info(path)
    except CheckpointError as error:
        print(error)
    else:
        assert path.name == "good.safetensors", path
assert not {"torch", "torchvision", "onnx"} & set(sys.modules)
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print("MB", int(peak) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 120


@pytest.mark.parametrize("length", [0x0280, 0x0480])
def test_a_header_whose_length_looks_like_a_pickle_is_still_safetensors(
    tmp_path: Path, length: int
) -> None:
    header = json.dumps({"a": tensor([1], 0, 4)}).encode()
    path = tmp_path / "x.bin"
    path.write_bytes(sized(header.ljust(length), b"0000"))
    assert path.read_bytes()[:1] == b"\x80"
    assert file_kind(path) == "safetensors"
    assert read_info(path).tensors == 1


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    ],
)
def test_what_is_often_saved_instead_of_weights(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_info, load):
        with pytest.raises(CheckpointError, match=message):
            read(path)


def test_a_text_file_is_not_weights(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("resnest50d is the best model\n")
    with pytest.raises(CheckpointError, match="not a file of weights"):
        read_info(path)


def test_folders_and_missing_files(tmp_path: Path) -> None:
    for read in (read_info, load):
        with pytest.raises(CheckpointError, match="is a folder"):
            read(tmp_path)
        with pytest.raises(CheckpointError, match="does not exist"):
            read(tmp_path / "none.pth")
        with pytest.raises(CheckpointError, match="cannot be read"):
            read("a\0b.pth")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device file")
def test_a_device_is_not_read() -> None:
    with pytest.raises(CheckpointError, match="not a regular file"):
        load("/dev/zero")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(GOOD)

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        read_info(path)


def test_thresholds_of_several_labels_come_back(tmp_path: Path) -> None:
    """In a format of its own, which programs that know one label alone refuse; others stay."""
    path, one = tmp_path / "several.safetensors", tmp_path / "one.safetensors"
    network = build(TINY, num_classes=3)
    save(path, network, CheckpointInfo(variant=TINY, thresholds=(0.25, 0.5, 1.0)))
    save(one, network, CheckpointInfo(variant=TINY))
    found = read_info(path)
    assert (found.thresholds, found.format_version) == ((0.25, 0.5, 1.0), 2)
    assert (read_info(one).thresholds, read_info(one).format_version) == (None, 1)
    assert load(path).info.thresholds == found.thresholds
    assert read_header(path).metadata["activation"] == "sigmoid"
    assert not {"activation", "thresholds"} & set(read_header(one).metadata)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("thresholds", "[0.5, 0.5]", "3 numbers from 0 to 1"),
        ("thresholds", "[0.5, 0.5, 1.5]", "3 numbers from 0 to 1"),
        ("thresholds", "[0.5, 0.5, true]", "3 numbers from 0 to 1"),
        ("thresholds", "{}", "must be a JSON list"),
        ("activation", "relu", "activation must be sigmoid"),
    ],
)
def test_damaged_thresholds_are_an_error(tmp_path: Path, key: str, text: str, words: str) -> None:
    path = tmp_path / "x.safetensors"
    save(path, build(TINY, num_classes=3), CheckpointInfo(variant=TINY, thresholds=(0.5,) * 3))
    set_metadata(path, **{key: text})
    with pytest.raises(CheckpointError, match=words):
        read_info(path)


def test_thresholds_move_with_the_temperature(tmp_path: Path) -> None:
    """The same logits are selected; 0 and 1 stay what they mean: always and never."""
    path, limits = tmp_path / "x.safetensors", (0.0, 1.0, 0.2, 0.9, 1e-300)
    network = build(TINY, num_classes=5)
    info = CheckpointInfo(variant=TINY, thresholds=limits, temperature=2.0)
    save(path, network, info)
    set_temperature(path, 0.5)
    found = read_info(path)
    assert found.temperature == 0.5
    assert found.thresholds is not None
    assert found.thresholds[:2] == (0, 1)
    for before, after in zip(limits[2:4], found.thresholds[2:4], strict=True):
        assert math.log(after / (1 - after)) == pytest.approx(4 * math.log(before / (1 - before)))
    assert 0 <= found.thresholds[4] < 1e-300
    set_temperature(path, 0.5, thresholds=limits)
    assert read_info(path).thresholds == limits
