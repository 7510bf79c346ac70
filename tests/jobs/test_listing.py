"""Which inputs are ours, and lines of names."""

import csv
import time
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images.sources import Source
from resnest_cli.jobs.extract import Listing
from resnest_cli.jobs.formats import formatted, read_lines
from resnest_cli.jobs.job import Report, Todo, differences, failures_of, summed
from resnest_cli.jobs.listing import WHOLE, Mark, Shard
from resnest_cli.jobs.local import counting
from resnest_cli.jobs.parts import Part, Store, discard
from tests.jobs import fake


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("total", [0, 1, 3, 4, 5, 23, 24])
def test_shards_share_the_list_by_whole_batches(count: int, batch_size: int, total: int) -> None:
    seen = []
    for index in range(1, count + 1):
        shard = Shard(index, count)
        own = [i for i in range(total) if shard.owns(i // batch_size)]
        assert len(own) == shard.size(total, batch_size)
        seen += own
    assert sorted(seen) == list(range(total))


def listing(target: Path, names: list[str], todo: Todo, shard: Shard = WHOLE) -> Listing:
    job = fake.job_for(target, target, batch_size=2, shard=shard)
    return Listing([Source(name, path=name) for name in names], job, todo, 0)


def test_the_chain_covers_every_name_so_far(tmp_path: Path) -> None:
    target = tmp_path / "f.npy"
    names = ["a", "b", "c", "d", "e"]
    first = listing(target, names, Todo())
    assert [s.name for s in first] == names
    assert [first.marks[n].listed for n in (0, 1)] == [2, 4]
    assert first.end is not None
    chains = {first.marks[0].chain, first.marks[1].chain, first.end.chain}
    assert len(chains) == 3
    for other in (["ab", "", "c", "d", "e"], ["b", "a", "c", "d", "e"], ["a", "b", "c", "d", "f"]):
        again = listing(target, other, Todo())
        list(again)
        assert again.end != first.end
    # A shard's own marks tell of the others' inputs, too.
    shard = listing(target, names, Todo(), Shard(2, 2))
    assert [s.name for s in shard] == ["c", "d"]
    assert shard.marks == {0: first.marks[1]}
    assert shard.end == first.end
    good = Todo(marks=(first.marks[0], first.marks[1]))
    assert [s.name for s in listing(target, [*names[:4], "new"], good)][-1] == "new"
    (tmp_path / "f.csv").write_bytes(b"input,row,status,error\nc,0,ok,\nd,1,ok,\ng,2,ok,\n")
    with pytest.raises(UsageError, match="other shards"):
        list(listing(target, ["a", "X", "c", "d"], Todo(marks=(first.marks[1],)), Shard(2, 2)))


@pytest.mark.parametrize(
    "name", ["plain", 'a,"b"', "new\nline", "ret\rurn", "caf\udce9", " space ", '"', "é"]
)
def test_any_name_survives_a_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "lines"
    path.write_bytes(formatted(name, 3, None) + formatted(name, None, f"is {name}"))
    one, two = read_lines(path, header=False)
    assert one[:3] == (name, None, None)
    assert two[:3] == (name, f"is {name}", None)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert next(csv.reader(file)) == [name, "3", "ok", ""]


def part(store: Store, number: int, inputs: int) -> Part:
    lines = b"".join(formatted(f"{number}-{i}", None, "x") for i in range(inputs))
    made = Part(number, inputs, 0, 0, len(lines), Mark(number + 1, "c"), {"other": inputs})
    for path, data in ((store.rows_path(made), b""), (store.lines_path(made), lines)):
        path.with_name(path.name + ".tmp").write_bytes(data)
    return made


def test_a_torn_index_counts_up_to_its_last_whole_line(tmp_path: Path) -> None:
    target = tmp_path / "f.npy"
    store = Store.create(target, "run", {"a": [1]})
    store.commit(part(store, 0, 2))
    store.commit(part(store, 1, 3))
    part(store, 2, 1)  # under its temporary name
    index = store.folder / "index.jsonl"
    whole = index.read_bytes()
    for cut in range(len(whole)):
        index.write_bytes(whole[:cut])
        known = Store.load(target)
        assert known is not None
        assert known.inputs == [0, 2, 5][whole[:cut].count(b"\n")]
        assert known.identity == {"a": [1]}
    index.write_bytes(whole)
    again = Store.load(target)
    assert again is not None
    assert again.repair() == 0
    again.tidy()
    names = {"state.json", "index.jsonl", "000000.rows", "000000.csv", "000001.rows", "000001.csv"}
    assert {path.name for path in store.folder.iterdir()} == names
    assert [line.name for line in again.lines()][3:] == ["1-1", "1-2"]
    (store.folder / "000001.csv").write_bytes(b"")
    assert again.repair() == 3  # the inputs of the part whose lines are gone
    known = Store.load(target)
    assert known is not None
    assert (known.inputs, again.inputs) == (2, 2)
    (store.folder / "state.json").write_text("{")
    with pytest.raises(ResnestError, match="--overwrite"):
        Store.load(target)
    discard(store.folder)
    assert Store.load(target) is None


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


def test_the_total_is_counted_ahead_for_our_shard(tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("".join(f"photo{i}.jpg\n" for i in range(23)))
    job = fake.job_for(tmp_path / "f.npy", listed, batch_size=4, shard=Shard(2, 2))
    with counting(job) as total:
        until = time.monotonic() + 10
        while total() != 11 and time.monotonic() < until:
            pass
        assert total() == 11
    with counting(replace(job, options=replace(job.options, from_file="-"))) as total:
        assert total() is None
