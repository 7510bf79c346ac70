"""`--in-chans 1`: networks that see photos in grey, from training to prediction."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli.images.preprocess import preprocess
from resnest_cli.inference.classifier import Classifier
from resnest_cli.model import checkpoint
from resnest_cli.model.variants import Preprocessing
from resnest_cli.training.augment import Augment
from resnest_cli.training.settings import Config
from tests.conftest import Cli, make_photo

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of five photos in colour."""
    for label in ("one", "two"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(5):
            seed = number + 10 * (label == "two")
            make_photo(tmp_path / "data" / label / f"{number}.png", (60, 50), seed)
    return tmp_path / "data"


def trained(cli: Cli, tmp_path: Path, *words: object) -> Path:
    done = cli(*words, "--epochs", "1", "-b", "4", "-j", "0", "-o", tmp_path / "runs", "--run", "a")
    assert done.code == 0, done.err
    return tmp_path / "runs" / str(words[0]) / "a" / "weights" / "best.safetensors"


@pytest.mark.parametrize("freeze", ["backbone", "none"])
def test_a_network_is_taught_to_see_grey(
    cli: Cli, tiny_checkpoint: Path, data: Path, tmp_path: Path, freeze: str
) -> None:
    words = ("finetune", data, "-m", tiny_checkpoint, "--in-chans", "1", "--freeze", freeze)
    best = trained(cli, tmp_path, *words)
    found = checkpoint.load(best)
    assert found.info.in_channels == 1
    stem = found.tensors["conv1.0.weight"]
    assert stem.shape[1] == 1
    if freeze == "backbone":  # the kernels of three channels that are the same, added up
        old = checkpoint.load(tiny_checkpoint).tensors["conv1.0.weight"]
        torch.testing.assert_close(stem, old.sum(dim=1, keepdim=True))
    photo = data / "one" / "0.png"
    grey = tmp_path / "grey.png"
    Image.open(photo).convert("L").save(grey)
    for engine in ("torch", "onnx"):
        colour, same = Classifier(best, engine=engine).predict([photo, grey])
        assert colour.predictions == same.predictions  # what is seen has no colour
    exported = tmp_path / "grey.onnx"
    assert cli("export", "-m", best, "-o", exported, "--check", data).code == 0
    hub = tmp_path / "hub"
    assert cli("export", "-m", best, "--hub", hub).code == 0
    small = cli("export", "-m", best, "-o", tmp_path / "small.onnx", "--int8", "--calibrate", data)
    assert small.code == 0, small.err
    for model in (exported, hub):
        answers = Classifier(model).predict(grey).predictions
        for one, other in zip(same.predictions, answers, strict=True):
            assert one.label == other.label
            assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_features_that_are_computed_once_are_the_network_s(
    cli: Cli, tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    words = ("finetune", data, "-m", tiny_checkpoint, "--in-chans", "1", "--freeze", "backbone")
    best = trained(cli, tmp_path, *words, "--hflip", "0")
    (chunk, *_) = sorted((best.parents[1] / "resume").rglob("features/*/00000000.npy"))
    kept = np.load(chunk)[:, 0]
    photos = sorted(data.rglob("*.png"))
    every = Classifier(best, engine="torch").features(photos)
    distances = np.abs(kept[:, None] - every[None]).max(axis=2).min(axis=1)
    assert distances.max() < 1e-3 * np.abs(kept).max()


def test_what_training_sees_is_grey(tmp_path: Path) -> None:
    how = Preprocessing(32, 1.0, "bicubic")
    config = Config(
        command="train", data="d", model="m", recipe="quick", in_chans=1, img_size=32, scale=1.0,
        ratio=1.0, hflip=0.0,
    )  # fmt: skip
    photo = Image.open(make_photo(tmp_path / "a.png", (32, 32))).convert("RGB")
    seen = Augment(config, how)(photo, 1)
    assert seen.shape == (1, 32, 32)
    assert np.array_equal(seen.numpy(), preprocess(photo, how, grey=True))
    assert Augment(replace(config, in_chans=3), how)(photo, 1).shape == (3, 32, 32)


def test_grey_checkpoints_stay_grey(cli: Cli, data: Path, tmp_path: Path) -> None:
    words = ("train", data, "-m", "resnest14t", "--img-size", "32", "--in-chans", "1")
    first = trained(cli, tmp_path, *words)
    second = trained(cli, tmp_path / "more", "finetune", data, "-m", first, "--freeze", "none")
    assert checkpoint.load(second).info.in_channels == 1
    refused = cli("finetune", data, "-m", first, "--in-chans", "3")
    assert (refused.code, "were trained on grey photos" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--in-chans", "2"], "photos have 3 channels, or 1 in grey"),
        (["--in-chans", "1", "--teacher", "{model}"], "shown the photos in colour"),
    ],
)
def test_what_does_not_go_together(
    cli: Cli, tiny_checkpoint: Path, data: Path, more: list[str], why: str
) -> None:
    words = [word.replace("{model}", str(tiny_checkpoint)) for word in more]
    refused = cli("finetune", data, "-m", tiny_checkpoint, *words)
    assert (refused.code, why in refused.err) == (2, True), refused.err
