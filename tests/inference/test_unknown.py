"""How far photos are from the training photos: distances, thresholds, text, and the engines."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from resnest_cli import Classifier
from resnest_cli.errors import CheckpointError, UsageError
from resnest_cli.inference.engine import create_engine
from resnest_cli.inference.unknown import KEPT, RANK, Unknown, fitted
from resnest_cli.model.checkpoint_header import read_info, set_metadata
from resnest_cli.model.loading import find_model
from resnest_cli.net import Access
from resnest_cli.options import share_of

Float32 = NDArray[np.float32]
WIDTH, CLASSES = 40, 3


def photos(count: int, seed: int, *, strange: bool = False) -> tuple[Float32, Float32]:
    """Features near three directions and the logits that fit; or of other directions."""
    random = np.random.default_rng(seed)
    features = np.abs(random.normal(0, 0.05, (count, WIDTH))) + 0.01
    labels = random.integers(0, CLASSES, count)
    features[np.arange(count), labels + (20 if strange else 0)] += 1
    logits = 8 * features[:, :CLASSES] + random.normal(0, 0.1, (count, CLASSES))
    return features.astype(np.float32), logits.astype(np.float32)


def distances(count: int) -> Unknown:
    """With the distances 1, 2, ... of so many validation photos."""
    numbers = np.arange(1, count + 1, dtype=np.float32)
    return Unknown(np.ones((1, WIDTH), np.float16), 1.0, numbers, 10, count)


def test_other_photos_are_farther() -> None:
    kept = fitted(photos(300, 0), photos(200, 1))
    known, other = kept.distance(*photos(500, 2)), kept.distance(*photos(500, 3, strange=True))
    assert known.max() < other.min()
    for share in (0.05, 0.1):
        alarms = (known > kept.threshold(share)).mean()
        assert alarms == pytest.approx(share, abs=0.04)
    assert kept.directions.shape == (RANK, WIDTH)
    assert (kept.photos, kept.validated) == (300, 200)
    # Neither part alone: equal features with less evidence are farther, and the other way round.
    features, logits = photos(1, 4)
    assert kept.distance(features, logits / 2) > kept.distance(features, logits)
    assert kept.distance(photos(1, 4, strange=True)[0], logits) > kept.distance(features, logits)
    # The length of the features says nothing.
    assert kept.distance(3 * features, logits) == pytest.approx(kept.distance(features, logits))


def test_thresholds_are_conformal() -> None:
    assert distances(99).threshold(0.01) == 99
    assert distances(99).threshold(0.05) == 95
    assert distances(100).threshold(0.05) == 96  # ceil(101 * 0.95)
    with pytest.raises(UsageError, match=r"98 validation photo.*least is 1.1%.*at least 99"):
        distances(98).threshold(0.01)
    with pytest.raises(UsageError, match="none can here"):
        distances(0).threshold(0.1)
    with pytest.raises(UsageError, match="No more than 1,000 distances"):
        distances(1000).threshold(0.0001)


def test_of_many_validation_photos_quantiles_are_kept() -> None:
    few, many = photos(300, 0), photos(3 * KEPT, 1)
    kept = fitted(few, many)
    assert (len(kept.distances), kept.validated) == (KEPT, 3 * KEPT)
    every = np.sort(kept.distance(*many))
    for share in (0.01, 0.05, 0.1, 0.5):
        exact = every[math.ceil((len(every) + 1) * (1 - share)) - 1]
        places = np.searchsorted(every, [kept.threshold(share) - 1e-6, exact])
        assert abs(int(places[0]) - int(places[1])) <= 6, share


def test_text_gives_the_same_back() -> None:
    kept = fitted(photos(50, 0), photos(30, 1))
    again = Unknown.from_text(kept.text, WIDTH)
    assert again.text == kept.text
    np.testing.assert_array_equal(
        again.distance(*photos(9, 2)), kept.distance(*photos(9, 2))
    )  # bit for bit
    assert len(kept.text) < 2 * (2 * RANK * WIDTH + 4 * 30)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"method": "other"}, "unknown method 'other'"),
        ({"rank": 3}, "directions are not 3 of 40"),
        ({"scale": float("inf")}, "not finite"),
        ({"distances": "AACAPwAAAAA="}, "not sorted"),
        ({"directions": "%"}, "."),
        ({"photos": None}, "."),
    ],
)
def test_damage(wrong: dict[str, object], says: str, tiny_checkpoint: Path) -> None:
    record = json.loads(fitted(photos(50, 0), photos(30, 1)).text) | wrong
    with pytest.raises((ValueError, TypeError), match=says):
        Unknown.from_text(json.dumps(record), WIDTH)
    model = replace(find_model(str(tiny_checkpoint)), unknown=json.dumps(record))
    with pytest.raises(CheckpointError, match=f"{tiny_checkpoint.name}.*is damaged"):
        Unknown.of(model)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), (" 2.5% ", 0.025)])
def test_shares(text: str, share: float) -> None:
    assert share_of(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["5", "0", "60", "-1%", "60%", "nan", "five", "5%%", ""])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as 5% or 0\.05") as error:
        share_of(text)
    assert ("write 5%" in str(error.value)) == ("percent" in str(error.value)) == (text == "5")


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_features_and_logits_in_one_pass(tiny_checkpoint: Path, engine: str) -> None:
    model = find_model(str(tiny_checkpoint))
    ready = create_engine(model, "cpu", engine, output="features+logits")  # type: ignore[arg-type]
    size = model.preprocessing.size
    batch = np.random.default_rng(0).standard_normal((3, 3, size, size)).astype(np.float32)
    both = ready.output(batch, "features+logits")
    apart = [ready.output(batch, "features"), ready.output(batch, "logits")]
    np.testing.assert_array_equal(both, np.concatenate(apart, axis=1))
    other = batch[..., : size - 8, : size - 8]  # another size than it was compiled for
    assert ready.output(other, "features+logits").shape == both.shape


def test_a_checkpoint_without_it(tiny_checkpoint: Path, photo: Path) -> None:
    assert read_info(tiny_checkpoint).unknown is None
    with pytest.raises(CheckpointError, match=r"does not keep how far.*resnest finetune"):
        Classifier(tiny_checkpoint).predict(photo, unknown=0.05)


def test_other_preprocessing_is_notified(tiny_checkpoint: Path, photo: Path) -> None:
    said: list[str] = []
    classifier = Classifier(tiny_checkpoint, img_size=64, access=Access(notify=said.append))
    width, classes = classifier.model.variant.num_features, classifier.model.num_classes
    random = np.random.default_rng(0)
    both = random.random((30, width), np.float32), random.random((30, classes), np.float32)
    classifier.model = replace(classifier.model, unknown=fitted(both, both).text)
    classifier.predict(photo)
    assert not said
    classifier.predict(photo, unknown=0.1)
    assert ["are prepared otherwise" in text for text in said] == [True]


def test_only_who_asks_reads_it(tiny_checkpoint: Path, tmp_path: Path, photo: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(tiny_checkpoint.read_bytes())
    before = Classifier(own).predict(photo)
    set_metadata(own, unknown="{no JSON")
    after = Classifier(own).predict(photo)
    assert after.predictions == before.predictions
    assert (after.unknown, after.distance) == (None, None)
    with pytest.raises(CheckpointError, match="is damaged"):
        Classifier(own).predict(photo, unknown=0.05)
