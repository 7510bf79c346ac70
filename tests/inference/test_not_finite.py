"""Numbers that are not finite are errors of their record: never an answer, never a row."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resnest_cli.errors import ImageError
from resnest_cli.images.sources import Source
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.extraction import BEYOND_FLOAT16, Extraction
from resnest_cli.inference.ranking import NOT_FINITE
from resnest_cli.model import checkpoint
from tests.conftest import CLASSES, Cli, make_photo

ENGINES = ("onnx", "torch")


@pytest.fixture(scope="module")
def huge(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with weights that are finite, and too large for what they are added to."""
    found = checkpoint.load(tiny_checkpoint)
    tensors = {
        name: tensor * 1e37 if name.endswith("bn3.weight") else tensor
        for name, tensor in found.tensors.items()
    }
    path = tmp_path_factory.mktemp("huge") / "huge.safetensors"
    checkpoint.save(path, tensors, replace(found.info, class_names=CLASSES))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        make_photo(tmp_path / "data" / label / "1.png")
    return tmp_path / "data"


@pytest.mark.parametrize("engine", ENGINES)
def test_commands(cli: Cli, huge: Path, data: Path, tmp_path: Path, engine: str) -> None:
    model = ("--model", huge, "--engine", engine, "--device", "cpu")
    done = cli("predict", data, *model, "--format", "jsonl")
    assert done.code == 3
    for line in done.out.splitlines():
        record = json.loads(line, parse_constant=pytest.fail)
        assert (record["status"], record["error"]) == ("error", NOT_FINITE)
        assert not record["predictions"]
    for options in ((), ("--head", "probabilities"), ("--stage", "4", "--normalize", "l2")):
        done = cli("features", data, "-o", tmp_path / "f.npy", *model, *options, "--overwrite")
        assert done.code == 3
        assert "2 no finite numbers" in done.err
        assert len(np.load(tmp_path / "f.npy")) == 0
        with (tmp_path / "f.csv").open() as file:
            assert [(line["row"], line["error"]) for line in csv.DictReader(file)] == [
                ("", NOT_FINITE)
            ] * 2
    done = cli("evaluate", data, *model)
    assert done.code == 1
    assert NOT_FINITE in done.err


def test_explain(cli: Cli, huge: Path, data: Path) -> None:
    done = cli("explain", data, "--model", huge, "--format", "json")
    assert done.code == 3
    assert {record["error"] for record in json.loads(done.out)} == {NOT_FINITE}


@pytest.mark.parametrize("engine", ENGINES)
def test_library(huge: Path, data: Path, engine: str) -> None:
    classifier = Classifier(str(huge), engine=engine, device="cpu", tta=True)  # type: ignore[arg-type]
    photo = str(data / "cat" / "1.png")
    for ask in (classifier.predict, classifier.logits, classifier.features):
        with pytest.raises(ImageError, match="no finite numbers"):
            ask(photo)
    assert isinstance(next(classifier.features(iter([photo]))), ImageError)


def test_the_others_are_not_affected(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier(str(tiny_checkpoint), device="cpu")
    real = classifier.engine.output

    def output(batch: np.ndarray, name: str) -> np.ndarray:
        out = real(batch, name)  # type: ignore[arg-type]
        out[1] = np.nan
        out[2, 0] = 1e30
        return out

    monkeypatch.setattr(classifier.engine, "output", output)

    def sources() -> Iterator[Source]:
        for shade in range(5):
            photo = np.full((60, 60, 3), 40 * shade, np.uint8)
            yield (
                Source(str(shade), image=_image(photo)) if shade != 3 else Source("3", error="bad")
            )

    want = [None, NOT_FINITE, None, "bad", None]
    records = list(classifier.records(sources()))
    assert [record.error for record in records] == want
    assert [bool(record.predictions) for record in records] == [not error for error in want]
    for dtype, wanted in (("float32", want), ("float16", [*want[:2], BEYOND_FLOAT16, *want[3:]])):
        ((group, rows),) = classifier.feature_groups(sources(), Extraction(dtype=dtype))  # type: ignore[arg-type]
        assert [item.error for item in group] == wanted
        kind = "beyond float16" if dtype == "float16" else "no finite numbers"
        assert group[2].kind == (kind if wanted[2] else None)
        assert group[1].kind == "no finite numbers"
        assert len(rows) == wanted.count(None)
        assert np.isfinite(rows).all()


def _image(array: np.ndarray):
    from PIL import Image

    return Image.fromarray(array)
