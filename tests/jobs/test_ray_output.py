"""Parts that count and parts that do not, and the folder that they lie in."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.inference.ranking import Prediction, Record
from resnest_cli.jobs.formats import Matrix, features_file, lines_file, records_file
from resnest_cli.jobs.job import Item
from resnest_cli.jobs.listing import Input, Mark
from resnest_cli.jobs.ray import part_size_for
from resnest_cli.jobs.ray_output import Manifest, Output, PartInfo

pytest.importorskip("pyarrow")

ENTRIES = [
    Item("a", None, np.array([1, 2], np.float32).tobytes()),
    Item("b", "is empty (0 bytes)", None),
]
RECORDS = [
    Record("a", "m", predictions=(Prediction(1, 3, "cat", 0.5),), unsure=True),
    Record("b", "m", error="is damaged: so it is"),
]
INFO = PartInfo(3, "ours", 2, {"empty": 1})


def parts_in(folder: object, suffix: str = "parquet") -> Output:
    return Output(str(folder), suffix, "ours")


def features(info: PartInfo = INFO) -> bytes:
    return features_file(ENTRIES, Matrix(2, 2, (2,), "float32"), asdict(info))


def test_a_part_that_is_whole_tells_of_itself(tmp_path: Path) -> None:
    parts = parts_in(tmp_path)
    assert parts.info(3, 2) is None
    parts.commit(3, features())
    assert parts.info(3, 2) == INFO
    assert parts.whole_parts([2] * 5) == [INFO]
    assert [path.name for path in tmp_path.iterdir()] == ["part-00003.parquet"]


def test_what_does_not_count(tmp_path: Path) -> None:
    parts, data = parts_in(tmp_path), features()
    for bad in (data[:-9], data[:20], b"", b"no parquet at all, but long enough to be a file"):
        parts.commit(3, bad)
        assert parts.info(3, 2) is None
    parts.commit(3, data)
    assert parts.info(3, 1) is None, "of another length"
    parts.commit(4, data)
    assert parts.info(4, 2) is None, "another part's"
    assert Output(str(tmp_path), "parquet", "theirs").info(3, 2) is None
    (tmp_path / "part-00005.parquet.0123abcd.tmp").write_bytes(data)
    assert parts.whole_parts([2] * 6) == [INFO], "only the third"


def test_a_write_that_fails_leaves_the_old_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import fs

    parts = parts_in(tmp_path)
    parts.commit(3, features())

    class Full(fs.LocalFileSystem):
        def move(self, *_: object) -> None:
            raise OSError(28, "No space left on device")

    full = parts_in(tmp_path)
    full.system = Full()
    with pytest.raises(OSError, match="No space"):
        full.commit(3, b"other")
    assert parts.info(3, 2) == INFO
    assert len(list(tmp_path.iterdir())) == 1


def test_lines(tmp_path: Path) -> None:
    parts, data = parts_in(tmp_path, "jsonl"), lines_file(RECORDS)
    parts.commit(0, data)
    assert parts.info(0, 2) == PartInfo(0, "ours", 2, {"other": 1})
    assert [json.loads(line)["unsure"] for line in data.splitlines()[:1]] == [True]
    for bad in (data[:-1], data.splitlines(keepends=True)[0], b""):
        parts.commit(0, bad)
        assert parts.info(0, 2) is None


def test_predictions_as_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "part-00003.parquet"
    path.write_bytes(records_file(RECORDS, asdict(INFO), rejecting=True))
    first, second = pq.read_table(path).to_pylist()
    assert first["predictions"] == [{"rank": 1, "index": 3, "label": "cat", "probability": 0.5}]
    assert (first["unsure"], first["error"], first["status"]) == (True, None, "ok")
    assert second == {"input": "b", "status": "error", "error": "is damaged: so it is",
                      "model": "m", "predictions": [], "unsure": None}  # fmt: skip
    path.write_bytes(records_file(RECORDS, asdict(INFO), rejecting=False))
    assert "unsure" not in pq.read_schema(path).names


def test_features_as_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "part.parquet"
    path.write_bytes(features())
    assert pq.read_table(path).to_pylist() == [
        {"input": "a", "status": "ok", "error": None, "feature": [1.0, 2.0]},
        {"input": "b", "status": "error", "error": "is empty (0 bytes)", "feature": None},
    ]
    assert pq.read_schema(path).metadata[b"row_shape"] == b"[2]"


def manifest() -> Manifest:
    return Manifest({"model": "m", "engine": {"batch_size": 8}}, Mark(2, "0" * 64), 32, 5)


def test_a_folder_before_between_and_after(tmp_path: Path) -> None:
    target = Output(str(tmp_path / "new" / "out"), "parquet")
    assert target.look(resume=False, overwrite=False) is None
    target.clear()
    target.list_inputs([Input("a", "file", "/a")], 32)
    assert target.look(resume=False, overwrite=False) is None, "nothing counts without a manifest"
    target.begin(manifest())
    with pytest.raises(UsageError, match="unfinished run: --resume goes on with it"):
        target.look(resume=False, overwrite=False)
    assert target.look(resume=True, overwrite=False) == manifest()
    marks = tmp_path / "new" / "out" / "_attempts"  # of earlier versions
    marks.mkdir()
    (marks / "00000.json").touch()
    target.finish({"counts": {}})
    assert not list(marks.iterdir())
    with pytest.raises(UsageError, match="exists: --overwrite replaces it"):
        target.look(resume=False, overwrite=False)
    assert target.look(resume=False, overwrite=True) is None
    target.clear()
    assert [path for path in (tmp_path / "new" / "out").rglob("*") if path.is_file()] == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"other files \(thesis.txt\)"):
            Output(str(tmp_path), "parquet").look(resume=False, overwrite=overwrite)


def test_a_damaged_or_later_manifest_is_told(tmp_path: Path) -> None:
    target = Output(str(tmp_path), "parquet")
    target.begin(manifest())
    path = tmp_path / "_manifest.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"format": 99}))
    with pytest.raises(ResnestError, match="later version"):
        target.look(resume=True, overwrite=False)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ResnestError, match=r"_manifest\.json cannot be read"):
        target.look(resume=True, overwrite=False)


def test_the_identity_of_parts_is_that_of_all_that_decides_them() -> None:
    one = manifest()
    others = [
        replace(one, identity={"model": "n"}),
        replace(one, part_size=64),
        replace(one, listing=replace(one.listing, chain="1" * 64)),
    ]
    assert len({one.hash, *(other.hash for other in others)}) == 4
    assert replace(one, skipped=6).hash == one.hash


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
    target = Output("memory://bucket/out", "parquet")
    assert target.look(resume=False, overwrite=False) is None
    with target.locked():
        target.clear()
        target.list_inputs([Input("a", "file", "/a")], 32)
        target.begin(manifest())
        parts = Output("memory://bucket/out", "parquet", "ours")
        parts.commit(3, features())
        assert parts.whole_parts([2] * 5) == [INFO]
        target.finish({"counts": {}})
    assert target.look(resume=True, overwrite=False) == manifest()
    names = {name.rpartition("/")[2] for name in fsspec.filesystem("memory").store}
    assert names == {"part-00003.parquet", "_manifest.json", "_summary.json", "00000.parquet"}
    fsspec.filesystem("memory").store.clear()
