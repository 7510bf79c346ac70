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
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resnest_cli import __version__
from resnest_cli.benchmark import BenchmarkJob, timing
from resnest_cli.benchmark.timing import Case, Matmul
from resnest_cli.cpu import cpu_feature_names, usable_cores
from resnest_cli.errors import EngineError, ImageError, OfflineError, ResnestError, UsageError
from resnest_cli.images.batches import Float32, Preparation
from resnest_cli.images.pool import Decoders
from resnest_cli.images.preprocess import preprocess
from resnest_cli.images.sources import Source, iter_sources
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.engine import check_device_name, check_engine_name
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.cost import multiply_adds
from resnest_cli.model.loading import find_model
from resnest_cli.model.names import find_named
from resnest_cli.model.resnest import Bottleneck, build
from resnest_cli.model.variants import Variant
from resnest_cli.net import Access
from resnest_cli.progress import Notify

if TYPE_CHECKING:
    from resnest_cli.options import EngineName

# Before each step how many there are and what comes; in the end the figures.
Steps = Generator[tuple[int, str], None, dict[str, Any]]

_USUAL = 8  # photos in a batch of `predict`; stages are shown for the batch nearest to it
_MOST_RUNS = 50  # with instruments
_PASS = 64  # photos that a pass from files to answers takes
_SEED = 0  # of weights that are drawn
_VERSIONS = ("torch", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class _Timed:
    """A network on an engine, what it is compared with, and a case for each size of batch."""

    classifier: Classifier
    matmul: Matmul
    cases: dict[int, Case]

    @property
    def name(self) -> dict[str, str]:
        """The engine and its device, JSON-ready."""
        return {"engine": self.classifier.engine.name, "device": self.classifier.engine.device}

    def rate(self, size: int) -> float:
        """Photos a second in batches of this size."""
        return size / median(self.cases[size].samples)


def measure(job: BenchmarkJob, folder: Path, notify: Notify) -> Steps:
    """The figures of everything, JSON-ready; see `benchmark.benchmark`."""
    with engines(job, folder, notify) as (classifiers, drawn):
        photos = None
        if job.photos is not None:
            photos = _readable(job.photos, classifiers[0].preparation)
        timed = _timed(job, classifiers)
        matmuls = list(dict.fromkeys(one.matmul for one in timed))
        cases = [Case(one.title, one.run) for one in matmuls]
        cases += [case for one in timed for case in one.cases.values()]
        total = len(cases) * (job.repeats + 1) + len(timed)
        total += (1 + len(timed)) * job.repeats if photos else 0
        for title in timing.in_turn(cases, job.repeats, job.min_time):
            yield total, title
        stages = []
        size = min(job.batch_size, key=lambda batch: (abs(batch - _USUAL), batch))
        for one in timed:
            yield total, f"stages, {one.name['engine']}"
            stages.append(one.name | _stages(job, one, size, folder))
        pipeline = None
        if photos is not None:
            pipeline = yield from _pipeline(job, *photos, timed, total)
        return {
            **_figures(job, timed, matmuls, drawn),
            "stages": {"batch_size": size, "engines": stages},
            "pipeline": pipeline,
        }


def _timed(job: BenchmarkJob, classifiers: list[Classifier]) -> list[_Timed]:
    """Every engine with every batch; those that compute alike share a matrix product."""
    rng = np.random.default_rng(0)
    matmuls: dict[tuple[str, int], Matmul] = {}
    batches = {size: noise(rng, classifiers[0], size) for size in job.batch_size}
    timed = []
    for classifier in classifiers:
        engine = classifier.engine
        key = engine.device, threads(classifier) or usable_cores()
        cases = {
            size: Case(f"{engine.name}, batch of {size}", partial(engine.logits, batch))
            for size, batch in batches.items()
        }
        timed.append(_Timed(classifier, matmuls.setdefault(key, Matmul(*key)), cases))
    return timed


def noise(rng: np.random.Generator, classifier: Classifier, photos: int) -> Float32:
    """In the place of preprocessed photos."""
    size = classifier.preprocessing.size
    shape = (photos, classifier.model.in_channels, size, size)
    return rng.standard_normal(shape, dtype=np.float32)


def _stages(job: BenchmarkJob, timed: _Timed, size: int, folder: Path) -> dict[str, Any]:
    """The stages of one engine, over about as long as its timed runs took."""
    wanted = math.ceil(job.repeats * job.min_time / median(timed.cases[size].samples))
    runs = min(max(wanted, timing.LEAST_REPEATS), _MOST_RUNS)
    classifier = timed.classifier
    batch = noise(np.random.default_rng(0), classifier, size)
    if isinstance(classifier.engine, TorchEngine):
        return timing.torch_stages(classifier.engine, batch, runs)
    return timing.onnx_stages(classifier.model, batch, runs, folder)


def _figures(
    job: BenchmarkJob, timed: list[_Timed], matmuls: list[Matmul], drawn: bool
) -> dict[str, Any]:
    model, size = timed[0].classifier.model, timed[0].classifier.preprocessing.size
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
            {name: getattr(one, name) for name in ("device", "threads", "side")}
            | {"gmacs_per_second": one.best / 1e9}
            for one in matmuls
        ],
        "runs": [
            one.name
            | {
                "threads": threads(one.classifier),
                "batch_size": batch,
                "repeats": len(case.samples),
                "runs_per_repeat": case.runs,
                "ms": timing.spread(case.samples),
                "photos_per_second": one.rate(batch),
                "gmacs_per_second": total * one.rate(batch) / 1e9,
                "matmul_share": total * one.rate(batch) / one.matmul.best,
            }
            for one in timed
            for batch, case in one.cases.items()
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
    job: BenchmarkJob, photos: list[Source], unreadable: int, timed: list[_Timed], total: int
) -> Steps:
    """Times everything in turn, each engine with its quickest size of batch; JSON-ready.

    Every rate is photos a second, on all cores.
    """
    workers, preparation = usable_cores(), timed[0].classifier.preparation
    sources = list(islice(cycle(photos), _PASS))
    sizes = [max(one.cases, key=one.rate) for one in timed]
    seconds: dict[str, list[float]] = {"decode": [], "resize": []}
    whole: list[list[float]] = [[] for _ in timed]
    for _ in range(job.repeats):
        yield total, "decoding and resizing"
        taken = _prepared(sources, preparation, workers)
        for passes, passed in zip(seconds.values(), taken, strict=True):
            passes.append(passed)
        for one, size, passes in zip(timed, sizes, whole, strict=True):
            yield total, f"files to answers, {one.name['engine']}"
            start = time.perf_counter()
            for _ in one.classifier.answers(sources, batch_size=size, workers=workers):
                pass
            passes.append(time.perf_counter() - start)
    rates = {name: _PASS * workers / median(passes) for name, passes in seconds.items()}
    figures = []
    for one, size, passes in zip(timed, sizes, whole, strict=True):
        every = rates | {"network": one.rate(size)}
        figures.append(
            one.name
            | {
                "batch_size": size,
                "network_photos_per_second": one.rate(size),
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
        how = preparation.preprocessing
        preprocess(image, how, crop_mode=preparation.crop_mode, grey=preparation.grey)
        return decoded - start, time.perf_counter() - decoded

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(prepare, sources))
    return sum(decode for decode, _ in found), sum(resize for _, resize in found)
