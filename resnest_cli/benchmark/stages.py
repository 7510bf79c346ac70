"""Share of a network's time by stage: stem, four stages, head (pooling and classifier).

How it is measured, apart from the timed runs, which carry no instruments:

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
import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.model.cost import STAGES

if TYPE_CHECKING:
    from onnx import GraphProto

    from resnest_cli.inference.torch_engine import TorchEngine
    from resnest_cli.model.loading import Model

Float32 = NDArray[np.float32]


def torch_stages(engine: "TorchEngine", batch: Float32, runs: int) -> dict[str, Any]:
    """Seconds by stage, medians of `runs` runs after one that is not counted."""
    import torch

    from resnest_cli.benchmark.timing import synchronise

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
