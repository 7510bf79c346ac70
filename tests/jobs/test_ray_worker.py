"""The callable that computes a part, in this process, without Ray."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli import cpu
from resnest_cli.errors import CheckpointError, ResnestError
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs import ray_worker
from resnest_cli.jobs.job import ClusterJob, Ranking
from resnest_cli.jobs.listing import Input, Mark
from resnest_cli.jobs.ray_output import Manifest, Output
from resnest_cli.jobs.ray_worker import PartWorker, Run, part_photos
from resnest_cli.options import ModelOptions, RunOptions
from tests.conftest import make_photo

pytest.importorskip("pyarrow")

COUNT = 11


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch):
    """What a worker changes in its process."""
    monkeypatch.setattr(cpu, "_limit", 1 << 16)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def job(tiny_checkpoint: Path, tmp_path: Path) -> ClusterJob:
    """A job over a part of photos, one of which is damaged."""
    photos = [make_photo(tmp_path / f"{index}.png", seed=index) for index in range(COUNT)]
    photos[4].write_bytes(b"no photo")
    out = tmp_path / "out"
    given = [Input(path.name, "file", str(path)) for path in photos]
    Output(str(out), "parquet").list_inputs(given, 16)
    options = RunOptions((), None, False, True, 4, 1, False, 60.0)
    model = ModelOptions(
        str(tiny_checkpoint),
        None,
        None,
        "cpu",
        "auto",
        None,
        None,
        None,
        "center",
        True,
        None,
        True,
    )
    return ClusterJob(str(out), options, model, Extraction(), "tiny")


def run_of(job: ClusterJob, **changes: str) -> Run:
    weights = ray_worker.found(job, 1)[0]["weights_sha256"]
    return replace(Run("identity", weights, 1), **changes)


def photos(job: ClusterJob, *, alone: bool = False):
    return part_photos(job.output, 0, offline=True, alone=alone)


def features(job: ClusterJob) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(Path(job.output) / "part-00000.parquet").to_pylist()


@pytest.mark.parametrize("alone", [False, True])
def test_a_part_is_computed_once(job: ClusterJob, tmp_path: Path, alone: bool) -> None:
    worker = PartWorker(job, run_of(job))
    told, *_ = worker.compute(photos(job, alone=alone))
    assert (told.part, told.inputs) == (0, COUNT)
    assert told.failures == {"not an image": 1}
    path = Path(job.output) / "part-00000.parquet"
    written = path.stat().st_mtime_ns
    again, *_ = worker.compute(photos(job))
    assert again.failures == {"not an image": 1}
    assert path.stat().st_mtime_ns == written
    found = features(job)
    assert [r["input"] for r in found] == [f"{i}.png" for i in range(COUNT)]
    expected = Classifier(job.model.model).features(
        iter([str(tmp_path / f"{i}.png") for i in range(COUNT)])
    )
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, Exception):
            assert ours["error"] in str(theirs)
        else:
            assert ours["feature"] == pytest.approx(theirs.tolist(), rel=1e-5, abs=1e-5)


def test_decoders_are_processes_of_their_own(
    job: ClusterJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = ray_worker.careful

    def careful(classifier, options, *more):
        asked.append(options.isolate)
        return original(classifier, options, *more)

    monkeypatch.setattr(ray_worker, "careful", careful)
    PartWorker(job, run_of(job)).compute(photos(job))
    assert asked == [True]


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_records_bear_the_name_that_the_model_was_given(job: ClusterJob, format_: str) -> None:
    job = replace(job, wanted=Ranking(2, 0.0, 0.0, False), format=format_)
    PartWorker(job, run_of(job)).compute(photos(job))
    if format_ == "jsonl":
        text = (Path(job.output) / "part-00000.jsonl").read_text()
        found = [json.loads(line) for line in text.splitlines()]
    else:
        found = features(job)
    assert {record["model"] for record in found} == {"tiny"}
    assert [len(record["predictions"]) for record in found] == [2] * 4 + [0] + [2] * 6


def test_other_weights_on_one_node_are_told(job: ClusterJob) -> None:
    worker = PartWorker(job, run_of(job, weights="0" * 64))
    worker.load()
    with pytest.raises(CheckpointError, match="has other weights under this name"):
        worker.compute(photos(job))


def test_an_output_that_cannot_be_written_is_told(
    job: ClusterJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnest_cli.jobs.ray_worker.time.sleep", lambda _: None)
    worker = PartWorker(job, run_of(job))
    out = Path(job.output)
    listed = photos(job)
    monkeypatch.setattr(worker._output, "commit", lambda *_: (out / "none" / "x").write_bytes(b""))
    with pytest.raises(ResnestError, match=r"part-00000\.parquet: cannot be written"):
        worker.compute(listed)
    (out / "part-00000.parquet").mkdir()
    with pytest.raises(ResnestError, match=r"part-00000\.parquet: cannot be read"):
        worker.compute(photos(job))


def test_what_decides_the_output_is_in_its_identity(job: ClusterJob) -> None:
    base = ray_worker.found(job, 1)[0]
    others = [
        replace(job, wanted=Extraction(normalize="l2")),
        replace(job, model=replace(job.model, img_size=32)),
        replace(job, options=replace(job.options, batch_size=8)),
        replace(job, wanted=Ranking(2, 0.0, 0.0, False)),
        replace(job, wanted=Ranking(3, 0.0, 0.0, False)),
        replace(job, wanted=Ranking(2, 0.0, 0.0, True)),
        replace(job, wanted=Ranking(2, 0.0, 0.0, False), format="jsonl"),
    ]
    found = [base, *(ray_worker.found(j, 1)[0] for j in others)]
    hashes = {Manifest(identity, Mark(1, ""), 32, 0).hash for identity in found}
    assert len(hashes) == len(others) + 1
    same = replace(job, options=replace(job.options, workers=0, isolate=True), concurrency=3)
    assert ray_worker.found(same, 2)[0] == base
