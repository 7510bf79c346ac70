"""Losses of several labels: torch's, timm's asymmetric loss, and that every setting acts."""

from dataclasses import replace

import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn

from resnest_cli.data.dataset import UNLABELLED, DataSet, Sample
from resnest_cli.training.augment import Mixing
from resnest_cli.training.class_weights import class_weights
from resnest_cli.training.label_loss import LabelLoss
from resnest_cli.training.settings import Config

CONFIG = Config(command="train", data="d", model="m", recipe="quick", multi_label=True)
CLASSES = 5
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1])


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, CLASSES, generator=generator, dtype=torch.float64)
    return logits, (torch.rand(12, CLASSES, generator=generator) < 0.4).float()


def loss(config: Config, batch: tuple[Tensor, Tensor], weights: Tensor | None = None) -> float:
    return float(LabelLoss(config, weights)(*batch))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_binary_cross_entropy_is_torchs(
    batch: tuple[Tensor, Tensor], weights: Tensor | None
) -> None:
    logits, labels = batch
    theirs = nn.BCEWithLogitsLoss(pos_weight=None if weights is None else weights.double())
    expected = float(theirs(logits, labels.double()))
    assert loss(CONFIG, batch, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("settings", [(4.0, 1.0, 0.05), (2.0, 0.0, 0.0), (1.0, 3.0, 0.2)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_asymmetric_loss_is_timms(
    batch: tuple[Tensor, Tensor], settings: tuple[float, float, float], smoothing: float
) -> None:
    """With gradients, where theirs leaves the powers out of them, as the published code does."""
    logits, labels = batch
    gamma_neg, gamma_pos, margin = settings
    config = replace(CONFIG, asl=True, asl_gamma_neg=gamma_neg, asl_gamma_pos=gamma_pos,
                     asl_margin=margin, smoothing=smoothing)  # fmt: skip
    theirs = AsymmetricLossMultiLabel(
        gamma_neg, gamma_pos, margin, disable_torch_grad_focal_loss=True
    )
    found = []
    for one in (LabelLoss(config), theirs):
        given = logits.float().requires_grad_()
        wanted = labels if one is not theirs else labels * (1 - smoothing) + smoothing / 2
        value = one(given, wanted)
        value.backward()
        found.append((value.detach(), given.grad))
    (ours, gradient), (total, other) = found
    count = labels.numel() if float(total / ours) > 2 * CLASSES else CLASSES  # a sum, or a mean
    torch.testing.assert_close(ours * count, total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient * count, other, rtol=1e-5, atol=1e-6)


def test_every_setting_acts(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    soft = logits, labels * 0.3
    asl = replace(CONFIG, asl=True)
    found = {
        loss(CONFIG, soft), loss(CONFIG, soft, WEIGHTS), loss(asl, soft), loss(asl, soft, WEIGHTS),
        loss(replace(CONFIG, smoothing=0.1), soft), loss(replace(asl, asl_margin=0.2), soft),
        loss(replace(CONFIG, bce_target_thresh=0.2), soft),
        loss(replace(asl, asl_gamma_neg=1.0), soft), loss(replace(asl, asl_gamma_pos=3.0), soft),
    }  # fmt: skip
    assert len(found) == 9


def test_balanced_weights_are_absences_for_each_presence() -> None:
    samples = [Sample("", str(n), UNLABELLED, labels=labels)
               for n, labels in enumerate([(0,), (0, 1), (), (0,)])]  # fmt: skip
    data = DataSet(("a", "b", "c"), ("a", "b", "c"), tuple(samples), (), multi_label=True)
    weights = class_weights("balanced", data)
    assert weights is not None
    assert weights.tolist() == pytest.approx([1 / 3, 3.0, 4.0])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_labels_are_mixed_as_photos_are(kind: str) -> None:
    mixing = Mixing(replace(CONFIG, **{kind: 1.0, "smoothing": 0.1}), 3)
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    photos = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    mixed, targets, _ = mixing(photos, labels, seed=1)
    share = 1 - float(mixed[0].mean())
    assert 0 < share < 1
    assert targets[0].tolist() == pytest.approx([share, 1.0, 1 - share], abs=1e-6)
