"""8 bits: what comes out is calibrated on the photos, and what is said of it is measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.metrics import average_precision_score

from resnest_cli import Classifier
from resnest_cli.export import ExportJob
from resnest_cli.export.export import Exported, export
from resnest_cli.export.int8 import planned, speeds
from resnest_cli.export.parity import Agreement, compared
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.loading import Model, find_model
from resnest_cli.model.variants import Preprocessing, get_variant
from tests.conftest import CLASSES, make_photo
from tests.networks import lively


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "data"
    for place, name in enumerate(CLASSES[:3]):
        (folder / name).mkdir(parents=True)
        for index in range(8):
            make_photo(folder / name / f"{index}.png", seed=100 * place + index)
    return folder


@pytest.fixture(scope="module")
def model(data: Path) -> Model:
    """The smallest variant, which knows no class of the photos."""
    path = data.parent / "large.safetensors"
    variant = replace(get_variant("resnest14t"), preprocessing=Preprocessing(48))
    info = CheckpointInfo(variant=variant, class_names=("a", "b", "c"), temperature=1.5)
    checkpoint.save(path, lively(variant, num_classes=3), info)
    return find_model(str(path))


@pytest.fixture(scope="module")
def made(model: Model, data: Path) -> tuple[Exported, Path]:
    """The model in 8 bits."""
    path = data.parent / "small.onnx"
    found = export(model, ExportJob(path, calibrate=str(data), check=str(data)))
    found.write(path)
    return found, path


def test_integers_are_inside_and_the_file_is_small(made: tuple[Exported, Path]) -> None:
    found, path = made
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    kinds = {node.op_type for node in proto.graph.node}
    assert kinds >= {"QuantizeLinear", "DequantizeLinear", "Conv"}
    by_type = {tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) == 4}
    assert by_type == {onnx.TensorProto.INT8}
    told = found.summary["int8"]
    assert path.stat().st_size == told["bytes_after"] == found.summary["bytes"]
    assert told["bytes_after"] < 0.35 * told["bytes_before"]
    small = find_model(str(path))
    assert small.exported == "int8"
    assert (small.class_names, small.temperature) == (("a", "b", "c"), 1.5)


def test_what_is_said_of_the_answers_is_what_predict_says(
    model: Model, made: tuple[Exported, Path], data: Path
) -> None:
    found, path = made
    told = found.summary["int8"]
    plan = planned(str(data), model, 200)
    assert (told["calibrated_on"], told["photos"]) == (12, 12)
    before, after = Classifier(str(model.path)), Classifier(str(path))
    pairs = list(zip(before.predict(plan.held_out), after.predict(plan.held_out), strict=True))
    same = [a.predictions[0].index == b.predictions[0].index for a, b in pairs]
    assert told["agreement"] == sum(same) / len(same)
    first, second = (c.features(plan.held_out, head="probabilities") for c in (before, after))
    assert told["difference"] == pytest.approx(float(np.abs(first - second).max()), abs=1e-4)
    assert 0 < told["difference"] < 0.5
    assert told["top1_before"] is None
    (checked,) = found.summary["parity"]  # noise says nothing of 8 bits
    assert checked["photos"] == 24


def test_calibration_acts(data: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Ranges come from the photos: others give another network."""
    model = find_model(str(tiny_checkpoint))
    dark = tmp_path / "dark"
    dark.mkdir()
    for index in range(4):
        make_photo(dark / f"{index}.png", seed=index)
    one, two = (
        export(model, ExportJob(tmp_path / "x.onnx", calibrate=str(folder))).data
        for folder in (data, dark)
    )
    fewer = ExportJob(tmp_path / "x.onnx", calibrate=str(data), calibrate_photos=3)
    assert one != two
    assert export(model, fewer).summary["int8"]["calibrated_on"] == 3


BATCHES = [(["0", "1", "2", "3"], np.arange(4, dtype=np.float32)[:, None]),
           (["4", "5"], np.arange(4, 6, dtype=np.float32)[:, None])]  # fmt: skip


def perfect(batch: np.ndarray) -> np.ndarray:
    """The logits of the class that a photo has, its number modulo 2."""
    return np.stack([1 - batch[:, 0] % 2, batch[:, 0] % 2], axis=1).astype(np.float32)


def always_first(batch: np.ndarray) -> np.ndarray:
    return np.tile(np.array([1, 0], np.float32), (len(batch), 1))


def test_true_top1_before_and_after(model: Model) -> None:
    model = replace(model, temperature=1.0)
    right = {f"{index}": (index % 2,) for index in range(6)}
    found = compared(BATCHES, perfect, always_first, model, right)
    assert found == Agreement(6, pytest.approx(0.4621, abs=1e-4), 0.5, (1.0, 0.5))
    assert compared(BATCHES, perfect, perfect, model) == Agreement(6, 0.0, 1.0, None)


def test_map_before_and_after_and_the_same_labels(model: Model) -> None:
    """Two labels, each a question of its own: probabilities are 0.5 and 0.73."""
    model = replace(model, temperature=1.0, thresholds=(0.6, 0.2))
    right = {f"{index}": ((), (1,), (0,), (0, 1), (0,), (1,))[index] for index in range(6)}
    found = compared(BATCHES, perfect, always_first, model, right)
    truth = np.array([[label in right[path] for label in (0, 1)] for path in right])
    scores = [
        np.concatenate([run(batch) for _, batch in BATCHES]) for run in (perfect, always_first)
    ]
    expected = [average_precision_score(truth, one, average="macro") for one in scores]
    assert found.score == pytest.approx(expected, abs=1e-9)
    assert found.agreement == 0.5  # the second label always is, the first of even photos
    assert found.difference == pytest.approx(0.2311, abs=1e-4)


def test_speeds_are_those_of_the_runs() -> None:
    import time

    shapes = []

    def slow(batch: np.ndarray) -> np.ndarray:
        shapes.append(batch.shape)
        time.sleep(0.004 * len(batch))
        return batch

    told = speeds({"slow": slow, "quick": lambda batch: batch}, np.zeros((3, 3, 4, 4), "f"))
    assert set(shapes) == {(1, 3, 4, 4), (8, 3, 4, 4)}
    assert told["slow"]["ms"] >= 4
    assert told["slow"]["photos_per_second"] <= 250
    assert told["quick"]["ms"] < 1
