"""An .onnx from elsewhere: run if it is made as ours are, or trusted; fed what it takes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from resnest_cli.errors import CheckpointError, EngineError, UsageError
from resnest_cli.inference import onnx_cache
from resnest_cli.inference.classifier import Classifier
from resnest_cli.model.loading import find_model
from resnest_cli.model.onnx_file import OPERATORS
from tests.conftest import Cli, make_photo

PHOTOS = [np.full((60, 60, 3), shade, np.uint8) for shade in (0, 90, 180)]


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `resnest export` writes of the tiny network."""
    from resnest_cli.export import ExportJob
    from resnest_cli.export.export import export

    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    export(find_model(str(tiny_checkpoint)), ExportJob(path)).write(path)
    return path


def fixed(path: Path, target: Path, *sides: int | str) -> Path:
    """The same network for photos (batch, 3, height, width); words are free."""
    model = onnx.load(path)
    for place, side in enumerate(sides):
        dimension = model.graph.input[0].type.tensor_type.shape.dim[place]
        dimension.Clear()
        if isinstance(side, int):
            dimension.dim_value = side
        else:
            dimension.dim_param = side
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].Clear()
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize("sides", [("height", "width"), (48, 48), (48, "width")])
def test_fixed_batches(
    exported: Path, tmp_path: Path, batch: int, sides: tuple[int | str, ...]
) -> None:
    path = fixed(exported, tmp_path / "fixed.onnx", batch, 3, *sides)
    want, found = Classifier(str(exported)), Classifier(str(path))
    for count in (1, 2, 3):
        assert np.allclose(found.logits(PHOTOS[:count]), want.logits(PHOTOS[:count]), atol=1e-5)
    assert np.allclose(found.features(PHOTOS), want.features(PHOTOS), atol=1e-5)
    assert found.logits([]).shape == (0, 5)


def test_a_fixed_size_is_fed_and_said(exported: Path, tmp_path: Path, cli: Cli) -> None:
    path = fixed(exported, tmp_path / "fixed.onnx", 1, 3, 64, 64)
    photos = [make_photo(tmp_path / f"{seed}.png", seed=seed) for seed in range(2)]
    done = cli("predict", *photos, "--model", path, "--format", "jsonl")
    assert done.code == 0
    assert "takes photos of 64 x 64 pixels only: they are prepared for that, not for the 48" in (
        done.err
    )
    want = Classifier(str(exported), img_size=64).logits([str(photo) for photo in photos])
    found = Classifier(str(path)).logits([str(photo) for photo in photos])
    assert np.allclose(found, want, atol=1e-5)
    Classifier(str(path), img_size=64)
    with pytest.raises(UsageError, match="64 x 64 pixels only: leave out --img-size"):
        Classifier(str(path), img_size=48)
    engine = Classifier(str(path)).engine
    with pytest.raises(EngineError, match="takes photos of 64 x 64 pixels only"):
        engine.logits(np.zeros((1, 3, 48, 48), np.float32))


def test_what_an_exported_network_is_not_fit_for(
    exported: Path, cli: Cli, photo: Path, tmp_path: Path
) -> None:
    refused = cli("benchmark", "--model", exported)
    assert refused.code == 2
    assert "stages cannot be timed. Give the checkpoint" in refused.err
    refused = cli("explain", photo, "--model", exported, "-o", tmp_path / "e.png")
    assert refused.code == 2
    assert "Torch cannot run it: leave out --engine torch, if it was given" in refused.err


@pytest.mark.parametrize("sides", [(48, 64), (64, "width")])
def test_photos_that_are_not_square(
    exported: Path, tmp_path: Path, sides: tuple[int | str, ...]
) -> None:
    path = fixed(exported, tmp_path / "fixed.onnx", "batch", 3, *sides)
    with pytest.raises(CheckpointError, match="must be square"):
        Classifier(str(path))


