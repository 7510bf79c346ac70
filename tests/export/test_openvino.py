"""OpenVINO's .xml and .bin: they say what the network says, and what it says about itself."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from resnest_cli.model.checkpoint_header import read_info
from resnest_cli.model.loading import find_model
from tests.conftest import CLASSES, Cli

openvino = pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnest_cli.export.int8._ROUNDS", (1, 1))


def logits(path: Path, photos: np.ndarray) -> np.ndarray:
    """As a program of somebody else runs the file."""
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hint)
    return np.array(compiled(photos)["logits"])


def test_the_files_are_those_of_the_network(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import torch

    whole, half = tmp_path / "whole.xml", tmp_path / "half.xml"
    sizes = []
    for path, more in ((whole, ()), (half, ("--fp16",))):
        result = cli("export", "--model", tiny_checkpoint, "-o", path, *more, "--format", "json")
        assert result.code == 0, result.err
        for file in (path, path.with_suffix(".bin")):  # no web page
            refused = cli("predict", path, "--model", file)
            assert "is a network for OpenVINO" in refused.err
        summary = json.loads(result.out)
        assert summary["openvino"] == openvino.__version__
        assert summary["beside_float32"]["speed"]["this"]["ms"] > 0
        assert summary["precision"] == ("float16" if more else "float32")
        sizes.append(path.with_suffix(".bin").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    photos = np.random.default_rng(0).standard_normal((3, 3, 48, 48)).astype(np.float32)
    with torch.inference_mode():
        expected = find_model(str(tiny_checkpoint)).network()(torch.from_numpy(photos)).numpy()
    np.testing.assert_allclose(logits(whole, photos), expected, atol=1e-4)
    np.testing.assert_allclose(logits(half, photos), expected, atol=0.05)
    model = openvino.Core().read_model(str(whole))
    assert model.input(0).get_partial_shape()[0].is_dynamic
    said = json.loads(model.get_rt_info(["resnest", "class_names"]).astype(str))
    assert tuple(said) == CLASSES == read_info(tiny_checkpoint).class_names


def test_bad_names_and_a_missing_package(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("export", "--model", tiny_checkpoint, "-o", tmp_path / "x.xml")
    for flags, words in (
        (("--opset", "17"), "--opset goes with .onnx, not with .xml"),
        (("--int8", "--calibrate", tmp_path), "--int8 goes with .onnx, not with .xml"),
    ):
        refused = cli(*given, *flags)
        assert refused.code == 2
        assert words in refused.err
    (tmp_path / "x.bin").write_bytes(tiny_checkpoint.read_bytes())
    refused = cli("export", "--model", tmp_path / "x.bin", "-o", tmp_path / "x.xml")
    assert refused.code == 2
    assert "x.bin is read" in refused.err
    (tmp_path / "x.bin").unlink()
    monkeypatch.setitem(sys.modules, "openvino", None)
    missing = cli(*given)
    assert missing.code == 1
    assert "Run: pip install openvino" in missing.err
    assert not list(tmp_path.glob("x.*"))
