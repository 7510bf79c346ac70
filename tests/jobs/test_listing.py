"""Inputs that are written down, lists that are compared, and lines of names."""

import csv
import io
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from resnest_cli.errors import UsageError
from resnest_cli.images.sources import SourceStats
from resnest_cli.jobs import local
from resnest_cli.jobs.formats import HEADER, formatted, read_lines
from resnest_cli.jobs.job import Report, differences, failures_of, summed
from resnest_cli.jobs.listing import (
    Chain,
    Input,
    ListShard,
    LocalInputs,
    check_same_list,
    photo_stat,
)
from resnest_cli.options import RunOptions
from tests.conftest import make_photo
from tests.jobs import fake


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("total", [0, 1, 3, 4, 5, 23, 24])
def test_shards_share_the_list_by_whole_batches(count: int, batch_size: int, total: int) -> None:
    seen = []
    for index in range(1, count + 1):
        shard = ListShard(index, count)
        own = [i for i in range(total) if shard.owns(i // batch_size)]
        assert len(own) == shard.size(total, batch_size)
        seen += own
    assert sorted(seen) == list(range(total))


def inputs(*names: str) -> list[Input]:
    return [Input(name, "file", name) for name in names]


def test_sizes_and_times_of_files(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "a.png")
    os.utime(photo, ns=(0, 1_500_000_000_123_456_789))
    size, time = struct.unpack("<qq", photo_stat(Input("a", "file", str(photo))))
    assert (size, time) == (photo.stat().st_size, photo.stat().st_mtime_ns)
    for none in (Input("u", "url", "http://x/a.png"), Input("g", "file", "gone.png")):
        assert struct.unpack("<qq", photo_stat(none)) == (-1, -1)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ("a b c d e", None),
        ("a X c d e", "input 2 was 'b' and is 'X'"),
        ("a b c d", "'e' is missing after input 4"),
        ("a b c d e f", "input 6 is new: 'f'"),
        ("", "'a' is missing after input 0"),
    ],
)
def test_what_differs_between_two_lists_is_said(names: str, what: str | None) -> None:
    first, chain = Chain(), Chain()
    known = [item.name for item in first(inputs(*"abcde"))]
    again = chain(inputs(*names.split()))
    if what is None:
        check_same_list("f.npy", again, known, first.mark, chain)
        return
    with pytest.raises(UsageError, match=f"that f.npy was begun with: {what}. Name the same"):
        check_same_list("f.npy", again, known, first.mark, chain)


def test_a_shard_sees_what_differs_in_the_others() -> None:
    first, chain, shard = Chain(), Chain(), ListShard(2, 2)
    known = [item.name for item in shard.own(first(inputs(*"abcde")), 2)]
    assert known == ["c", "d"]
    own = shard.own(chain(inputs(*"aXcde")), 2)
    with pytest.raises(UsageError, match="where other shards read"):
        check_same_list("f.npy", own, known, first.mark, chain)
    ends = {first.mark}
    for other in (["ab", "", "c", "d", "e"], ["b", "a", "c", "d", "e"], ["a", "b", "c", "d", "f"]):
        chain = Chain()
        assert len([*chain(inputs(*other))]) == 5
        ends.add(chain.mark)
    assert len(ends) == 4


def test_stdin_is_read_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list, or a photo, that a pipe gives only once."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a.png\nb.png\n")))
    listed = LocalInputs(RunOptions(from_file="-"))
    for _ in range(2):
        assert [item.name for item in listed(SourceStats())] == ["a.png", "b.png"]
    listed.close()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"photo")))
    photo = LocalInputs(RunOptions(inputs=("-", "-")))
    one, two = photo(SourceStats())
    assert (one.kind, two.kind) == ("stdin", "unreadable")
    assert photo.source(one).data == photo.source(one).data == b"photo"
    assert "was read already" in (photo.source(two).error or "")
    photo.close()
    monkeypatch.setattr("sys.stdin", None)
    (closed,) = LocalInputs(RunOptions(inputs=("-",)))(SourceStats())
    assert "which is closed" in closed.where


def test_parts_are_whole_batches_that_a_kill_may_cost(tmp_path: Path) -> None:
    def size(batch_size: int, gmacs: float | None, device: str = "cpu", side: int = 224) -> int:
        job = fake.job_for(tmp_path / "f.npy", tmp_path, batch_size=batch_size)
        runner = local.LocalRunner(job, None)  # type: ignore[arg-type]
        preprocessing = SimpleNamespace(size=224)
        variant = SimpleNamespace(id="x", gmacs=gmacs, preprocessing=preprocessing)
        model = SimpleNamespace(variant=variant, num_classes=0)
        engine = SimpleNamespace(device=device)
        runner._classifier = SimpleNamespace(  # type: ignore[assignment]
            engine=engine, model=model, preprocessing=SimpleNamespace(size=side)
        )
        return runner.cut(iter(()))[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "row_bytes", lambda *_: 8192)
        assert size(8, 5.4) == 64  # 5 s at 100 GMAC/s and 20 ms for decoding
        assert size(8, 5.4, side=448) == 16
        assert size(8, 0.04) == 240
        assert size(8, None) == 64
        assert size(8, 77.0, "cuda:0") == 1024
        assert size(512, 77.0) == 512
        patch.setattr(local, "row_bytes", lambda *_: 2**24)
        assert size(2, 5.4, "cuda:0") == 4


@pytest.mark.parametrize(
    "name", ["plain", 'a,"b"', "new\nline", "ret\rurn", "caf\udce9", " space ", '"', "é"]
)
def test_any_name_survives_a_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "lines"
    path.write_bytes(
        HEADER.encode() + formatted(name, 3, None) + formatted(name, None, f"is {name}")
    )
    one, two = read_lines(path)
    assert one[:3] == (name, None, None)
    assert two[:3] == (name, f"is {name}", None)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert [*csv.reader(file)][1] == [name, "3", "ok", ""]


def test_differences_are_named() -> None:
    then = {"weights_sha256": "a" * 64, "extraction": {"dtype": "float32"}, "shard": None}
    now = {"weights_sha256": "b" * 64, "extraction": {"dtype": "float16"},
           "shard": {"index": 1, "count": 2}}  # fmt: skip
    assert differences(then, then) == ""
    assert differences(then, now) == (
        "weights aaaaaaaa there, bbbbbbbb here; --dtype float32 there, float16 here; "
        "--shard none there, 1/2 here"
    )


def test_failures_by_kind() -> None:
    errors = [("is gone", "missing"), (None, None), ("is odd", None), ("is not here", "missing")]
    assert failures_of(errors) == {"missing": 2, "other": 1}
    failures = summed([{"damaged": 2, "missing": 1200}, {"damaged": 1}])
    report = Report({"counts": {"inputs": 2000, "failed": 1203}}, failures)
    assert "(1,200 missing, 3 damaged): feats.csv says" in report.text("", "feats.csv says", "")
