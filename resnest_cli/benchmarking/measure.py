"""What the working process does: times everything in turn, and makes figures of it."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.benchmarking.job import BenchmarkJob, Step
from resnest_cli.benchmarking.machine import machine
from resnest_cli.benchmarking.matmul import Matmul
from resnest_cli.benchmarking.pipeline import Pipeline
from resnest_cli.benchmarking.stages import onnx_stages, torch_stages
from resnest_cli.benchmarking.subjects import subjects, threads
from resnest_cli.benchmarking.timing import LEAST_REPEATS, Case, in_turn, spread
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.cores import usable_cores
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model.multiply_adds import multiply_adds

Float32 = NDArray[np.float32]

_USUAL = 8  # photos in a batch of `predict`; stages are told for the batch nearest to it
_MOST_RUNS = 50  # with instruments


@dataclass(frozen=True, slots=True)
class _Timed:
    """One engine with one size of batch."""

    classifier: Classifier
    batch: int
    case: Case
    matmul: Matmul

    @property
    def rate(self) -> float:
        """Photos a second."""
        return self.batch / median(self.case.samples)


def measure(
    job: BenchmarkJob, folder: Path, notify: Callable[[str], None]
) -> Generator[Step, None, dict[str, Any]]:
    """The figures of everything; see `job.benchmark`."""
    with subjects(job, folder, notify) as (classifiers, drawn):
        pipeline = Pipeline(job.photos, classifiers) if job.photos is not None else None
        timed, matmuls = _cases(job, classifiers)
        cases = [*(Case(one.title, one.run) for one in matmuls), *(one.case for one in timed)]
        rounds = len(cases) * (job.repeats + 1)
        extra = pipeline.steps(job.repeats) if pipeline else 0
        total = rounds + len(classifiers) + extra
        for done, title in in_turn(cases, job.repeats, job.min_time):
            yield Step(done, total, title)
        stages = []
        size = min(job.batch_sizes, key=lambda batch: (abs(batch - _USUAL), batch))
        for number, classifier in enumerate(classifiers):
            yield Step(rounds + number, total, f"stages, {classifier.engine.name}")
            stages.append(_stages(job, classifier, size, timed, folder))
        found = _figures(job, classifiers[0], timed, matmuls, drawn)
        found["stages"] = {"batch_size": size, "engines": stages}
        found["pipeline"] = None
        if pipeline is not None:
            batches = [max(_of(timed, one), key=lambda t: t.rate) for one in classifiers]
            steps = pipeline.measure(job.repeats, [(one.batch, one.rate) for one in batches])
            for number, title in enumerate(steps):
                yield Step(total - extra + number, total, title)
            found["pipeline"] = pipeline.figures()
        return found


def _cases(job: BenchmarkJob, classifiers: list[Classifier]) -> tuple[list[_Timed], list[Matmul]]:
    """Every engine with every batch, and the matrix products that they are compared with."""
    rng = np.random.default_rng(0)
    matmuls: dict[tuple[str, int], Matmul] = {}
    timed = []
    batches = {size: _photos(rng, classifiers[0], size) for size in job.batch_sizes}
    for classifier in classifiers:
        engine = classifier.engine
        key = engine.device, threads(classifier) or usable_cores()
        matmul = matmuls.setdefault(key, Matmul(*key))
        for size, batch in batches.items():
            title = f"{engine.name}, batch of {size}"
            case = Case(title, lambda engine=engine, batch=batch: engine.logits(batch))  # type: ignore[misc]
            timed.append(_Timed(classifier, size, case, matmul))
    return timed, list(matmuls.values())


def _photos(rng: np.random.Generator, classifier: Classifier, count: int) -> Float32:
    """Noise in the place of preprocessed photos."""
    size = classifier.preprocessing.size
    shape = (count, classifier.model.in_channels, size, size)
    return rng.standard_normal(shape, dtype=np.float32)


def _of(timed: list[_Timed], classifier: Classifier) -> list[_Timed]:
    return [one for one in timed if one.classifier is classifier]


def _stages(
    job: BenchmarkJob, classifier: Classifier, size: int, timed: list[_Timed], folder: Path
) -> dict[str, Any]:
    """The stages of one engine, over about as long as its timed runs took."""
    (same,) = (one for one in _of(timed, classifier) if one.batch == size)
    wanted = math.ceil(job.repeats * job.min_time / median(same.case.samples))
    runs = min(max(wanted, LEAST_REPEATS), _MOST_RUNS)
    batch = _photos(np.random.default_rng(0), classifier, size)
    engine = classifier.engine
    if isinstance(engine, TorchEngine):
        found = torch_stages(engine, batch, runs)
    else:
        found = onnx_stages(classifier.model, batch, runs, folder)
    return {"engine": engine.name, "device": engine.device} | found


def _figures(
    job: BenchmarkJob,
    classifier: Classifier,
    timed: list[_Timed],
    matmuls: list[Matmul],
    drawn: bool,
) -> dict[str, Any]:
    model, size = classifier.model, classifier.preprocessing.size
    macs = multiply_adds(
        model.variant, size, num_classes=model.num_classes, in_channels=model.in_channels
    )
    total = sum(macs.values())
    return {
        "model": {
            "name": model.variant.id if drawn else model.name,
            "variant": model.variant.id,
            "weights": "random" if drawn else str(model.path),
            "img_size": size,
            "classes": model.num_classes,
            "multiply_adds": total,
            "multiply_add_shares": {stage: value / total for stage, value in macs.items()},
        },
        "machine": machine(),
        "settings": {"repeats": job.repeats, "min_time": job.min_time},
        "matmul": [
            {
                "device": one.device,
                "threads": one.threads,
                "side": one.side,
                "gmacs_per_second": one.best / 1e9,
            }
            for one in matmuls
        ],
        "runs": [_row(one, total) for one in timed],
    }


def _row(one: _Timed, macs: int) -> dict[str, Any]:
    rate = macs * one.rate
    return {
        "engine": one.classifier.engine.name,
        "device": one.classifier.engine.device,
        "threads": threads(one.classifier),
        "batch_size": one.batch,
        "repeats": len(one.case.samples),
        "runs_per_repeat": one.case.runs,
        "ms": spread(one.case.samples),
        "photos_per_second": one.rate,
        "gmacs_per_second": rate / 1e9,
        "matmul_share": rate / one.matmul.best,
    }
