"""Whole runs on a cluster: predictions, shards, other file systems, going on, and refusals."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import make_photo
from tests.jobs.nodes import Nodes, parts, rows

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COUNT = 70


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory):
    with Nodes(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(COUNT):
        make_photo(folder / f"{index}.png", (60, 40), seed=index)
    (folder / "13.png").write_bytes((folder / "13.png").read_bytes()[:100])
    (folder / "notes.txt").write_text("no photo")
    return folder


def local(nodes: Nodes, *words: object) -> str:
    """What the local runner prints."""
    command = [sys.executable, "-m", "resnest_cli", *map(str, words)]
    done = subprocess.run(command, env=nodes.env, check=False, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr
    return done.stdout


def lines(text: str) -> dict[str, dict]:
    return {record["input"]: record for record in map(json.loads, text.splitlines())}


def same(found: dict[str, dict], expected: dict[str, dict]) -> None:
    """The same records; probabilities to 1e-5."""
    assert found.keys() == expected.keys()
    for name, record in expected.items():
        ours, theirs = found[name].pop("predictions"), record.pop("predictions")
        assert found[name] == record
        assert [p["label"] for p in ours] == [p["label"] for p in theirs]
        pairs = zip(ours, theirs, strict=True)
        assert all(abs(a["probability"] - b["probability"]) <= 1e-5 for a, b in pairs)


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_predictions_are_those_of_the_local_runner(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path, format_: str
) -> None:
    out = tmp_path / "out"
    words = ["predict", photos, "-m", tiny_checkpoint, "-k", 3, "--reject-below", 0.3, "--tta"]
    expected = lines(local(nodes, *words, "--format", "jsonl"))
    said = nodes.run(*words, "-o", out, "--format", format_, code=3)
    assert "1 other file without a known image extension was skipped" in said
    assert f"1 of {COUNT} inputs could not be read (1 truncated)" in said
    if format_ == "jsonl":
        found = lines("".join(path.read_text() for path in parts(out)))
    else:
        found = rows(out)
        found["x"] = found.pop(str(photos / "13.png"))
        expected["x"] = expected.pop(str(photos / "13.png"))
        expected["x"]["unsure"] = None  # a column has a value in every row
    assert len(found) == COUNT
    same(found, expected)
    counts = json.loads((out / "_summary.json").read_text())["counts"]
    assert counts == {"inputs": COUNT, "rows": COUNT - 1, "failed": 1}


def test_shards_and_addresses(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for index in range(number, COUNT, 2):
                archive.add(photos / f"{index}.png", f"{index}.png")
    model = ("-m", tiny_checkpoint)
    nodes.run("features", tmp_path / "*.tar", *model, "-o", tmp_path / "shards", code=3)
    address = f"file://{tmp_path}/folder"
    nodes.run("features", f"file://{photos}", *model, "-o", address, code=3)
    from_shards, from_folder = rows(tmp_path / "shards"), rows(tmp_path / "folder")
    assert len(from_shards) == len(from_folder) == COUNT
    for index in range(COUNT):
        a = from_shards[f"{tmp_path}/{index % 2}.tar/{index}.png"]
        b = from_folder[f"file://{photos}/{index}.png"]
        assert a["error"] == b["error"]
        if b["feature"] is not None:
            assert np.allclose(a["feature"], b["feature"], rtol=0, atol=1e-5 * max(b["feature"]))


def test_a_run_that_goes_on_must_be_the_same(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["features", photos, "-m", tiny_checkpoint, "-o", out]
    nodes.run(*words, code=3)
    assert "--overwrite replaces it" in nodes.run(*words, code=2)
    said = nodes.run(*words, "--resume", "--stage", 2, code=2)
    assert "was begun with something else: --stage none there, 2 here" in said
    lost = parts(out)[1]
    kept = {path: path.stat().st_mtime_ns for path in parts(out) if path != lost}
    lost.write_bytes(lost.read_bytes()[:-100])
    said = nodes.run(*words, "--resume", code=3)
    assert "of them found\n" in said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(rows(out)) == COUNT
    make_photo(photos / "new.png")
    assert "input 71 is new" in nodes.run(*words, "--resume", code=2)
    nodes.run(*words, "--overwrite", code=3)
    assert len(rows(out)) == COUNT + 1


def test_photos_that_failed_are_read_again(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["features", photos, "-m", tiny_checkpoint, "-o", out]
    nodes.run(*words, code=3)
    before = {path: path.stat().st_mtime_ns for path in parts(out)}
    make_photo(photos / "13.png", seed=13)
    nodes.run(*words, "--retry-failed", code=0)
    after = {path: path.stat().st_mtime_ns for path in parts(out)}
    assert sum(before[path] != after[path] for path in before) == 1
    assert all(row["error"] is None for row in rows(out).values())


def test_errors_reach_the_user_in_our_words(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(tiny_checkpoint.read_bytes()[:1000])
    for words, code, message in [
        ([photos, "-m", "resnest51"], 2, "resnest50"),
        ([photos, "-m", bad], 1, "bad.safetensors"),
        ([tmp_path / "photos" / "notes.txt", "-m", tiny_checkpoint, "--gpus-per-worker", 1], 2,
         "no node of the cluster has as many GPUs"),
        ([photos, "-m", tiny_checkpoint, "--concurrency", 9], 2, "has room for 2 workers"),
    ]:  # fmt: skip
        said = nodes.run("features", *words, "-o", out, code=code)
        assert message in said
        assert "Traceback" not in said
        assert "ray::" not in said
    listed = tmp_path / "list.txt"
    listed.write_text("nosuch://bucket/a.tar\n")  # which a task is to look into
    words = ["--from-file", listed, "-m", tiny_checkpoint]
    said = nodes.run("features", *words, "-o", out, code=2)
    assert said.startswith("error: nosuch://bucket/: ")
    assert len(said.splitlines()) == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    said = nodes.run("features", empty, "-m", tiny_checkpoint, "-o", out, code=1)
    assert "no photo found" in said
    assert parts(out) == []


def test_a_part_that_cannot_be_written_is_told(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "part-00001.parquet").mkdir(parents=True)
    said = nodes.run("features", photos, "-m", tiny_checkpoint, "-o", out, code=1)
    assert f"error: {out}/part-00001.parquet: cannot be read" in said
    assert "Traceback" not in said
    (out / "part-00001.parquet").rmdir()
    nodes.run("features", photos, "-m", tiny_checkpoint, "-o", out, "--resume", code=3)
    assert len(rows(out)) == COUNT


def test_without_an_address_a_cluster_is_started_and_ended(
    photo: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "resnest_cli", "features", photo, "-m", tiny_checkpoint,
               "-o", tmp_path / "out", "--runner", "ray"]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"{tmp_path}/out: 1 row in 1 part"
    assert len(done.stderr.splitlines()) == 2, "Ray has nothing to add"
