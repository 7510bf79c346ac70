"""Times everything in turn, and makes figures of it.

From files to answers: the steps before the network are timed by themselves on all cores, as
`features` runs them, each by its own clock; then everything together, as `features` does it:
threads decode ahead while the network runs. On a CPU both want the same cores, so that the whole is
slower than its slowest step.
"""

import math
import os
import platform
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnest_cli import __version__
from resnest_cli.benchmark.benchmark import BenchmarkJob, Step
from resnest_cli.benchmark.stages import onnx_stages, torch_stages
from resnest_cli.benchmark.timing import LEAST_REPEATS, Case, Matmul, in_turn, spread
from resnest_cli.cpu import cpu_feature_names, usable_cores
from resnest_cli.errors import EngineError, ImageError, OfflineError, ResnestError, UsageError
from resnest_cli.images.batches import Preparation
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source, iter_sources
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.engine import check_device_name, check_engine_name
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.loading import find_model
from resnest_cli.model.names import find_named
from resnest_cli.model.resnest import Bottleneck, build
from resnest_cli.model.variants import Variant, multiply_adds
from resnest_cli.net import Access
from resnest_cli.progress import Notify

if TYPE_CHECKING:
    from resnest_cli.options import EngineName

Float32 = NDArray[np.float32]

_USUAL = 8  # photos in a batch of `predict`; stages are shown for the batch nearest to it
_MOST_RUNS = 50  # with instruments
_PASS = 64  # photos that a pass from files to answers takes
_SEED = 0  # of weights that are drawn
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
        photos = None
        if job.photos is not None:
            photos = _readable(job.photos, classifiers[0].preparation)
        timed, matmuls = _cases(job, classifiers)
        cases = [*(Case(one.title, one.run) for one in matmuls), *(one.case for one in timed)]
        rounds = len(cases) * (job.repeats + 1)
        extra = (1 + len(classifiers)) * job.repeats if photos else 0
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
        if photos is not None:
            best = [max(_of(timed, one), key=lambda t: t.rate) for one in classifiers]
            numbers = count(total - extra)
            found["pipeline"] = yield from _pipeline(
                job, *photos, best, lambda title: Step(next(numbers), total, title)
            )
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


def noise(rng: np.random.Generator, classifier: Classifier, photos: int) -> Float32:
    """In the place of preprocessed photos."""
    size = classifier.preprocessing.size
    shape = (photos, classifier.model.in_channels, size, size)
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


# What is timed: a network with weights, on each engine that was asked for


@contextmanager
def engines(
    job: BenchmarkJob, folder: Path, notify: Notify
) -> Iterator[tuple[list[Classifier], bool]]:
    """A classifier for each engine, and whether its weights are drawn, not learned.

    Published weights that are not on this machine are not fetched: a network with others takes as
    long. Drawn ones, and what is compiled of them, lie in `folder` and nowhere else.
    """
    check_device_name(job.device)
    if job.engine != "all":
        check_engine_name(job.engine, job.device)
    once = cache(notify)  # several classifiers say the same
    try:
        model = find_model(job.model, access=Access(offline=True, notify=once))
        model.need_classifier()
    except OfflineError as error:
        variant = find_named(job.model)
        if variant is None:
            raise UsageError(
                f"{job.model} is not on this machine, and is not fetched to be timed. Run first: "
                f"resnest download {job.model}"
            ) from error
        once(
            f"The weights of {variant.id} are not on this machine: it is timed with random ones, "
            "which take as long."
        )
        with _home(folder):
            yield _engines(job, str(_drawn(variant, folder)), once), True
    else:
        if model.exported:
            raise UsageError(
                f"{model.name} is an exported network, whose stages cannot be timed. Give the "
                "checkpoint that it was exported from."
            )
        yield _engines(job, job.model, once), False


def threads(classifier: Classifier) -> int | None:
    """Threads of the CPU that its engine computes with; None on an accelerator."""
    if classifier.engine.name == "onnx":
        return usable_cores()
    return torch.get_num_threads() if classifier.engine.device == "cpu" else None


