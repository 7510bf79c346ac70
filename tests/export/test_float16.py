"""The network in 16 bits: half the size, nearly the same answers, and it runs as a model."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from resnest_cli.errors import CheckpointError
from resnest_cli.export.float16 import halved
from resnest_cli.export.formats import onnx_model
from resnest_cli.inference.onnx_engine import open_exported
from resnest_cli.model.loading import find_model
from resnest_cli.model.onnx_file import check_structure
from tests.conftest import Cli, make_photo


@pytest.fixture
def proto(tiny_checkpoint: Path) -> onnx.ModelProto:
    return onnx_model(find_model(str(tiny_checkpoint)), 17)


def test_weights_and_maps_have_16_bits_and_the_ends_32(proto: onnx.ModelProto) -> None:
    before = proto.SerializeToString()
    found = halved(proto)
    assert proto.SerializeToString() == before
    kinds = {tensor.data_type for tensor in found.graph.initializer}
    assert TensorProto.FLOAT16 in kinds
    assert TensorProto.FLOAT not in kinds
    ends = [*found.graph.input, *found.graph.output]
    assert [one.name for one in ends] == ["photos", "features", "logits"]
    assert {one.type.tensor_type.elem_type for one in ends} == {TensorProto.FLOAT}
    data = found.SerializeToString()
    assert len(data) < 0.6 * len(before)
    check_structure(Path("half.onnx"), data)
    photos = np.random.default_rng(0).standard_normal((3, 3, 48, 48)).astype(np.float32)
    for name in ("features", "logits"):
        whole, half = (open_exported(one).output(photos, name) for one in (before, data))
        assert half.dtype == np.float32
        assert not np.array_equal(whole, half)
        np.testing.assert_allclose(half, whole, rtol=0.02, atol=0.02)


def test_weights_beyond_16_bits_are_refused(proto: onnx.ModelProto) -> None:
    tensor = next(one for one in proto.graph.initializer if one.data_type == TensorProto.FLOAT)
    values = np.full(tuple(tensor.dims), 70_000, np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(CheckpointError, match="beyond 65,504"):
        halved(proto)


def test_the_file_is_a_model_and_says_what_16_bits_changed(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnest_cli.export.int8._ROUNDS", (1, 1))
    photo = make_photo(tmp_path / "photos.jpg")
    half = tmp_path / "half.onnx"
    result = cli("export", "--model", tiny_checkpoint, "-o", half, "--fp16")
    assert result.code == 0, result.err
    for words in ("float16", "random inputs", "photos a second", "x 0.5"):
        assert words in result.out, result.out
    answers = [
        cli("predict", photo, "--model", model, "--format", "csv", "-k", "1").out.splitlines()[1]
        for model in (tiny_checkpoint, half)
    ]
    first = [line.split(",") for line in answers]
    assert [cell for cell in first[0] if cell.isalpha()] == [c for c in first[1] if c.isalpha()]
    for flags, words in (
        (("-o", "x.onnx", "--fp16", "--int8", "--calibrate", tmp_path), "leave out one"),
        (("-o", "x.pt2", "--fp16"), "not with .pt2"),
        (("--hub", "folder", "--fp16"), "not with --hub"),
    ):
        refused = cli("export", "--model", tiny_checkpoint, *flags)
        assert refused.code == 2
        assert words in refused.err
