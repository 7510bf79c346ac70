"""What fails leaves files as they were, and says so in words."""

import errno
import os
from pathlib import Path

import pytest

from resnest_cli.errors import CheckpointError, ResnestError
from resnest_cli.files import append, writing


@pytest.mark.parametrize(
    ("call", "number"), [("write", errno.ENOSPC), ("fsync", errno.EIO), ("write", errno.EIO)]
)
def test_a_line_is_added_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "index"
    append(path, b"one\n")
    original_write = os.write

    def fail(descriptor: int, data: bytes = b"") -> int:
        if call == "write" and len(data) > 2:
            return original_write(descriptor, data[:2])  # half of it comes through
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        append(path, b"two\n")
    monkeypatch.undo()
    assert path.read_bytes() == b"one\n"
    append(path, b"three\n")
    assert path.read_bytes() == b"one\nthree\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Make room"), (errno.EMFILE, "ulimit -n"), (errno.EROFS, "may be written"),
     (errno.EIO, "disk fails"), (errno.ENAMETOOLONG, "name too long")],
)  # fmt: skip
def test_what_cannot_be_written_is_told_with_its_remedy(number: int, words: str) -> None:
    with pytest.raises(CheckpointError) as told, writing(Path("f.npy"), CheckpointError):
        raise OSError(number, os.strerror(number), ".f.npy.12345678.tmp")
    assert str(told.value).startswith("f.npy: cannot be written: ")
    assert words.lower() in str(told.value).lower()
    with pytest.raises(ResnestError), writing(Path("f.npy")):
        raise ResnestError("as it is")
