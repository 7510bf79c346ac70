"""What the working process does: times everything in turn, and makes figures of it.

From files to answers: the steps before the network are timed by themselves on all cores, as
`features` runs them, each by its own clock; then everything together, as `features` does it:
threads decode ahead while the network runs. On a CPU both want the same cores, so that the whole is
slower than its slowest step.
"""

import math
import os
import platform
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli import __version__
from resnest_cli.benchmark.benchmark import BenchmarkJob, Step
from resnest_cli.benchmark.engines import engines, threads
from resnest_cli.benchmark.stages import onnx_stages, torch_stages
from resnest_cli.benchmark.timing import LEAST_REPEATS, Case, Matmul, in_turn, spread
from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images.sources import Source, iter_sources
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.compiled import cpu_feature_names
from resnest_cli.inference.cores import usable_cores
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model.multiply_adds import multiply_adds
from resnest_cli.progress import Notify

Float32 = NDArray[np.float32]

_USUAL = 8  # photos in a batch of `predict`; stages are shown for the batch nearest to it
_MOST_RUNS = 50  # with instruments
COUNT = 64  # photos that a pass from files to answers takes
_VERSIONS = ("torch", "onnxruntime", "numpy", "pillow")


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
    job: BenchmarkJob, folder: Path, notify: Notify
) -> Generator[Step, None, dict[str, Any]]:
    """The figures of everything; see `benchmark.benchmark`."""
    with engines(job, folder, notify) as (classifiers, drawn):
        pipeline = Pipeline(job.photos, classifiers) if job.photos is not None else None
        timed, matmuls = _cases(job, classifiers)
        cases = [*(Case(one.title, one.run) for one in matmuls), *(one.case for one in timed)]
        rounds = len(cases) * (job.repeats + 1)
        extra = (1 + len(classifiers)) * job.repeats if pipeline else 0
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
    batches = {size: noise(rng, classifiers[0], size) for size in job.batch_sizes}
    for classifier in classifiers:
        engine = classifier.engine
        key = engine.device, threads(classifier) or usable_cores()
        matmul = matmuls.setdefault(key, Matmul(*key))
        for size, batch in batches.items():
            title = f"{engine.name}, batch of {size}"
            case = Case(title, lambda engine=engine, batch=batch: engine.logits(batch))  # type: ignore[misc]
            timed.append(_Timed(classifier, size, case, matmul))
    return timed, list(matmuls.values())


def noise(rng: np.random.Generator, classifier: Classifier, count: int) -> Float32:
    """In the place of preprocessed photos."""
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
    batch = noise(np.random.default_rng(0), classifier, size)
    engine = classifier.engine
    if isinstance(engine, TorchEngine):
        found = torch_stages(engine, batch, runs)
    else:
        found = onnx_stages(classifier.model, batch, runs, folder)
    return {"engine": engine.name, "device": engine.device} | found


def _figures(
    job: BenchmarkJob, classifier: Classifier, timed: list[_Timed], matmuls: list[Matmul],
    drawn: bool,
) -> dict[str, Any]:  # fmt: skip
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
        "machine": _machine(),
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
        "runs": [
            {
                "engine": one.classifier.engine.name,
                "device": one.classifier.engine.device,
                "threads": threads(one.classifier),
                "batch_size": one.batch,
                "repeats": len(one.case.samples),
                "runs_per_repeat": one.case.runs,
                "ms": spread(one.case.samples),
                "photos_per_second": one.rate,
                "gmacs_per_second": total * one.rate / 1e9,
                "matmul_share": total * one.rate / one.matmul.best,
            }
            for one in timed
        ],
    }


def _machine() -> dict[str, Any]:
    """Processor, the cores that this process may use, instruction sets and versions, JSON-ready."""
    try:  # Python itself knows the name on few systems
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line[:10] == "model name")
    except (OSError, StopIteration, ValueError):
        name = platform.processor() or "unknown"
    return {
        "processor": name,
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": usable_cores(),
        "cpus": os.cpu_count() or 1,
        "features": list(cpu_feature_names()),
        "versions": {"resnest_cli": __version__, "python": platform.python_version()}
        | {name: version(name) for name in _VERSIONS},
    }


class Pipeline:
    """Files to answers, on the first photos of `inputs`, a folder or whatever `predict` takes."""

    def __init__(self, inputs: str, classifiers: Sequence[Classifier]) -> None:
        self._inputs, self._classifiers = inputs, classifiers
        self._preparation, self._workers = classifiers[0].preparation, usable_cores()
        self._network: list[tuple[int, float]] = []
        self._steps: dict[str, list[float]] = {"decode": [], "resize": []}
        self._whole: list[list[float]] = [[] for _ in classifiers]
        sources = list(islice(iter_sources([inputs]), COUNT))
        found = [source for source in sources if self._readable(source)]
        if not found:
            raise ResnestError(f"{inputs}: has no photo that can be read; give --photos a folder.")
        self.different, self.unreadable = len(found), len(sources) - len(found)
        self._sources = list(islice(cycle(found), COUNT))

    def measure(self, repeats: int, network: Sequence[tuple[int, float]]) -> Iterator[str]:
        """Times everything in turn; before each step its title.

        `network` has the batch of each classifier and the photos a second that its network reached
        alone.
        """
        self._network = list(network)
        for _ in range(repeats):
            yield "decoding and resizing"
            self._prepare()
            each = zip(self._classifiers, network, self._whole, strict=True)
            for one, (batch, _), passes in each:
                yield f"files to answers, {one.engine.name}"
                start = time.perf_counter()
                for _ in one.answers(self._sources, batch_size=batch, workers=self._workers):
                    pass
                passes.append(time.perf_counter() - start)

    def figures(self) -> dict[str, Any]:
        """What was found, JSON-ready; every rate is photos a second on all cores."""
        rates = {
            step: COUNT * self._workers / median(seconds) for step, seconds in self._steps.items()
        }
        found = []
        each = zip(self._classifiers, self._network, self._whole, strict=True)
        for one, (batch, network), passes in each:
            every = rates | {"network": network}
            found.append(
                {
                    "engine": one.engine.name,
                    "device": one.engine.device,
                    "batch_size": batch,
                    "network_photos_per_second": network,
                    "photos_per_second": COUNT / median(passes),
                    "slowest": min(every, key=lambda step: every[step]),
                }
            )
        return {
            "input": self._inputs,
            "photos": self.different,
            "unreadable": self.unreadable,
            "threads": self._workers,
            "photos_per_second": rates,
            "engines": found,
        }

    def _readable(self, source: Source) -> bool:
        if source.error is not None or source.path is None:
            return False
        try:
            self._preparation(source.path)
        except ImageError:
            return False
        return True

    def _prepare(self) -> None:
        """One pass over the photos in all threads; adds the seconds of each step over all."""

        def prepare(source: Source) -> tuple[float, float]:
            assert source.path is not None
            start = time.perf_counter()
            image = self._preparation.decoded(source.path)
            decoded = time.perf_counter()
            self._preparation.preprocessed(image)
            return decoded - start, time.perf_counter() - decoded

        with ThreadPoolExecutor(self._workers) as pool:
            found = list(pool.map(prepare, self._sources))
        for step, seconds in zip(self._steps.values(), zip(*found, strict=True), strict=True):
            step.append(sum(seconds))
