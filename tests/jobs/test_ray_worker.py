"""The callable that computes a part, in this process, without Ray."""

import json
import shutil
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli import cpu
from resnest_cli.errors import CheckpointError, ResnestError
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs import ray
from resnest_cli.jobs.job import Job
from resnest_cli.jobs.listing import Input, Mark
from resnest_cli.jobs.parts import Manifest, Parts
from resnest_cli.jobs.predict import Ranking
from resnest_cli.jobs.ray import PartWorker
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
def job(tiny_checkpoint: Path, tmp_path: Path) -> Job:
    """A job over a part of photos, one of which is damaged."""
    photos = [make_photo(tmp_path / f"{index}.png", seed=index) for index in range(COUNT)]
    photos[4].write_bytes(b"no photo")
    out = tmp_path / "out"
    given = [Input(path.name, "file", str(path)) for path in photos]
    Parts(str(out), "parquet").write_listing(given, 16)
    options = RunOptions(batch_size=4)
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
    return Job(str(out), options, model, Extraction(), name="tiny")


@pytest.fixture
def worker_of():
    """Makes workers."""
    with ExitStack() as stack:

        def make(job: Job, **changes: str) -> PartWorker:
            manifest = Manifest(ray.found(job, 1)[0] | changes, Mark(COUNT, ""), 16, 0, COUNT)
            return stack.enter_context(closing(PartWorker(job, job.output, manifest, 1)))

        yield make


def photos(job: Job, *, alone: bool = False):
    return ray.read_part(job.output, 0, offline=True, alone=alone)


def features(job: Job) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(Path(job.output) / "part-00000.parquet").to_pylist()


@pytest.mark.parametrize("alone", [False, True])
def test_a_part_is_computed_once(worker_of, job: Job, tmp_path: Path, alone: bool) -> None:
    worker = worker_of(job)
    told = worker.compute(0, photos(job, alone=alone))
    assert (told.part, told.inputs) == (0, COUNT)
    assert told.failures == {"not an image": 1}
    path = Path(job.output) / "part-00000.parquet"
    written = path.stat().st_mtime_ns
    again = worker.compute(0, photos(job))
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


@pytest.mark.parametrize("format_", ["parquet", "jsonl"])
def test_records_bear_the_name_that_the_model_was_given(worker_of, job: Job, format_: str) -> None:
    job = replace(job, wanted=Ranking(2, 0.0, 0.0, False), format=format_)
    worker_of(job).compute(0, photos(job))
    if format_ == "jsonl":
        text = (Path(job.output) / "part-00000.jsonl").read_text()
        found = [json.loads(line) for line in text.splitlines()]
    else:
        found = features(job)
    assert {record["model"] for record in found} == {"tiny"}
    assert [len(record["predictions"]) for record in found] == [2] * 4 + [0] + [2] * 6


def test_other_weights_on_one_node_are_told(worker_of, job: Job) -> None:
    worker = worker_of(job, weights_sha256="0" * 64)
    worker.load()
    with pytest.raises(CheckpointError, match="has other weights under this name"):
        worker.compute(0, photos(job))


def test_an_output_that_cannot_be_written_is_told(
    worker_of, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnest_cli.jobs.parts.time.sleep", lambda _: None)
    worker = worker_of(job)
    out = Path(job.output)
    listed = photos(job)
    shutil.rmtree(out)
    with pytest.raises(ResnestError, match=r"part-00000\.parquet: cannot be written"):
        worker.compute(0, listed)
    out.mkdir()
    (out / "part-00000.parquet").mkdir()
    with pytest.raises(ResnestError, match=r"part-00000\.parquet: cannot be read"):
        worker.compute(0, listed)


def test_what_decides_the_output_is_in_its_identity(job: Job) -> None:
    base = ray.found(job, 1)[0]
    others = [
        replace(job, wanted=Extraction(normalize="l2")),
        replace(job, model=replace(job.model, img_size=32)),
        replace(job, options=replace(job.options, batch_size=8)),
        replace(job, wanted=Ranking(2, 0.0, 0.0, False)),
        replace(job, wanted=Ranking(3, 0.0, 0.0, False)),
        replace(job, wanted=Ranking(2, 0.0, 0.0, True)),
        replace(job, wanted=Ranking(2, 0.0, 0.0, False), format="jsonl"),
    ]
    found = [base, *(ray.found(j, 1)[0] for j in others)]
    assert len({json.dumps(identity) for identity in found}) == len(others) + 1
    same = replace(job, options=replace(job.options, workers=0), concurrency=3)
    assert ray.found(same, 2)[0] == base
