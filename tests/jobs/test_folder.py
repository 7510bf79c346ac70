"""Parts that count and parts that do not, and the folder that they lie in."""

import json
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.inference.ranking import Prediction, Record
from resnest_cli.jobs.folder import FolderOutput
from resnest_cli.jobs.job import Item, Report
from resnest_cli.jobs.listing import NO_STAT, Input, Mark
from resnest_cli.jobs.part_files import read_part
from resnest_cli.jobs.parts import Manifest, PartInfo, Parts
from resnest_cli.jobs.ray import part_size_for

pytest.importorskip("pyarrow")

ENTRIES = [
    Item("a", None, np.array([1, 2], np.float32).tobytes()),
    Item("b", "is empty (0 bytes)", None),
]
RECORDS = [
    Record("a", "m", predictions=(Prediction(1, 3, "cat", 0.5),), unsure=True),
    Record("b", "m", error="is damaged: so it is"),
]
FEATURES = {"model": "m", "engine": {"batch_size": 8},
            "extraction": {"row_shape": [2], "dtype": "float32"}}  # fmt: skip
RANKING = {"model": "m", "ranking": {"reject_below": 0.5}}
INFO = PartInfo(3, 2, {"empty": 1})


def manifest(identity: dict = FEATURES) -> Manifest:
    return Manifest(identity, Mark(10, "0" * 64), 2, 5, 10)


def folder(path: object, suffix: str = "parquet", identity: dict = FEATURES) -> FolderOutput:
    return FolderOutput(str(path), suffix, manifest(identity))


def test_a_part_that_is_whole_tells_of_itself(tmp_path: Path) -> None:
    target = folder(tmp_path)
    assert target.part(3, 2) is None
    assert target.commit(3, [ENTRIES[0], ENTRIES[1]._replace(kind="empty")]) == INFO
    assert target.part(3, 2) == INFO
    assert target.whole_parts(manifest()) == [INFO]
    assert [path.name for path in tmp_path.iterdir()] == ["part-00003.parquet"]


def test_what_does_not_count(tmp_path: Path) -> None:
    target, path = folder(tmp_path), tmp_path / "part-00003.parquet"
    target.commit(3, ENTRIES)
    data = path.read_bytes()
    for bad in (data[:-9], data[:20], b"", b"no parquet at all, but long enough to be a file"):
        path.write_bytes(bad)
        assert target.part(3, 2) is None
    path.write_bytes(data)
    assert target.part(3, 1) is None, "of another length"
    path.with_name("part-00004.parquet").write_bytes(data)
    assert target.part(4, 2) is None, "another part's"
    assert folder(tmp_path, identity=FEATURES | {"model": "n"}).part(3, 2) is None
    (tmp_path / "part-00001.parquet.0123abcd.tmp").write_bytes(data)
    assert [info.part for info in target.whole_parts(manifest())] == [3]


def test_a_write_that_fails_leaves_the_old_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnest_cli.jobs.parts.time.sleep", lambda _: None)
    target = folder(tmp_path)
    target.commit(3, ENTRIES)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("resnest_cli.files.os.fsync", full)
        with pytest.raises(ResnestError, match=r"part-00003\.parquet: cannot be written: No space"):
            target.commit(3, ENTRIES[:1])
    assert target.part(3, 2) is not None
    assert len(list(tmp_path.iterdir())) == 1


def test_lines(tmp_path: Path) -> None:
    target, path = folder(tmp_path, "jsonl", RANKING), tmp_path / "part-00000.jsonl"
    target.commit(0, [RECORDS[0], replace(RECORDS[1], kind="damaged")])
    data = path.read_bytes()
    assert target.part(0, 2) == PartInfo(0, 2, {"damaged": 1})
    kinds = tmp_path / "_failures" / "00000.json"
    for no_use in (b'{"damaged": 2}', b"{", None):  # another number, cut, an earlier version's
        kinds.write_bytes(no_use) if no_use else kinds.unlink()
        assert target.part(0, 2) == PartInfo(0, 2, {"other": 1})
    assert [json.loads(line)["unsure"] for line in data.splitlines()[:1]] == [True]
    for bad in (data[:-1], data.splitlines(keepends=True)[0], b""):
        path.write_bytes(bad)
        assert target.part(0, 2) is None