def _engines(job: BenchmarkJob, model: str, notify: Notify) -> list[Classifier]:
    wanted: list[tuple[EngineName, str]] = [("torch", job.device)]
    if job.engine != "all":
        wanted = [(job.engine, job.device)]
    elif job.device in {"auto", "cpu"}:
        wanted = [("onnx", "cpu"), *wanted]
    found, access = [], Access(offline=True, notify=notify)
    for engine, device in wanted:
        try:
            made = Classifier(
                model, engine=engine, device=device, img_size=job.img_size, access=access
            )
            found.append(made)
        except EngineError as error:
            if job.engine != "all":
                raise
            notify(f"{error}\nThe onnx engine is left out.")
    return found


def _drawn(variant: Variant, folder: Path) -> Path:
    """A checkpoint of this variant with weights drawn from a fixed seed.

    As `model.resnest.init_weights` draws them, but for the last gamma of each block: it would be 0,
    and a processor may spend less on products with nothing but zeros.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_SEED)
        network = build(variant, num_classes=variant.num_classes)
        for module in network.modules():
            if isinstance(module, Bottleneck):
                module.bn3.weight.fill_(0.2)
    path = folder / f"{variant.id}.safetensors"
    checkpoint.save(path, network, CheckpointInfo(variant=variant))
    return path


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """Caches lie in `folder` meanwhile."""
    before = os.environ.get("RESNEST_HOME")
    os.environ["RESNEST_HOME"] = str(folder / "home")
    try:
        yield
    finally:
        if before is None:
            del os.environ["RESNEST_HOME"]
        else:
            os.environ["RESNEST_HOME"] = before


# From files to answers


def _readable(inputs: str, preparation: Preparation) -> tuple[list[Source], int]:
    """The first photos of a folder, or whatever `predict` takes, and how many cannot be read."""
    sources = list(islice(iter_sources([inputs]), _PASS))
    found = []
    with Decoders() as decoders:
        for source in sources:
            if source.error is None and source.path is not None:
                with suppress(ImageError):
                    decoders.run(preparation, source.path)
                    found.append(source)
    if not found:
        raise ResnestError(f"{inputs}: has no photo that can be read; give --photos a folder.")
    return found, len(sources) - len(found)


def _pipeline(
    job: BenchmarkJob, photos: list[Source], unreadable: int, best: list[_Timed],
    step: Callable[[str], Step],
) -> Generator[Step, None, dict[str, Any]]:  # fmt: skip
    """Times everything in turn; the figures, JSON-ready.

    `best` has for each engine its quickest size of batch. Every rate is photos a second, on all
    cores.
    """
    workers, preparation = usable_cores(), best[0].classifier.preparation
    sources = list(islice(cycle(photos), _PASS))
    seconds: dict[str, list[float]] = {"decode": [], "resize": []}
    whole: list[list[float]] = [[] for _ in best]
    for _ in range(job.repeats):
        yield step("decoding and resizing")
        taken = _prepared(sources, preparation, workers)
        for passes, one in zip(seconds.values(), taken, strict=True):
            passes.append(one)
        for timed, passes in zip(best, whole, strict=True):
            yield step(f"files to answers, {timed.classifier.engine.name}")
            start = time.perf_counter()
            for _ in timed.classifier.answers(sources, batch_size=timed.batch, workers=workers):
                pass
            passes.append(time.perf_counter() - start)
    rates = {name: _PASS * workers / median(passes) for name, passes in seconds.items()}
    figures = []
    for timed, passes in zip(best, whole, strict=True):
        engine, every = timed.classifier.engine, rates | {"network": timed.rate}
        figures.append(
            {
                "engine": engine.name,
                "device": engine.device,
                "batch_size": timed.batch,
                "network_photos_per_second": timed.rate,
                "photos_per_second": _PASS / median(passes),
                "slowest": min(every, key=lambda name: every[name]),
            }
        )
    return {
        "input": job.photos,
        "photos": len(photos),
        "unreadable": unreadable,
        "threads": workers,
        "photos_per_second": rates,
        "engines": figures,
    }


def _prepared(sources: list[Source], preparation: Preparation, workers: int) -> tuple[float, float]:
    """Seconds of decoding and of resizing, over all photos and threads."""

    def prepare(source: Source) -> tuple[float, float]:
        assert source.path is not None
        start = time.perf_counter()
        image = preparation.decoded(source.path)
        decoded = time.perf_counter()
        preparation.preprocessed(image)
        return decoded - start, time.perf_counter() - decoded

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(prepare, sources))
    return sum(decode for decode, _ in found), sum(resize for _, resize in found)
