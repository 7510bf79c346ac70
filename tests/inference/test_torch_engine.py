"""The torch engine: float32 as the network gives it, half precision, torch.compile."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from resnest_cli import Classifier
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.inference.batch_size import batch_size_for
from resnest_cli.inference.photos import as_sources
from resnest_cli.inference.torch_engine import (
    BatchTooLargeError,
    FixedBatches,
    Run,
    TorchEngine,
    folded,
)
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.options import AUTO
from tests.conftest import Cli, make_photo
from tests.networks import enliven, lively

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


def test_a_recorded_network_runs_batches_of_one_size(network: ResNeSt, photos: Float32) -> None:
    """With a recorder of the CPU: it keeps the places of its input and output, as a graph does."""
    made: list[int] = []

    def make(run: Run, first: torch.Tensor) -> Run:
        made.append(len(first))
        place = first.clone(memory_format=torch.preserve_format)
        out = run(place)

        def replay(batch: torch.Tensor) -> torch.Tensor:
            assert batch.shape == place.shape
            assert batch.stride() == place.stride()
            place.copy_(batch)
            out.copy_(run(place))
            return out

        return replay

    plain, fixed = TorchEngine(network, "cpu"), TorchEngine(network, "cpu")
    fixed._fixed = FixedBatches(make)
    answers = [fixed.logits(batch) for batch in (photos, photos[:1], photos[1:])]
    for batch, found in zip((photos, photos[:1], photos[1:]), answers, strict=True):
        np.testing.assert_allclose(found, plain.logits(batch), rtol=1e-5, atol=1e-5)
    assert made == [3]
    larger = np.concatenate([photos, photos])
    np.testing.assert_allclose(fixed.logits(larger), plain.logits(larger), rtol=1e-5, atol=1e-5)
    fixed.output(photos, "features")
    assert made == [3, 6, 3]


def test_a_batch_beyond_memory_is_told(
    network: ResNeSt, photos: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(network, "cpu")

    def full(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "_runner", lambda _: full)
    with pytest.raises(BatchTooLargeError, match="3 photos at once do not fit"):
        engine.logits(photos)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cuda-graphs", "--device", "cpu"], "--cuda-graphs needs an NVIDIA GPU"),
        (["--cuda-graphs", "--engine", "onnx"], "belong to the torch engine"),
        (["--cuda-graphs", "--compile"], "--compile records CUDA graphs itself"),
        (["--gpu-decode", "--device", "cpu"], "leave out --device cpu"),
        (["--gpu-decode", "--engine", "onnx"], "leave out --engine onnx"),
        (["--gpu-decode", "--fast-decode"], "exclude each other"),
        (["--batch-size", "some"], "neither a number from 1 to 4096 nor auto"),
        (["--batch-size", "0"], "neither a number from 1 to 4096 nor auto"),
    ],
)
def test_what_needs_a_gpu_is_refused(
    cli: Cli, tiny_checkpoint: str, photo: str, options: list[str], told: str
) -> None:
    done = cli("predict", photo, "--model", tiny_checkpoint, *options)
    assert done.code == 2
    assert told in " ".join(done.err.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is no GPU")
def test_without_a_gpu_gpu_options_say_so(cli: Cli, tiny_checkpoint: str, photo: str) -> None:
    for option in ("--cuda-graphs", "--gpu-decode"):
        done = cli("predict", photo, "--model", tiny_checkpoint, option)
        assert done.code == 2
        assert f"{option} needs an NVIDIA GPU; the device is cpu." in done.err


def test_batches_chosen_for_the_machine(
    cli: Cli, tiny_checkpoint: str, photo: str, tmp_path: Path
) -> None:
    done = cli("predict", photo, "--model", tiny_checkpoint, "-b", "auto")
    assert done.code == 0
    assert "Batches of " in done.err
    target = tmp_path / "feats.npy"
    done = cli("features", photo, "--model", tiny_checkpoint, "-b", "auto", "-o", target)
    assert done.code == 0, done.err
    size = json.loads(target.with_suffix(".json").read_text())["engine"]["batch_size"]
    assert f"Batches of {size};" in done.err


def test_memory_that_ends_while_compiling_is_no_fault_of_the_compiler(
    network: ResNeSt, photos: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: full)
    with pytest.raises(BatchTooLargeError, match="lower --batch-size"):
        TorchEngine(network, "cpu", compiled=True).logits(photos)


@pytest.mark.parametrize(
    "variant", ["resnest14t", "resnest14d", "resnest50d_4s2x40d", "resnest50d_1s4x24d"]
)
def test_folding_keeps_the_answers(variant: str) -> None:
    network = lively(variant, torch.float64, num_classes=7).eval()
    before = copy.deepcopy(network.state_dict())
    photos = torch.randn(2, 3, 70, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = network.forward_intermediates(photos), network(photos)
        quick = folded(network)
        found = quick.forward_intermediates(photos), quick(photos)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_a_training_network_is_folded_as_in_evaluation() -> None:
    network = enliven(build("resnest14t", num_classes=3)).train()
    photos = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        found = folded(network)(photos)
        torch.testing.assert_close(found, network.eval()(photos), rtol=1e-4, atol=1e-4)


def test_an_accelerator_works_while_the_next_batch_is_put_together(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """On the CPU, which is said to be something else."""
    paths = [str(make_photo(tmp_path / f"{number}.png", seed=number)) for number in range(5)]
    paths.insert(3, str(tmp_path / "none.png"))
    plain = Classifier(str(tiny_checkpoint), device="cpu", engine="torch")
    wanted = list(plain.records(as_sources(paths), batch_size=2, workers=1))
    ahead = Classifier(str(tiny_checkpoint), device="cpu", engine="torch", background=True)
    ahead.engine.device = "cpu:0"
    put, stacked = [], ahead.engine.stacked
    ahead.engine.stacked = lambda photos: put.append(len(photos)) or stacked(photos)
    found = ahead.records(as_sources(paths), batch_size=2, workers=1)
    first = next(found)
    assert put == [2, 1]  # the second has a photo that is not there
    assert [first, *found] == wanted
    assert put == [2, 1, 2]


def test_a_graph_is_recorded_anew_after_sizes_were_tried(tiny_checkpoint: Path) -> None:
    classifier = Classifier(str(tiny_checkpoint), device="cpu", engine="torch")
    classifier.graphs, tried = True, classifier.engine
    sizes: list[int] = []
    tried._fixed = FixedBatches(lambda run, photos: sizes.append(len(photos)) or run)
    assert batch_size_for(classifier, "logits", AUTO) in {8, 16, 32}
    assert sizes == [8, 16, 32]
    assert classifier.engine is not tried
