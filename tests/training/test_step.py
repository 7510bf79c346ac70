"""Losses: torch's cross entropy and timm's binary cross entropy, and class weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn

from resnest_cli.data.dataset import DataSet, Sample
from resnest_cli.errors import UsageError
from resnest_cli.training.augment import Mixing
from resnest_cli.training.class_weights import class_weights
from resnest_cli.training.settings import Config
from resnest_cli.training.step import Loss

CONFIG = Config(command="train", data="d", model="m", recipe="quick")
CLASSES = 5
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1])


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, CLASSES, generator=generator, dtype=dtype)
    return logits, torch.randint(CLASSES, (12,), generator=generator)


def mixed(config: Config) -> Tensor:
    """Targets as the loop makes them."""
    _, labels = batch()
    mixing = Mixing(replace(config, mixup=0.5, cutmix=1.0), CLASSES)
    return mixing(torch.zeros(12, 3, 8, 8), labels, seed=3)[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs(smoothing: float, weights: Tensor | None) -> None:
    config = replace(CONFIG, smoothing=smoothing)
    logits, labels = batch()
    given = None if weights is None else weights.double()
    theirs = nn.CrossEntropyLoss(weight=given, label_smoothing=smoothing)
    assert float(Loss(config, weights)(logits, labels)) == pytest.approx(
        float(theirs(logits, labels)), rel=1e-12
    )
    soft = mixed(config).double()  # smoothed already
    plain = nn.CrossEntropyLoss(weight=given)
    assert float(Loss(config, weights)(logits, soft)) == pytest.approx(
        float(plain(logits, soft)), rel=1e-12
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_bce_is_timms(smoothing: float, threshold: float, weights: Tensor | None) -> None:
    config = replace(
        CONFIG, bce_loss=True, bce_target_thresh=threshold, smoothing=smoothing
    )  # timm's None is 0 here
    theirs = BinaryCrossEntropy(
        smoothing=smoothing,
        target_threshold=threshold or None,
        weight=None if weights is None else weights.double(),
    )
    logits, labels = batch()
    ours = Loss(config, weights)
    for targets in (labels, mixed(config).double()):
        assert float(ours(logits, targets)) == pytest.approx(
            float(theirs(logits, targets)), rel=1e-12
        )


def test_each_setting_of_bce_acts() -> None:
    logits, labels = batch()
    config = replace(CONFIG, bce_loss=True, smoothing=0.1)
    found = {
        float(Loss(one)(logits, targets))
        for one in (config, replace(config, bce_target_thresh=0.1), replace(config, bce_loss=False))
        for targets in (labels, mixed(config))
    }
    assert len(found) == 6


def test_halves_of_float16_logits_are_taken_as_float32() -> None:
    logits, labels = batch(torch.float16)
    for config in (CONFIG, replace(CONFIG, bce_loss=True)):
        loss = Loss(config, WEIGHTS)(logits, labels)
        assert loss.dtype == torch.float32


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_means_of_parts_give_the_mean_of_all(
    weights: Tensor | None, binary: bool, soft: bool
) -> None:
    config = replace(CONFIG, bce_loss=binary, smoothing=0.1)
    loss = Loss(config, weights)
    logits, targets = batch()
    if soft:
        targets = mixed(config).double()
    parts = [(slice(0, 5)), slice(5, 9), slice(9, 12)]
    shares = [loss.share(targets[part]) for part in parts]
    means = [float(loss(logits[part], targets[part])) for part in parts]
    total = sum(mean * share for mean, share in zip(means, shares, strict=True)) / sum(shares)
    assert total == pytest.approx(float(loss(logits, targets)), rel=1e-6)


def data(*counts: int) -> DataSet:
    names = tuple("abcdefgh"[: len(counts)])
    train = [Sample("p", "p", label) for label, count in enumerate(counts) for _ in range(count)]
    return DataSet(names, names, tuple(train), ())


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    found = class_weights("balanced", data(6, 3, 1))
    assert found is not None
    labels = [0] * 6 + [1] * 3 + [2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert found.tolist() == pytest.approx(list(expected))
    assert class_weights("none", data(6, 3, 1)) is None


def test_weights_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.csv"
    path.write_text("b,2\n\na,0.5\nc,1e1\n")
    found = class_weights(str(path), data(1, 1, 1))
    assert found is not None
    assert found.tolist() == [0.5, 2.0, 10.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1\nb,2\n", "has no weight for 'c'"),
        ("a,1\nb,2\nc,3\nd,4\n", "'d' is no class"),
        ("a,1\nb,-2\nc,3\n", "line 2"),
        ("a,1\nb,2\nc\n", "line 3"),
        ("a,1\nb,nan\nc,1\n", "line 2"),
        ("a,1\nb,inf\nc,1\n", "line 2"),
        (None, "cannot be read"),
    ],
)
def test_bad_files_of_weights(tmp_path: Path, text: Any, message: str) -> None:
    path = tmp_path / "weights.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        class_weights(str(path), data(1, 1, 1))
    assert str(path) in str(error.value)
