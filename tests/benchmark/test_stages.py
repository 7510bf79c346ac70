"""Time by stage: which node and which module counts where."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resnest_cli.benchmark import timing
from resnest_cli.benchmark.timing import _by_stage, _named, onnx_stages, torch_stages
from resnest_cli.inference.onnx_graph import build_graph
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model.cost import STAGES
from resnest_cli.model.loading import find_model
from resnest_cli.model.resnest import build
from tests.networks import TINY, enliven

BATCH = np.random.default_rng(0).standard_normal((2, 3, 48, 48), np.float32)


@pytest.mark.parametrize("radix", [1, 2, 4])
def test_every_node_of_the_graph_has_its_stage(radix: int) -> None:
    variant = replace(TINY, radix=radix)
    network = build(variant, num_classes=5)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    graph = build_graph(variant, tensors).model.graph
    places = _named(graph)
    assert len(places) == len(graph.node)
    convolutions = dict.fromkeys(STAGES, 0)
    for node in graph.node:
        convolutions[places[node.name]] += node.op_type == "Conv"
    attention = 2 if radix <= 2 else 1 + radix  # fc1 and one or several of fc2
    block = 3 + attention
    own = 2 if radix == 2 else 0  # splits of 16 channels, in stage 4, have their own convolutions
    want = [3, block + 1, 2 * block + 1, block + 1, block + own + 1, 0]
    assert list(convolutions.values()) == want
    heads = [node.op_type for node in graph.node if places[node.name] == "head"]
    assert heads == ["GlobalAveragePool", "Flatten", "Gemm"]
    assert {n.op_type for n in graph.node if places[n.name] == "stem"} == {
        "Conv",
        "Relu",
        "MaxPool",
    }


def test_kernels_are_added_up_by_run_and_stage() -> None:
    def kernel(ts: int, name: str, op: str, dur: int) -> dict:
        return {"name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": op}}

    def run(ts: int, scale: int) -> list[dict]:
        return [
            {"name": "model_run", "ts": ts, "dur": 90},
            kernel(ts + 1, "Relu1_nchwc", "Conv", 10 * scale),
            kernel(ts + 2, "Reorder_token_7", "ReorderOutput", 5 * scale),  # unknown: as before
            kernel(ts + 3, "Relu9_nchwc", "FusedConv", 20 * scale),
            kernel(ts + 4, "map1", "Relu", 5 * scale),
            kernel(ts + 5, "features", "GlobalAveragePool", 10 * scale),
        ]

    places = {"Relu1": "stem", "Relu9": "stage 1", "map1": "stage 1", "features": "head"}
    first = run(0, 100)  # the warm-up
    found = _by_stage([*run(200, 1), *run(300, 3), *run(400, 1), *first], places.get, 3)
    assert found["runs"] == 3
    assert found["ms"] == pytest.approx(
        dict.fromkeys(STAGES, 0) | {"stem": 0.015, "stage 1": 0.025, "head": 0.01}
    )
    assert found["shares"]["stem"] == pytest.approx(0.3)
    assert found["convolutions"] == pytest.approx(0.6)


def test_the_runtimes_profile(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = onnx_stages(find_model(str(tiny_checkpoint)), BATCH, 5, tmp_path)
    assert found["runs"] == 5
    assert list(found["shares"]) == list(STAGES)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert all(share > 0 for share in found["shares"].values())
    assert 0 < found["convolutions"] < 1


def test_hooks_read_the_clock_where_a_stage_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    network = enliven(build(TINY, num_classes=5))
    engine = TorchEngine(network, "cpu")
    before = engine.logits(BATCH)
    order: list[str] = []
    for name, module in engine.network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | torch.nn.MaxPool2d):
            module.register_forward_hook(lambda *_, name=name: order.append(name))
    ticks = iter(range(1000))

    def clock() -> float:
        order.append("|")
        return float(next(ticks))

    monkeypatch.setattr(timing.time, "perf_counter", clock)
    found = torch_stages(engine, BATCH, 5)
    assert found["runs"] == 5
    assert found["shares"] == pytest.approx(dict.fromkeys(STAGES, 1 / 6))  # a tick each
    parts = " ".join(order).split("|")[1:7]
    places = [{name.partition(".")[0] for name in part.split()} for part in parts]
    assert places == [{"conv1", "maxpool"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}, {"fc"}]
    monkeypatch.undo()
    order.clear()
    assert (engine.logits(BATCH) == before).all()
    assert "|" not in order  # the hooks are gone
