"""The plan in words: every setting that acts is in it, and what was learned before is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnest_cli.data.dataset import load_dataset
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.resnest import build
from resnest_cli.model.variants import Preprocessing
from resnest_cli.net import Access
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.training import plan
from resnest_cli.training.distributed import World
from resnest_cli.training.job import _Run
from resnest_cli.training.plan import plan_lines
from resnest_cli.training.settings import Config, TrainingJob, load_settings
from resnest_cli.training.setup import Ready, get_ready
from tests.networks import TINY, enliven

Plan = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of six photos under `data`, and a checkpoint that knows them, in 32 pixels."""
    folder = tmp_path_factory.mktemp("planning")
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "data" / name).mkdir(parents=True)
        for index in range(6):
            pixels = random.integers(0, 255, (40, 50, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "data" / name / f"{index}.png")
    variant = replace(TINY, preprocessing=Preprocessing(32))
    info = CheckpointInfo(variant=variant, class_names=("cat", "dog"))
    network = enliven(build(variant, num_classes=2))
    checkpoint.save(folder / "pets.safetensors", network.state_dict(), info)
    return folder


def ready(place: Path, **flags: Any) -> Ready:
    flags = {"model": str(place / "pets.safetensors"), "device": "cpu"} | flags
    config = load_settings(TrainingJob(str(place / "data"), command="finetune", flags=flags))
    dataset = load_dataset(config.data, val_split=0.2, seed=0)
    return get_ready(config, dataset, Access(offline=True))


@pytest.fixture
def told(place: Path) -> Plan:
    def found(**flags: Any) -> dict[str, str]:
        made = ready(place, **flags)
        return dict(plan_lines(made, plan.estimated(made)))

    return found


def test_a_frozen_backbone(told: Plan) -> None:
    found = told()
    assert list(found) == ["recipe", "model", "start", "training", "photos", "machine", "estimate"]
    total = sum(p.numel() for p in build(TINY, num_classes=2).parameters())
    assert f"{total / 1e6:.1f} M parameters, of which 258 learn" in found["model"]
    assert "classifier kept" in found["start"]
    assert "pets" in found["start"]
    assert "computed once, mirrored or not" in found["photos"]
    assert "mirrored" not in told(hflip=0.0)["photos"]
    assert "frozen: backbone" in found["machine"]
    assert "for the features" in found["estimate"]


def test_everything_learns(told: Plan) -> None:
    found = told(freeze="none", workers=0)
    assert "learn" not in found["model"]
    assert "32 x 32 pixels" in found["photos"]
    assert "an epoch" in found["estimate"]
    assert "frozen" not in found["machine"]


@pytest.mark.parametrize(
    ("flags", "line", "text"),
    [
        ({"epochs": 7, "batch_size": 4}, "training", "7 epochs of batches of 4"),
        ({"opt": "sgd", "lr": 0.0125}, "training", "sgd with learning rate 0.0125"),
        ({"sched": "constant"}, "training", "constant"),
        ({"weight_decay": 0.03}, "training", "weight decay 0.03"),
        ({"smoothing": 0.15}, "training", "smoothing 0.15"),
        ({"mixup": 0.3}, "training", "mixup 0.3"),
        ({"cutmix": 0.7}, "training", "cutmix 0.7"),
        ({"drop": 0.25}, "training", "dropout 0.25"),
        ({"drop_path": 0.05}, "training", "stochastic depth 0.05"),
        ({"drop_block": 0.05}, "training", "DropBlock 0.05"),
        ({"clip_grad": 3.0}, "training", "clipped at 3"),
        ({"model_ema_decay": 0.95}, "training", "moving average 0.95"),
        ({"patience": 4}, "training", "ends after 4 epochs"),
        ({"scale": 0.6}, "photos", "crops of 60% to 100%"),
        ({"hflip": 0.25}, "photos", "probability 0.25"),
        ({"aa": "auto"}, "photos", "AutoAugment"),
        ({"aa": "rand-m4-n1"}, "photos", "RandAugment rand-m4-n1"),
        ({"color_jitter": 0.2}, "photos", "colour jitter 0.2"),
        ({"reprob": 0.35}, "photos", "erased with probability 0.35"),
        ({"balanced": True}, "photos", "classes balanced"),
        ({"img_size": 40}, "photos", "40 x 40"),
        ({"amp": "bfloat16"}, "machine", "mixed bfloat16"),
        ({"channels_last": True}, "machine", "channels last"),
        ({"workers": 3}, "machine", "3 loader processes"),
        ({"freeze": "stages:2"}, "machine", "frozen: stages:2"),
    ],
)  # fmt: skip
def test_every_setting_that_acts_is_told(
    place: Path, flags: dict[str, Any], line: str, text: str
) -> None:
    cost = plan.Estimate(1.0, 2.0, 3)
    found = dict(plan_lines(ready(place, **{"freeze": "none"} | flags), cost))
    assert text in found[line]
    plain = ready(place, freeze="none", channels_last=False)  # else it pays at this size
    assert text not in dict(plan_lines(plain, cost))[line]


def test_a_fresh_network_tells_its_seed(place: Path) -> None:
    config = Config(command="train", data="d", model="resnest14d", recipe="quick", seed=11)
    made = replace_model(ready(place, freeze="none"), config)
    assert plan._start(made) == "drawn weights (seed 11)"


def replace_model(made: Ready, config: Config) -> Ready:
    made.model, made.config = None, config
    return made


def test_photos_that_are_slow_to_read_make_it_longer(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ready(place, freeze="none", workers=0)
    monkeypatch.setattr(plan, "_loading", lambda _: (9.0, 0.0))
    photos = len(made.dataset.train) + 2 * len(made.dataset.val)  # raw and averaged weights
    assert plan.estimated(made).epoch_seconds == pytest.approx(9 * photos, rel=0.1)


def test_a_photo_that_has_gone_does_not_stop_the_plan(place: Path) -> None:
    made = ready(place, freeze="none")
    assert 0 < plan._loading(made)[0] < 5
    gone = replace(made.dataset.train[0], path=str(place / "gone.png"))
    made.dataset = replace(made.dataset, train=(gone,))
    assert plan._loading(made)[0] >= 0


def test_the_estimate_of_folds_is_that_of_all_fits(place: Path) -> None:
    """K networks with a share of the photos and one with all of them, whoever chose the epochs."""
    made = ready(place, folds=3, freeze="none")
    job = TrainingJob(str(place / "data"), command="finetune", flags={})
    found = _Run(job, TrainingDisplay(), World())._estimate(made, 0.0)
    assert made.config.epochs
    assert found.total_seconds == pytest.approx(3 * made.config.epochs * found.epoch_seconds)
