"""A classifier of another program: asked as it wants it, or refused in words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from resnest_cli.errors import CheckpointError, EngineError, UsageError
from resnest_cli.inference.foreign_onnx import ForeignOnnx

CLASSES = 4
WEIGHT = np.random.default_rng(0).standard_normal((CLASSES, 3)).astype(np.float32)


def made(
    path: Path,
    shape: Sequence[int | str] = ("n", 3, 16, 16),
    *,
    kind: int = TensorProto.FLOAT,
    softmax: bool = False,
    unusual: bool = False,
    outputs: int = 1,
    flat: bool = True,
    **metadata: str,
) -> Path:
    """Means of the three colours, and a linear classifier on them."""
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    kind_of_answers = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    channels = shape[1]
    assert isinstance(channels, int)
    inside = {} if kind != TensorProto.UINT8 else {"to": TensorProto.FLOAT}
    nodes = (
        [
            helper.make_node("Cast", ["x"], ["floats"], **inside),
        ]
        if inside
        else []
    )
    nodes += [
        helper.make_node("GlobalAveragePool", ["floats" if inside else "x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["linear"], transB=1),
        helper.make_node("Softmax" if softmax else "Relu" if unusual else "Sum", ["linear"], ["y"]),
    ]
    if unusual:
        nodes[-1] = helper.make_node("Identity", ["linear"], ["y"])
    names = ["y", "flat"][:outputs] if flat else ["pooled"]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind_of_answers, None) for name in names],
        [numpy_helper.from_array(np.resize(WEIGHT, (CLASSES, channels)).astype(dtype), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    return path


def photos(count: int = 5, size: int = 16) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((count, 3, size, size)).astype(np.float32)


def expected(batch: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, Any]:
    return batch.mean(axis=(2, 3)) @ WEIGHT.T


@pytest.mark.parametrize("batch", ["n", 1, 2, 8])
def test_answers_of_free_and_fixed_batches(tmp_path: Path, batch: int | str) -> None:
    found = ForeignOnnx(made(tmp_path / "a.onnx", (batch, 3, 16, 16)))
    assert (found.size, found.num_classes) == (16, CLASSES)
    np.testing.assert_allclose(found.logits(photos()), expected(photos()), atol=1e-6)


def test_float16(tmp_path: Path) -> None:
    found = ForeignOnnx(made(tmp_path / "a.onnx", kind=TensorProto.FLOAT16))
    answers = found.logits(photos())
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected(photos()), atol=1e-2)


def test_probabilities_become_logits_that_give_them_again(tmp_path: Path) -> None:
    found = ForeignOnnx(made(tmp_path / "a.onnx", softmax=True))
    again = torch.from_numpy(found.logits(photos())).softmax(1)
    torch.testing.assert_close(again, torch.from_numpy(expected(photos())).softmax(1))


def test_a_network_of_torchs_exporter(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    path = tmp_path / "torch.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 16, 16),), path, dynamo=True, verbose=False)
    found = ForeignOnnx(path, trusted=True)
    with torch.no_grad():
        want = network(torch.from_numpy(photos()))
    np.testing.assert_allclose(found.logits(photos()), want.numpy(), atol=1e-5)


def test_a_size_is_asked_for_where_the_file_takes_any(tmp_path: Path) -> None:
    path = made(tmp_path / "any.onnx", ("n", 3, "h", "w"), size="[24, [32]]")
    with pytest.raises(UsageError, match="give --teacher-size"):
        ForeignOnnx(path)
    assert ForeignOnnx(path, size=24).size == 24
    with pytest.raises(UsageError, match="takes 16 x 16 pixels only"):
        ForeignOnnx(made(tmp_path / "fixed.onnx"), size=24)


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    names = ["cat", "dog", "cow", "hen"]
    ours = made(tmp_path / "a.onnx", names=json.dumps(names), mean="[0.4, 0.5, 0.6]", std="1,2,3")
    found = ForeignOnnx(ours)
    assert found.class_names == tuple(names)
    assert (found.mean, found.std) == ((0.4, 0.5, 0.6), (1, 2, 3))
    bytes_ = made(tmp_path / "e.onnx", mean="[123.675, 116.28, 103.53]", std="58.395,57.12,57.375")
    assert (ForeignOnnx(bytes_).mean, ForeignOnnx(bytes_).std) == (None, None)
    grey = ForeignOnnx(made(tmp_path / "d.onnx", ("n", 3, "h", "w"), size="24", mean="0.498"))
    assert (grey.size, grey.mean) == (24, (0.498, 0.498, 0.498))
    python = made(tmp_path / "b.onnx", names=str(dict(enumerate(names))), mean="grey",
                  shape=("n", 3, "h", "w"), imgsz="[32, 32]")  # fmt: skip
    found = ForeignOnnx(python)  # as Ultralytics writes them
    assert found.size == 32
    assert found.class_names == tuple(names)
    assert (found.mean, found.std) == (None, None)
    assert ForeignOnnx(made(tmp_path / "c.onnx", names="7")).class_names is None


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"shape": ("n", 16, 16, 3)}, r"\(n, 16, 16, 3\) has the colours last"),
        ({"shape": ("n", 1, 16, 16)}, "is not .N, 3, side, side."),
        ({"shape": ("n", 3, 16, 24)}, "is not .N, 3, side, side."),
        ({"kind": TensorProto.UINT8}, "is of tensor.uint8."),
        ({"outputs": 2}, "1 input and 2 outputs"),
        ({"flat": False}, "answers 2 photos with .2, 3, 1, 1. numbers"),
    ],
)
def test_others_are_refused(tmp_path: Path, how: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        ForeignOnnx(made(tmp_path / "a.onnx", **how), trusted=True)


def test_a_trusted_file_may_have_other_operators(tmp_path: Path) -> None:
    path = made(tmp_path / "a.onnx", unusual=True)
    with pytest.raises(CheckpointError, match="--trust-onnx"):
        ForeignOnnx(path)
    np.testing.assert_allclose(
        ForeignOnnx(path, trusted=True).logits(photos()), expected(photos()), atol=1e-6
    )


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(made(tmp_path / "b.onnx").read_bytes()[:-20])
    with pytest.raises((CheckpointError, EngineError), match=r"a\.onnx"):
        ForeignOnnx(path)
