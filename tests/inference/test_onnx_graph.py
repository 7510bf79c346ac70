"""The graph against the torch network: every variant, odd sizes, every output."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from resnest_cli.inference.onnx_graph import OUTPUTS, build_graph
from resnest_cli.inference.ranking import softmax
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.model.variants import VARIANTS, Variant
from tests.networks import EACH, TINY, enliven, lively, photos

Arrays = dict[str, NDArray[np.float32]]


def arrays_of(network: ResNeSt) -> Arrays:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def session(variant: Variant, arrays: Arrays, outputs: tuple[str, ...] = ("logits",)):
    graph = build_graph(variant, dict(arrays), outputs)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), values)
    return ort.InferenceSession(graph.model.SerializeToString(), options)


@torch.inference_mode()
def expected(network: ResNeSt, x: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    maps = network.forward_intermediates(x)
    found = {f"map{number}": value for number, value in enumerate(maps)}
    found["features"] = network.forward_head(maps[4], pre_logits=True)
    found["logits"] = network.forward_head(maps[4])
    return {name: value.numpy() for name, value in found.items()}


def distance(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Largest difference by the reference's largest value."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", EACH)
def test_probabilities_are_those_of_the_torch_network(name: str) -> None:
    network = lively(name).eval()
    runtime = session(VARIANTS[name], arrays_of(network))
    # 224 in full where that is quick; 65 x 97 rounds up at every stage.
    large = (1, 3, 224, 224) if VARIANTS[name].gmacs < 20 else (1, 3, 128, 128)
    for shape in (large, (3, 3, 64, 64), (2, 3, 65, 97)):
        x = photos(1, 320, torch.float32).flatten()[: int(np.prod(shape))].view(shape)
        with torch.inference_mode():
            theirs = network(x).numpy()
        (ours,) = runtime.run(None, {"photos": x.numpy()})
        found = float(np.abs(softmax(ours) - softmax(theirs)).max())
        print(f"{name} {shape}: {found:.1e}, logits {distance(ours, theirs):.1e}")
        assert softmax(theirs).max() > 0.005  # the network prefers something
        assert found < 1e-5
        assert distance(ours, theirs) < 1e-4


ODD = [(33, 47), (1, 1), (2, 3), (31, 32), (64, 63), (95, 31)]


@pytest.mark.parametrize("radix", [1, 2, 4])
@pytest.mark.parametrize("avd_first", [False, True])
def test_all_outputs_at_odd_sizes(radix: int, avd_first: bool) -> None:
    variant = TINY.overridden({"radix": radix, "avd_first": avd_first})
    network = enliven(build(variant, num_classes=7, in_channels=4)).eval()
    runtime = session(variant, arrays_of(network), OUTPUTS)
    for height, width in ODD:
        x = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(height))
        theirs = expected(network, x)
        ours = dict(zip(OUTPUTS, runtime.run(None, {"photos": x.numpy()}), strict=True))
        for name in OUTPUTS:
            assert distance(ours[name], theirs[name]) < 2e-6, (name, height, width)


@pytest.mark.parametrize("outputs", [("map0",), ("map3", "map1"), ("logits", "features"), OUTPUTS])
def test_outputs_come_in_the_order_asked_for_and_nothing_more_is_computed(
    outputs: tuple[str, ...],
) -> None:
    network = enliven(build(TINY, num_classes=7)).eval()
    graph = build_graph(TINY, arrays_of(network), outputs)
    assert tuple(value.name for value in graph.model.graph.output) == outputs
    x = photos(2, 40, torch.float32)
    theirs = expected(network, x)
    runtime = session(TINY, arrays_of(network), outputs)
    for name, ours in zip(outputs, runtime.run(None, {"photos": x.numpy()}), strict=True):
        assert distance(ours, theirs[name]) < 2e-6
    last = max(map(OUTPUTS.index, outputs))
    assert any("layer4" in name for name in graph.weights) == (last >= 4)
    assert ("fc.weight" in graph.weights) == ("logits" in outputs)


def test_the_standalone_model_is_valid_and_the_same() -> None:
    network = enliven(build(TINY, num_classes=7)).eval()
    model = build_graph(TINY, arrays_of(network)).standalone()
    onnx.checker.check_model(model, full_check=True)
    x = photos(2, 33, torch.float32).numpy()
    ours = ort.InferenceSession(model.SerializeToString()).run(None, {"photos": x})[0]
    assert distance(ours, expected(network, torch.from_numpy(x))["logits"]) < 2e-6


def test_what_does_not_fit_is_refused() -> None:
    arrays = arrays_of(enliven(build(TINY, num_classes=7)))
    for outputs in ((), ("logits", "logits"), ("map5",)):
        with pytest.raises(ValueError, match="outputs must be"):
            build_graph(TINY, dict(arrays), outputs)
    for name in (
        "conv1.0.weight",
        "layer2.1.bn3.running_var",
        "layer4.0.conv2.fc2.bias",
        "fc.bias",
    ):
        with pytest.raises(ValueError, match=name):
            build_graph(TINY, {n: a for n, a in arrays.items() if n != name})
        with pytest.raises(ValueError, match=name.rpartition(".")[0]):
            build_graph(TINY, arrays | {name: arrays[name][:-1]})
    with pytest.raises(ValueError, match=r"no layer2\.2"):
        build_graph(TINY, arrays | {"layer2.2.conv1.weight": arrays["fc.bias"]})


@pytest.mark.slow  # torch's exporter takes ten seconds and a gigabyte even for the smallest
@pytest.mark.filterwarnings("ignore")  # of the exporter's own libraries
def test_torchs_own_export_gives_the_same_logits(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = enliven(build("resnest14d")).eval()
    x = photos(2, 64, torch.float32)
    exported = tmp_path / "exported.onnx"
    torch.onnx.export(network, (x,), exported, dynamo=True, input_names=["photos"], verbose=False)
    session = ort.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"photos": x.numpy()})
    tensors = {k: v.numpy() for k, v in network.state_dict().items()}
    graph = build_graph(network.variant, tensors).standalone().SerializeToString()
    ours = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (logits,) = ours.run(["logits"], {"photos": x.numpy()})
    assert np.abs(logits - theirs).max() < 1e-5 * np.abs(theirs).max()