def test_predictions_as_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "part-00003.parquet"
    folder(tmp_path, identity=RANKING).commit(3, RECORDS)
    first, second = pq.read_table(path).to_pylist()
    assert first["predictions"] == [{"rank": 1, "index": 3, "label": "cat", "probability": 0.5}]
    assert (first["unsure"], first["error"], first["status"]) == (True, None, "ok")
    assert second == {"input": "b", "status": "error", "error": "is damaged: so it is",
                      "model": "m", "predictions": [], "unsure": None}  # fmt: skip
    folder(tmp_path, identity={"ranking": {"reject_below": 0.0}}).commit(3, RECORDS)
    assert "unsure" not in pq.read_schema(path).names


def test_features_as_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "part-00003.parquet"
    folder(tmp_path).commit(3, ENTRIES)
    assert pq.read_table(path).to_pylist() == [
        {"input": "a", "status": "ok", "error": None, "feature": [1.0, 2.0]},
        {"input": "b", "status": "error", "error": "is empty (0 bytes)", "feature": None},
    ]
    assert pq.read_schema(path).metadata[b"row_shape"] == b"[2]"


def items(count: int) -> list[Input]:
    return [Input(f"p{i}.png", "file", f"/photos/p{i}.png", i, 2 * i) for i in range(count)]


@pytest.mark.parametrize("count", [1, 3, 4, 9, 600])
def test_what_is_written_is_read_part_by_part(tmp_path: Path, count: int) -> None:
    target = FolderOutput(str(tmp_path), "parquet")
    assert target.write_listing(items(count), 4) == count
    about = Manifest({}, Mark(count, ""), 4, 0, count)
    read = [
        FolderOutput(str(tmp_path), "parquet").inputs_of(part) for part in range(len(about.sizes))
    ]
    assert [len(part) for part in read] == about.sizes
    assert [item for part in read for item in part] == items(count)
    assert list(target.names(about)) == [item.name for item in items(count)]
    assert len(list((tmp_path / "_listing").iterdir())) == -(-count // 256)


@pytest.mark.parametrize("suffix", ["parquet", "rows"])
def test_a_part_of_the_listing_is_read_without_the_others(tmp_path: Path, suffix: str) -> None:
    names = ["plain", os.fsdecode(b"photo \xff\n.png"), '"', "a,b", "é", "\ud800", "\u2028"]
    other = (
        Input("-", "stdin", ""),
        Input("x*", "matched nothing", "is a pattern"),
        Input("s.tar/a", "member", "/s.tar", 512, 7),
        Input("s.tar/b", "member", "/s.tar", 0, 7),
        Input("shown", "url", "http://me:secret@host/a"),
    )
    listed = [*(Input(name, "file", name) for name in names), *other]
    target = Parts(str(tmp_path), suffix)
    assert target.write_listing(listed, 4) == 12
    parts = [Parts(str(tmp_path), suffix).inputs_of(number) for number in (2, 0, 1)]
    assert parts == [listed[8:], listed[:4], listed[4:8]]
    path = tmp_path / "_listing" / "00000.jsonl"
    cut = r"cut off or damaged, .* inputs of part 3 are not known any more: --overwrite starts"
    with pytest.raises(ResnestError, match=cut):
        target.inputs_of(3)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ResnestError, match=r"00000\.jsonl is cut off or damaged"):
        target.inputs_of(2)
    path.write_bytes(b"")
    with pytest.raises(ResnestError, match=r"00000\.jsonl is empty"):
        target.inputs_of(0)
    with pytest.raises(ResnestError, match=r"00001\.jsonl does not exist"):
        target.inputs_of(64)


