"""Reading an .onnx file's metadata without the package onnx: as onnx does, and nothing damaged."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from resnest_cli.errors import CheckpointError
from resnest_cli.model.checkpoint_header import read_info
from resnest_cli.model.onnx_file import read_metadata

PROPS = {"a": "1", "": "no key", "empty": "", "long": "x" * 140, "été": "日本\n"}


@pytest.fixture
def model() -> onnx.ModelProto:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [40], [0.5] * 40)
    names = ("x", "y")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [40]) for name in names)
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    made = helper.make_model(graph, producer_name="someone")
    for key, value in PROPS.items():
        made.metadata_props.add(key=key, value=value)
    return made


def test_what_onnx_wrote_is_read(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert read_metadata(path) == PROPS


def test_a_file_of_another_program_says_what_is_missing(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"no usable format_version, variant.*resnest export"):
        read_info(path)


def test_whatever_is_cut_off_is_told(model: onnx.ModelProto, tmp_path: Path) -> None:
    data = model.SerializeToString()
    path = tmp_path / "m.onnx"
    told = 0
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        try:
            assert read_metadata(path).items() <= PROPS.items()  # cut between two fields
        except CheckpointError as error:
            told += str(path) in str(error)
    assert told > 0.9 * len(data)


@pytest.mark.parametrize(
    "data", [b"\xff" * 40, b"\x0b\x00", b"\x72\xff\xff\xff\xff\x7f", b"\x72\x03\x0a\x01\xff"]
)
def test_what_is_no_protobuf_is_told(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"m\.onnx"):
        read_metadata(path)
