"""Shards behind addresses: what this machine lacks, and servers that send too much, in words."""

import errno
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from resnest_cli.data.shard_files import Files, Shard, fetch
from resnest_cli.errors import ResnestError
from tests.server import File, Reply, Server

DATA = bytes(1000)


def test_a_shard_and_one_larger_than_its_index_says(server: Server) -> None:
    server.files["/a.tar"] = File(DATA)
    with fetch(Shard(server.url("/a.tar"), 1, len(DATA))) as file:
        assert file.read() == DATA
    for framing in ("length", "chunked"):
        server.script("/a.tar", Reply(framing=framing))
        with pytest.raises(ResnestError, match=r"a\.tar: .* larger than the limit of 999 bytes"):
            fetch(Shard(server.url("/a.tar"), 1, 999))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "not today. Set TMPDIR"),
        (errno.EACCES, "not today. Set TMPDIR"),
        (errno.EMFILE, "with `ulimit -n 4096`"),
        (errno.ENOENT, "not today. Set TMPDIR"),
    ],
)
def test_a_temporary_folder_that_cannot_be_made(monkeypatch, number: int, words: str) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, "not today")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(ResnestError, match=rf"a\.tar: .* {words}"):
        fetch(Shard("http://127.0.0.1:9/a.tar", 0, 0))


def test_a_machine_without_threads(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    files = Files([Shard("http://127.0.0.1:9/a.tar", 0, 0)])
    with pytest.raises(ResnestError, match=r"refuses another process or thread.*ulimit -u"):
        files.open(0)
    files.close()
