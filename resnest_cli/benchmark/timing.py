"""Cases that are timed in turn, the machine's own rate, and shares of a network's stages.

The method is that of `timeit` and of torch.utils.benchmark's `blocked_autorange`: a repeat is a
block of as many runs as fill `min_time`, and its sample is the mean of the block. All cases have
one block before any has its second, so that a machine that slows down, or a neighbour that comes
and goes, meets all of them alike. Medians with quartiles: a mean would follow every disturbance.

The machine's own rate: multiply-adds a second of a float32 matrix product, by torch. A convolution
is a matrix product at heart, so this is what a network could reach if it were nothing else. It is
no hard limit: an engine's kernels may suit this processor better than torch's library does.

Stages (stem, four stages, head: pooling and classifier) are measured apart from the timed runs,
which carry no instruments:

- torch: hooks on the modules that end a stage read the clock, after waiting for an accelerator.
  A CPU does one operation after the other, so that the clock is right there.
- ONNX Runtime: its own profiler says how long each node's kernel took. The session is the engine's
  but for the names of nodes, which say the stage. The runtime fuses nodes and adds others that
  change the layout of a map; a fused one keeps the name of its last part, and an added one counts
  for the stage whose node ran before it.

Either way a stage's time is the median over all runs, and shares are of the sum of these: the copy
of a batch to the device and of the answer from it are left out.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import torch

from resnest_cli.images.batches import Float32
from resnest_cli.model.cost import STAGES

if TYPE_CHECKING:
    from onnx import GraphProto

    from resnest_cli.inference.torch_engine import TorchEngine
    from resnest_cli.model.loading import Model


LEAST_REPEATS = 5  # quartiles of fewer say nothing
_SIDE = {"cpu": 1024, "cuda": 4096, "mps": 2048}  # of the square matrices
_PRODUCTS = 8


@dataclass(slots=True)
class Case:
    """Something to be timed; `run` returns when its work is done, on an accelerator too.

    `samples` are seconds a run, one for each block of `runs`.
    """

    title: str
    run: Callable[[], object]
    runs: int = 1
    samples: list[float] = field(default_factory=list)

    def warm_up(self, min_time: float) -> None:
        """Two untimed runs: the first allocates, the second says how many fill `min_time`."""
        self.run()
        self.runs = max(1, math.ceil(min_time / max(self._block(1), 1e-9)))

    def repeat(self) -> None:
        """One more block, and its sample."""
        self.samples.append(self._block(self.runs) / self.runs)

    def _block(self, runs: int) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            self.run()
        return time.perf_counter() - start


def in_turn(cases: Sequence[Case], repeats: int, min_time: float) -> Iterator[str]:
    """Warms up all cases and then times them in turn; before each step says which comes."""
    for number in range(repeats + 1):
        for case in cases:
            yield case.title
            if number:
                case.repeat()
            else:
                case.warm_up(min_time)


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and extremes of samples, in milliseconds."""
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    values = {"median": median(seconds), "min": min(seconds), "p25": low, "p75": high}
    return {name: 1e3 * value for name, value in (values | {"max": max(seconds)}).items()}


class Matmul:
    """Square products on one device with a number of threads (of the CPU)."""

    def __init__(self, device: str, threads: int) -> None:
        self.device, self.threads = device, threads
        self.side = _SIDE[device.partition(":")[0]]
        generator = torch.Generator().manual_seed(0)
        shape = (self.side, self.side)
        self._a, self._b = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
        self._seconds: list[float] = []

    @property
    def title(self) -> str:
        """What it is called while it runs."""
        return f"matrix product, {self.device}"

    @property
    def best(self) -> float:
        """Multiply-adds a second of the quickest product so far."""
        return self.side**3 / min(self._seconds)

    def run(self) -> None:
        """A few products, each timed. The number of threads and the precision are put back."""
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_num_threads(self.threads)
        if self.device.startswith("cuda") and torch.backends.cudnn.allow_tf32:
            torch.set_float32_matmul_precision("high")  # as its convolutions, which take TF32
        try:
            for _ in range(_PRODUCTS):
                start = time.perf_counter()
                torch.mm(self._a, self._b)
                synchronise(self.device)
                self._seconds.append(time.perf_counter() - start)
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)