def loop(model: ModelProto) -> None:
    """Counts to 2^62."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(helper.make_tensor("many", TensorProto.INT64, [], [2**62]))
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    model.graph.node.insert(0, helper.make_node("Loop", ["many", "yes"], [], body=body))


def constant(model: ModelProto) -> None:
    """Makes gigabytes of a few bytes."""
    model.graph.initializer.append(helper.make_tensor("sides", TensorProto.INT64, [1], [2**34]))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["sides"], ["zeros"]))


def claimed(model: ModelProto) -> None:
    model.graph.initializer.append(
        TensorProto(name="claimed", data_type=TensorProto.FLOAT, dims=[2**40])
    )


def doubled(model: ModelProto) -> None:
    """Operators of ours only, whose values grow to 2^40 photos."""
    before = "photos"
    for number in range(40):
        node = helper.make_node("Concat", [before, before], [f"d{number}"], axis=0)
        model.graph.node.insert(number, node)
        before = f"d{number}"


def padded(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    next(a for a in node.attribute if a.name == "pads").ints[:] = [2**30] * 4


def wide(model: ModelProto) -> None:
    """A pad that is no large number, of many maps."""
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    next(a for a in node.attribute if a.name == "pads").ints[:] = [30_000] * 4


def custom(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node[0].domain = "com.example"


def function(model: ModelProto) -> None:
    model.functions.append(
        helper.make_function("", "Relu6", ["x"], ["y"], [], [helper.make_opsetid("", 17)])
    )


def external(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


HOSTILE: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "a loop": (loop, "the operator 'Loop'"),
    "a constant": (constant, "the operator 'ConstantOfShape'"),
    "a tensor without numbers": (claimed, "'claimed' has not the numbers"),
    "doubling": (doubled, "huge or of unknown size"),
    "a huge pad": (padded, "attribute that is large"),
    "a wide pad": (wide, "huge or of unknown size|not sound"),
    "operators of others": (custom, "operators of 'com.example'"),
    "functions": (function, "functions"),
    "another file": (external, "stands in another file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("stored", [True, False])
def test_what_ours_never_have_is_not_run(
    exported: Path, tmp_path: Path, homes: Path, kind: str, stored: bool
) -> None:
    change, message = HOSTILE[kind]
    model = onnx.load(exported)
    change(model)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    if not stored:  # from memory, the check is the same
        (homes / "resnest_home").mkdir()
        (homes / "resnest_home" / "compiled").touch()
    with pytest.raises(CheckpointError, match=message) as caught:
        Classifier(str(path))
    assert str(path) in str(caught.value)
    assert "--trust-onnx" in str(caught.value)


def harmless(path: Path, target: Path) -> Path:
    """An operator more, which ours do not have."""
    model = onnx.load(path)
    model.graph.node[0].input[0] = "same"
    model.graph.node.insert(0, helper.make_node("Identity", ["photos"], ["same"]))
    onnx.save(model, target)
    return target


def test_a_trusted_file_runs_and_nobody_else_profits(
    cli: Cli, exported: Path, tmp_path: Path, photo: Path
) -> None:
    path = harmless(exported, tmp_path / "theirs.onnx")
    run = ("predict", photo, "--model", path, "--format", "csv")
    want = cli("predict", photo, "--model", exported, "--format", "csv").out
    assert cli(*run).code == 1
    trusted = cli(*run, "--trust-onnx")
    assert trusted.code == 0
    assert trusted.out.replace("theirs", "tiny").split(",")[6:8] == want.split(",")[6:8]
    assert cli(*run).code == 1  # what was compiled for one who trusts serves no other
    make_photo(tmp_path / "data.png").rename(_folder(tmp_path / "data" / "cat") / "1.png")
    for command in (("features", photo, "-o", tmp_path / "f.npy"), ("evaluate", tmp_path / "data")):
        assert "--trust-onnx" in cli(*command, "--model", path).err


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_data_files_count_as_content(exported: Path, tmp_path: Path, cli: Cli, photo: Path) -> None:
    path, target = tmp_path / "out.onnx", tmp_path / "f.npy"
    onnx.save(
        onnx.load(exported), path, save_as_external_data=True, location="out.data", size_threshold=9
    )
    model = find_model(str(path), trust_onnx=True)
    before = model.sha256()
    first = Classifier(str(path), trust_onnx=True).logits(PHOTOS)
    assert np.allclose(first, Classifier(str(exported)).logits(PHOTOS), atol=1e-6)
    kept = ("features", photo, "-o", target, "--model", path, "--trust-onnx")
    assert cli(*kept).code == 0
    data = np.fromfile(tmp_path / "out.data", np.float32)
    (data * np.float32(1.01)).tofile(tmp_path / "out.data")
    assert model.sha256() != before
    again = Classifier(str(path), trust_onnx=True).logits(PHOTOS)
    assert np.abs(again - first).max() > 1e-3
    assert len(list(onnx_cache.folder().glob("*.ort"))) >= 3
    done = cli(*kept, "--resume")
    assert done.code != 0
    assert "weights" in done.err
    (tmp_path / "out.data").unlink()
    with pytest.raises(CheckpointError, match=r"'out\.data', which is not in its folder"):
        find_model(str(path), trust_onnx=True)


def test_a_data_file_elsewhere_is_refused(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    external(model)
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="which is not in its folder"):
        find_model(str(path), trust_onnx=True)


def test_every_graph_of_ours_is_run() -> None:
    """Whoever gives the graph another operator adds it to the list."""
    import re

    from resnest_cli.inference import onnx_graph

    source = Path(onnx_graph.__file__).read_text("utf-8")
    written = set(re.findall(r'(?:b\.op|self\.op|make_node)\(\s*"(\w+)"', source))
    assert len(written) > 10
    assert written <= OPERATORS
