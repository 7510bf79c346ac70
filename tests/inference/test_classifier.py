"""The library: `from resnest_cli import Classifier`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.errors import ImageError, UnknownModelError, UsageError
from resnest_cli.images.preprocess import preprocess
from resnest_cli.images.sources import Source
from resnest_cli.model import checkpoint
from tests.conftest import CLASSES, make_photo

GOLDEN = Path(__file__).parents[1] / "model" / "data" / "golden-v2.safetensors"


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> Classifier:
    return Classifier(str(tiny_checkpoint))


def test_one_photo_of_any_kind(classifier: Classifier, photo: Path) -> None:
    record = classifier.predict(str(photo), topk=2)
    assert record.status == "ok"
    assert len(record.predictions) == 2
    assert record.predictions[0].label in CLASSES
    image = Image.open(photo)
    for other in (photo, photo.read_bytes(), image, np.asarray(image)):
        assert classifier.predict(other, topk=2).predictions == record.predictions
    grey = image.convert("L")
    assert (
        classifier.predict(np.asarray(grey)).predictions
        == classifier.predict(grey.convert("RGB")).predictions
    )


def test_logits_are_the_networks(
    classifier: Classifier, photo: Path, tiny_checkpoint: Path
) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    array = preprocess(Image.open(photo).convert("RGB"), loaded.info.preprocessing)
    with torch.no_grad():
        expected = checkpoint.instantiate(loaded)(torch.from_numpy(array)[None]).numpy()
    logits = classifier.logits(photo)
    assert logits.shape == (1, 5)
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()
    many = classifier.logits([photo] * 11)
    assert many.shape == (11, 5)
    assert np.abs(many - expected).max() < 1e-4 * np.abs(expected).max()
    assert classifier.logits([]).shape == (0, 5)


def test_lists_give_lists_and_iterators_iterators(classifier: Classifier, tmp_path: Path) -> None:
    photos = [make_photo(tmp_path / f"{i}.png", seed=i) for i in range(10)]
    listed = classifier.predict([*photos[:3], tmp_path / "gone.png", *photos[3:]])
    assert [r.status for r in listed] == ["ok"] * 3 + ["error"] + ["ok"] * 7
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield photos[taken % 10]

    answers = classifier.predict(endless())
    first = [next(answers) for _ in range(3)]
    assert [r.input for r in first] == [str(photos[i]) for i in (1, 2, 3)]
    assert taken < 40  # it reads ahead, but not for ever
    answers.close()


def test_a_single_bad_photo_raises(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone.png: does not exist"):
        classifier.predict(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="not uint8"):
        classifier.predict(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ImageError, match=r"gone.png: does not exist"):
        classifier.logits([tmp_path / "gone.png"])
    for no_photo in ([3], 3, None):
        with pytest.raises(TypeError, match="a photo is a path"):
            classifier.predict(no_photo)
    for bad in ({"topk": 0}, {"threshold": 2}):
        with pytest.raises(ValueError, match="topk"):
            classifier.predict(tmp_path / "gone.png", **bad)


def test_images_are_left_as_they_are_and_turned_upright(
    classifier: Classifier, tmp_path: Path
) -> None:
    upright = Image.open(make_photo(tmp_path / "a.png", (80, 60)))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    assert classifier.predict(turned).predictions == classifier.predict(upright).predictions
    assert turned.size == (60, 80)
    palette = upright.convert("P")
    before = palette.tobytes()
    classifier.predict(palette)
    assert palette.tobytes() == before


def test_a_model_that_gives_several_labels(photo: Path) -> None:
    """The golden one of format 2; its thresholds select nothing here, so that others follow."""
    several = Classifier(GOLDEN)
    assert several.model.thresholds == (0.25, 0.5, 1.0)
    assert several.predict(photo).labels == ()
    limits = (0.1, 0.5, 0.2)
    several.model = replace(several.model, thresholds=limits)
    (logits,) = several.logits(photo).astype(np.float64)
    record = several.predict(photo, topk=1)
    expected = {
        name: 1 / (1 + np.exp(-logit))
        for name, logit in zip(several.class_names, logits, strict=True)
    }
    chosen = {
        name
        for (name, share), limit in zip(expected.items(), limits, strict=True)
        if share >= limit
    }
    assert set(record.labels) == chosen == {"crane", "\u732b"}
    assert len(record.predictions) == 3
    assert {one.label: one.probability for one in several.predict(photo).predictions} == (
        pytest.approx(expected, rel=1e-6)
    )
    assert several.predict(photo, threshold=1.0).labels == ()
    (shares,) = several.features(photo, head="probabilities")
    assert shares == pytest.approx(list(expected.values()), rel=1e-5)
    first, missing = several.predict([photo, "missing.png"])
    assert first.labels == record.labels
    assert (missing.status, missing.labels) == ("error", ())


def test_settings(tiny_checkpoint: Path, photo: Path) -> None:
    wide = Classifier(str(tiny_checkpoint), img_size=96, crop_pct=1.0, device="cpu")
    assert wide.prepare(Source(str(photo), path=str(photo)))[0].shape == (3, 96, 96)
    with pytest.raises(UsageError, match="crop_pct"):
        Classifier(str(tiny_checkpoint), crop_pct=7)
    with pytest.raises(UsageError, match="unknown device"):
        Classifier(str(tiny_checkpoint), device="tpu")
    with pytest.raises(UnknownModelError, match="Did you mean"):
        Classifier("resnest50x")


def test_the_package_is_light_until_it_is_used() -> None:
    import subprocess
    import sys

    code = (
        "import sys, resnest_cli; assert 'Classifier' in dir(resnest_cli)\n"
        "assert not {'torch', 'numpy', 'PIL', 'typer'} & set(sys.modules)\n"
        "from resnest_cli import Classifier\n"
        "assert Classifier.__name__ == 'Classifier' and 'typer' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
