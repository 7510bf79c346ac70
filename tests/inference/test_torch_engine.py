"""The torch engine: float32 as the network gives it, half precision, torch.compile."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resnest_cli import Classifier
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model.resnest import ResNeSt, build
from tests.conftest import Cli
from tests.networks import enliven

Float32 = NDArray[np.float32]


@pytest.fixture(scope="module")
def network() -> ResNeSt:
    return enliven(build("resnest14t", num_classes=5)).eval()


@pytest.fixture(scope="module")
def photos() -> Float32:
    return np.random.default_rng(0).standard_normal((3, 3, 48, 48), dtype=np.float32)


def test_every_output_is_the_networks(network: ResNeSt, photos: Float32) -> None:
    engine = TorchEngine(network, "cpu")
    with torch.inference_mode():
        maps = network.forward_intermediates(torch.from_numpy(photos))
        expected = {f"map{index}": maps[index] for index in range(5)}
        expected["features"] = network.forward_head(maps[4], pre_logits=True)
        expected["logits"] = network(torch.from_numpy(photos))
    for name, value in expected.items():
        found = engine.output(photos, name)
        assert found.flags.c_contiguous
        np.testing.assert_allclose(found, value.numpy(), rtol=1e-4, atol=1e-4 * value.abs().max())


def test_half_precision_acts_and_is_near(network: ResNeSt, photos: Float32) -> None:
    whole = TorchEngine(network, "cpu")
    half = TorchEngine(network, "cpu", amp="bfloat16")
    exact, found = whole.logits(photos), half.logits(photos)
    difference = np.abs(found - exact).max() / np.abs(exact).max()
    assert 1e-5 < difference < 0.05
    assert found.dtype == np.float32
    assert half.fingerprint(3).precision == "bfloat16"
    assert half.fingerprint(3) != whole.fingerprint(3)
    with pytest.raises(UsageError, match="bfloat16"):
        TorchEngine(network, "cpu", amp="float16")


def test_no_map_becomes_float32_under_autocast(network: ResNeSt, photos: Float32) -> None:
    kinds = set()
    engine = TorchEngine(network, "cpu", amp="bfloat16")
    for module in engine.network.modules():
        if type(module).__name__ in {"SplitAttention", "Bottleneck"}:
            module.register_forward_hook(lambda *given: kinds.add(given[2].dtype))
    engine.logits(photos)
    assert kinds == {torch.bfloat16}


@pytest.mark.slow  # half a minute for the compiler
def test_compiled(network: ResNeSt, photos: Float32) -> None:
    told: list[str] = []
    plain, quick = TorchEngine(network, "cpu"), None
    quick = TorchEngine(network, "cpu", compiled=True, notify=told.append)
    for batch in (photos, photos[:1], photos):  # the smaller one is padded, not compiled again
        np.testing.assert_allclose(quick.logits(batch), plain.logits(batch), rtol=1e-3, atol=1e-3)
    assert len(told) == 1
    assert "batches of 3" in told[0]
    assert "compiled" in quick.fingerprint(3).version


def test_what_cannot_be_compiled_is_told(
    network: ResNeSt, photos: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: object, **_: object) -> object:
        def fail(_: object) -> None:
            raise RuntimeError("no compiler\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    engine = TorchEngine(network, "cpu", compiled=True)
    with pytest.raises(EngineError, match=r"RuntimeError: no compiler\. Leave out --compile"):
        engine.logits(photos)


def test_options_choose_the_torch_engine(cli: Cli, tiny_checkpoint: str, photo: str) -> None:
    assert Classifier(str(tiny_checkpoint), device="cpu").engine.name == "onnx"
    chosen = Classifier(str(tiny_checkpoint), device="cpu", amp="bfloat16").engine
    assert (chosen.name, chosen.fingerprint(1).precision) == ("torch", "bfloat16")
    done = cli("predict", photo, "--model", tiny_checkpoint, "--amp", "bfloat16")
    assert done.code == 0
    for option in (["--amp", "bfloat16"], ["--compile"]):
        done = cli("predict", photo, "--model", tiny_checkpoint, "--engine", "onnx", *option)
        assert done.code == 2
        assert "torch engine" in done.err
    with pytest.raises(UsageError, match="bfloat16 or float16"):
        Classifier(str(tiny_checkpoint), amp="half")  # type: ignore[arg-type]