def test_rows(tmp_path: Path) -> None:
    """A part in .rows has rows, lines, sizes and times, whatever bytes the names have."""
    photo = tmp_path / os.fsdecode(b"\xff, \n.png")
    photo.write_bytes(b"12345")
    names = [str(photo), "gone.png"]
    target = Parts(str(tmp_path / "parts"), "rows", manifest())
    target.write_listing([Input(name, "file", name) for name in names], 2)
    target.manifest = manifest()
    entries = [item._replace(name=name) for item, name in zip(ENTRIES, names, strict=True)]
    target.commit(0, entries)
    found = [*read_part(Path(target.part_path(0)), 8)]
    assert [item[:3] for item in found] == [item[:3] for item in entries]
    time = photo.stat().st_mtime_ns
    assert [item.stat for item in found] == [struct.pack("<qq", 5, time), NO_STAT]
    path = Path(target.part_path(0))
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        assert target.part(0, 2) is None, cut
    path.write_bytes(data[1:])
    assert target.part(0, 2) is None
    with pytest.raises(ResnestError, match="has changed"):
        next(read_part(path, 8))


def test_a_finished_folder_of_an_earlier_version(tmp_path: Path) -> None:
    """Its listing was Parquet: it can be verified, not gone on with."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = folder(tmp_path)
    for part in range(5):
        target.commit(part, ENTRIES)
    about = {"format": 1, "identity": FEATURES, "listing": {"inputs": 10, "sha256": "0" * 64},
             "part_size": 2, "skipped": 5}  # fmt: skip
    (tmp_path / "_manifest.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match="of an earlier version of this program: finish it"):
        target.look(resume=True, overwrite=False)
    (tmp_path / "_summary.json").write_text('{"failures": {"empty": 2}}')
    (tmp_path / "_listing").mkdir()
    names = [f"{i}\udcff.png" for i in range(10)]
    table = pa.table({"input": [os.fsencode(name) for name in names]})
    pq.write_table(table, tmp_path / "_listing" / "00000.parquet", row_group_size=2)
    finished = FolderOutput(str(tmp_path), "parquet").look(resume=True, overwrite=False)
    assert finished == replace(manifest(), finished=True)
    target.look(resume=True, overwrite=False)
    assert [*target.names(finished)] == names
    assert target.finish(finished, Report()) == {"failures": {"empty": 2}}
    with pytest.raises(UsageError, match="of an earlier version of this program: finish it"):
        target.retry(finished, {}, iter(()))
    assert target.look(resume=True, overwrite=False) == finished
    Path(target.part_path(3)).unlink()
    with pytest.raises(UsageError, match="of an earlier version of this program: finish it"):
        target.look(resume=True, overwrite=False)
    target.clear()
    assert not list(tmp_path.iterdir())


def test_a_folder_before_between_and_after(tmp_path: Path) -> None:
    target = FolderOutput(str(tmp_path / "new" / "out"), "parquet")
    assert target.look(resume=False, overwrite=False) is None
    target.write_listing(items(10), 2)
    assert target.look(resume=False, overwrite=False) is None, "nothing counts without a manifest"
    target.begin(manifest())
    with pytest.raises(UsageError, match="unfinished run: --resume goes on with it"):
        target.look(resume=False, overwrite=False)
    assert target.look(resume=True, overwrite=False) == manifest()
    left = tmp_path / "new" / "out" / ".part-00000.parquet.01234567.tmp"
    left.touch()
    summary = target.finish(manifest(), Report(failures={"empty": 2}, computed=4, parts=5))
    assert summary["counts"] == {"inputs": 10, "rows": 8, "failed": 2}
    assert summary["parts"] == {"size": 2, "computed": 4, "found": 1}
    assert not left.exists()
    assert target.look(resume=True, overwrite=False) == manifest(), "its parts are missing"
    for part in range(5):
        target.commit(part, ENTRIES)
    finished = target.look(resume=True, overwrite=False)
    assert finished == replace(manifest(), finished=True)
    report = Report()
    assert target.finish(finished, report) == summary
    assert report.finished_before
    assert report.failures == {"empty": 2}
    with pytest.raises(UsageError, match="exists: --overwrite replaces it"):
        target.look(resume=False, overwrite=False)
    assert target.look(resume=False, overwrite=True) is None
    target.clear()
    assert [path for path in (tmp_path / "new" / "out").rglob("*") if path.is_file()] == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"other files \(thesis.txt\)"):
            FolderOutput(str(tmp_path), "parquet").look(resume=False, overwrite=overwrite)


def test_a_damaged_or_later_manifest_is_told(tmp_path: Path) -> None:
    target = FolderOutput(str(tmp_path), "parquet")
    target.begin(manifest())
    path = tmp_path / "_manifest.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"format": 99}))
    with pytest.raises(ResnestError, match="later version"):
        target.look(resume=True, overwrite=False)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ResnestError, match=r"_manifest\.json: cannot be read"):
        target.look(resume=True, overwrite=False)


def test_parts_with_failures_are_computed_again(tmp_path: Path) -> None:
    target = folder(tmp_path)
    target.commit(0, ENTRIES[:1] * 2)
    target.commit(1, ENTRIES)
    assert [info.failed for info in target.whole_parts(manifest())] == [0, 1]
    finished = replace(manifest(), finished=True)
    assert target.retry(finished, {}, iter(())) == manifest()
    assert [info.part for info in target.whole_parts(manifest())] == [0]
    assert target.retry(finished, {}, iter(())) == finished


def test_the_identity_of_parts_is_that_of_all_that_decides_them(tmp_path: Path) -> None:
    one = manifest()
    others = [
        replace(one, identity={"model": "n"}),
        replace(one, part_size=64),
        replace(one, listing=replace(one.listing, sha256="1" * 64)),
        replace(one, skipped=6, finished=True),
    ]
    first, *different, same = (
        FolderOutput(str(tmp_path), "parquet", each).identity for each in (one, *others)
    )
    assert len({first, *different}) == 4
    assert same == first
    assert first == "58f24dfbcb269d08", "as earlier versions have it"


@pytest.mark.parametrize(
    ("inputs", "workers", "batch_size", "row_bytes", "size"),
    [
        (10, 1, 8, 8192, 32),
        (5_000, 1, 8, 8192, 1024),
        (5_000, 8, 8, 8192, 160),
        (None, 8, 8, 8192, 1024),
        (None, 8, 48, 8192, 1056),
        (None, 1, 8, 2**20, 64),
        (None, 1, 8, 2**30, 8),
    ],
)
def test_the_size_of_parts(
    inputs: int | None, workers: int, batch_size: int, row_bytes: int, size: int
) -> None:
    found = part_size_for(inputs, workers=workers, batch_size=batch_size, row_bytes=row_bytes)
    assert found == size


def test_an_output_on_a_file_system_of_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").store.clear()
    target = FolderOutput("memory://bucket/out", "parquet")
    assert target.look(resume=False, overwrite=False) is None
    with target.locked():
        target.write_listing(items(10), 2)
        target.begin(manifest())
        FolderOutput("memory://bucket/out", "parquet", manifest()).commit(3, ENTRIES)
        assert [info.part for info in target.whole_parts(manifest())] == [3]
        target.finish(manifest(), Report())
    assert target.look(resume=True, overwrite=False) == manifest()
    names = {name.rpartition("/")[2] for name in fsspec.filesystem("memory").store}
    assert names == {"part-00003.parquet", "_manifest.json", "_summary.json", "00000.jsonl"}
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("suffix", ["rows", "jsonl"])
def test_this_machine_needs_no_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    identity, results = (FEATURES, ENTRIES) if suffix == "rows" else (RANKING, RECORDS)
    target = folder(tmp_path / "out", suffix, identity)
    with target.locked():
        target.write_listing(items(10), 2)
        target.begin(manifest(identity))
        for part in range(5):
            target.commit(part, results)
        assert len(target.whole_parts(manifest(identity))) == 5
        target.finish(manifest(identity), Report())
    assert target.look(resume=True, overwrite=False) == replace(manifest(identity), finished=True)
