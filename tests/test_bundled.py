"""The weights that come with the program, through the whole pipeline, without any network."""

import json
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.errors import WeightsError
from resnest_cli.model import weights
from resnest_cli.model.checkpoint_header import read_info
from resnest_cli.model.variants import get_variant
from resnest_cli.net import Access
from tests.conftest import Cli

DATA = Path(__file__).parent / "data"
DEMO = get_variant("demo")
KNOWN = {"cat.jpg": "cat", "coffee.jpg": "espresso"}  # what the best class says
OFFLINE = Access(offline=True)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier("demo", access=OFFLINE)


def ranked(classifier: Classifier, photo: Image.Image, count: int = 5) -> list[str]:
    return [found.label for found in classifier.predict(photo, topk=count).predictions]


def test_the_file_is_small_and_says_what_it_is() -> None:
    path = weights.ensure(DEMO, OFFLINE)
    assert path.stat().st_size <= 10_000_000
    assert weights.verify(DEMO).status == "ok"
    info = read_info(path)
    assert info.variant is not None
    assert info.variant.architecture == DEMO.architecture
    assert info.preprocessing == DEMO.preprocessing
    assert info.parameters == DEMO.parameters
    assert (info.num_classes, info.class_names) == (1000, None)  # ImageNet's, as published
    assert info.metrics["photos"] == 1_000
    assert round(100 * info.metrics["top1"], 2) == DEMO.top1
    assert round(100 * info.metrics["top5"], 2) == DEMO.top5
    assert abs(info.metrics["float32_top1"] - info.metrics["top1"]) <= 0.003
    assert DEMO.top1 is not None
    assert DEMO.top1 >= 22


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_photo_is_known(classifier: Classifier, name: str) -> None:
    with Image.open(DATA / name) as photo:
        labels = ranked(classifier, photo)
    assert any(KNOWN[name] in label for label in labels), labels


@pytest.mark.parametrize("name", KNOWN)
def test_engines_agree(classifier: Classifier, name: str) -> None:
    other = Classifier("demo", engine="torch", device="cpu", access=OFFLINE)
    assert (classifier.engine.name, other.engine.name) == ("onnx", "torch")
    with Image.open(DATA / name) as photo:
        one, two = (c.predict(photo.copy(), topk=5).predictions for c in (classifier, other))
    assert [p.index for p in one] == [p.index for p in two]
    np.testing.assert_allclose(
        [p.probability for p in one], [p.probability for p in two], atol=1e-5
    )


# EXIF orientation -> what a camera held that way recorded, from the upright photo.
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED)
def test_turned_copies_give_the_same_answer(classifier: Classifier, orientation: int) -> None:
    with Image.open(DATA / "cat.jpg") as photo:
        photo.load()
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = BytesIO()
        photo.transpose(TURNED[orientation]).save(file, "PNG", exif=exif)
        upright = classifier.predict(photo, topk=5).predictions
    assert classifier.predict(file.getvalue(), topk=5).predictions == upright


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("share", [0.85, 0.95])
def test_crops_keep_the_answer(classifier: Classifier, name: str, share: float) -> None:
    with Image.open(DATA / name) as photo:
        width, height = photo.size
        x, y = width * (1 - share) / 2, height * (1 - share) / 2
        crop = photo.crop((round(x), round(y), round(width - x), round(height - y)))
        whole = ranked(classifier, photo, 3)
    assert ranked(classifier, crop, 1)[0] in whole
    assert any(KNOWN[name] in label for label in ranked(classifier, crop))


def test_predict_needs_no_network_and_says_once_what_it_is(cli: Cli) -> None:
    photos = [DATA / name for name in KNOWN]
    result = cli("predict", *photos, "-m", "demo", "--offline", "--format", "jsonl")
    assert result.code == 0
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [record["model"] for record in records] == ["resnest23t"] * 2
    assert result.err.count("the small bundled model") == 1
    assert f"{DEMO.top1:.1f}%" in result.err
    quiet = cli("predict", *photos, "-m", "resnest23t", "--format", "jsonl", "--quiet")
    assert (quiet.out, quiet.err) == (result.out, "")


def test_it_never_takes_the_place_of_another(cli: Cli) -> None:
    result = cli("predict", DATA / "cat.jpg", "--offline")
    assert result.code == 1
    assert result.out == ""
    assert "--model demo" in result.err


def test_it_is_listed_as_there_and_not_removed(cli: Cli) -> None:
    listed = json.loads(cli("models", "--format", "json").out)
    found = {record["id"]: record for record in listed}["resnest23t"]
    assert found["bundled"]
    assert found["cached"]
    assert found["classes"] == 1000
    assert DEMO.dataset in cli("models").out
    cli("models", "clean")
    assert Path(found["path"]).exists()
    assert cli("models", "verify", "demo").code == 0


def test_a_damaged_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DEMO.weights is not None
    damaged = tmp_path / DEMO.weights.name
    shutil.copy(weights.ensure(DEMO, OFFLINE), damaged)
    with damaged.open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\0" * 50)
    monkeypatch.setattr(weights, "_BUNDLED", tmp_path)
    for variant in (DEMO, replace(DEMO, weights=replace(DEMO.weights, name="gone-00000000.st"))):
        with pytest.raises(WeightsError, match="Install resnest-cli again"):
            weights.ensure(variant, OFFLINE)