def synchronise(device: str) -> None:
    """Waits until an accelerator has done what it was given; nothing on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


# Stages


def torch_stages(engine: "TorchEngine", batch: Float32, runs: int) -> dict[str, Any]:
    """Seconds by stage, medians of `runs` runs after one that is not counted."""
    network = engine.network
    clock: list[float] = []

    def read(*_: object) -> None:
        synchronise(engine.device)
        clock.append(time.perf_counter())

    ends = [network.maxpool, *(stage[-1] for stage in network.stages()), network.fc]
    hooks: list[Any] = [network.register_forward_pre_hook(read)]
    hooks += [module.register_forward_hook(read) for module in ends]
    found: list[list[float]] = []
    try:
        photos = engine.moved(torch.from_numpy(batch))
        for _ in range(runs + 1):
            clock.clear()
            with torch.inference_mode(), engine.autocast():
                network(photos)
            found.append([end - begin for begin, end in pairwise(clock)])
    finally:
        for hook in hooks:
            hook.remove()
    return _shares(found[1:])


def onnx_stages(model: "Model", batch: Float32, runs: int, folder: Path) -> dict[str, Any]:
    """Seconds by stage, medians of `runs` runs after one that is not counted, and the share of
    convolutions. The profiler's file goes to `folder`.
    """
    from resnest_cli.inference.onnx_engine import optimised
    from resnest_cli.inference.onnx_graph import build_graph

    graph = build_graph(model.variant, model.arrays(checked=True))
    places = _named(graph.model.graph)
    session, keep = optimised(graph, None, batch.shape[-1], profile=folder / "profile")
    for _ in range(runs + 1):
        session.run(None, {"photos": batch})
    events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    del session, keep
    return _by_stage(events, places.get, runs)


def _named(graph: "GraphProto") -> dict[str, str]:
    """Names each node after its first output, and returns the stage of every name."""
    stages, places = iter(STAGES), {}
    stage = next(stages)
    for node in graph.node:
        node.name = node.output[0].partition(".")[0]  # Split's are numbered
        places[node.name] = stage
        if re.fullmatch(r"map\d", node.name):  # the pooling after the stem is the stem's
            stage = next(stages) if node.name != "map0" else stage
        elif node.op_type == "MaxPool":
            stage = next(stages)
    return places


def _by_stage(
    events: list[dict[str, Any]], place: Callable[[str], str | None], runs: int
) -> dict[str, Any]:
    """Adds up the kernels of each of the last `runs` runs."""
    windows = sorted(
        (e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run"
    )[-runs:]  # fmt: skip
    kernels = sorted(
        (e for e in events if e.get("name", "").endswith("_kernel_time")), key=lambda e: e["ts"]
    )
    found, convolutions = [], []
    for begin, end in windows:
        seconds, in_convolutions, stage = dict.fromkeys(STAGES, 0.0), 0.0, STAGES[0]
        for event in kernels:
            if not begin <= event["ts"] < end:
                continue
            name = re.split(r"_(?:nchwc|kernel_time|token)", event["name"])[0]
            stage = place(name) or stage
            seconds[stage] += event["dur"] / 1e6
            if event["args"]["op_name"].endswith("Conv"):  # FusedConv too
                in_convolutions += event["dur"] / 1e6
        found.append(list(seconds.values()))
        convolutions.append(in_convolutions / sum(seconds.values()))
    return _shares(found, median(convolutions))


def _shares(found: list[list[float]], convolutions: float | None = None) -> dict[str, Any]:
    """Medians and shares, of the seconds by stage of every run."""
    seconds = [median(values) for values in zip(*found, strict=True)]
    return {
        "runs": len(found),
        "ms": {stage: 1e3 * value for stage, value in zip(STAGES, seconds, strict=True)},
        "shares": {
            stage: value / sum(seconds) for stage, value in zip(STAGES, seconds, strict=True)
        },
        "convolutions": convolutions,
    }
