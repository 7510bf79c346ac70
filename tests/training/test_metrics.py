"""Metrics against scikit-learn; mixing against torchvision; losses against torch."""

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from resnest_cli.training.config import Config
from resnest_cli.training.losses import Loss
from resnest_cli.training.metrics import BestAnswers, Meter
from resnest_cli.training.mixing import _OWN, Mixing

CONFIG = Config(command="train", data="d", model="m", recipe="quick")


def test_against_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 8, generator=generator)
    labels = torch.randint(0, 7, (500,), generator=generator)  # class 7 has no photo
    meter = Meter(8)
    for part in range(0, 500, 64):
        meter.update(logits[part : part + 64], labels[part : part + 64])
    found = meter.result()
    predicted = logits.argmax(1)
    assert found.photos == 500
    assert found.top1 == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    top5 = sklearn.metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(8))
    assert found.top5 == pytest.approx(top5)
    probabilities = logits.double().softmax(1).numpy()
    loss = sklearn.metrics.log_loss(labels, probabilities, labels=range(8))
    assert found.loss == pytest.approx(loss)
    matrix = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(8))
    np.testing.assert_array_equal(found.confusion, matrix)
    recall = sklearn.metrics.recall_score(labels, predicted, average=None, labels=range(7))
    assert found.recall[:7] == pytest.approx(recall)
    assert found.recall[7] is None
    assert found.mean_recall == pytest.approx(recall.mean())


def test_top5_needs_more_than_five_classes() -> None:
    for classes, known in ((5, False), (6, True)):
        meter = Meter(classes)
        meter.update(torch.zeros(1, classes), torch.tensor([0]))
        assert (meter.result().top5 is not None) is known


def test_of_equal_logits_the_lower_index_wins() -> None:
    meter = Meter(3)
    meter.update(torch.zeros(2, 3), torch.tensor([0, 2]))
    assert meter.result().top1 == 0.5


def test_what_a_state_keeps_is_small_and_gives_all_of_it_back() -> None:
    empty = BestAnswers.none(1000)
    assert empty.tensors()["cells"].shape == (0, 3)
    again = BestAnswers.restored(empty.tensors(), 1000)
    np.testing.assert_array_equal(again.confusion, empty.confusion)
    meter = Meter(1000)
    logits = torch.zeros(3, 1000)
    logits[[0, 1, 2], [7, 7, 0]] = 9
    meter.update(logits, torch.tensor([3, 3, 999]))
    found = BestAnswers.of(meter.result())
    assert found.tensors()["cells"].tolist() == [[3, 7, 2], [999, 0, 1]]
    again = BestAnswers.restored(found.tensors(), 1000)
    np.testing.assert_array_equal(again.confusion, found.confusion)
    assert again.predicted.tolist() == [7, 7, 0]
    np.testing.assert_allclose(again.confidence, float(logits[0].softmax(0).max()), rtol=1e-5)


def test_nothing() -> None:
    assert Meter(3).result().top1 == 0.0


def mix(seed: int = 1, smoothing: float = 0.0, **more: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    photos = torch.randn(4, 3, 8, 8, generator=generator)
    config = Config(command="train", data="d", model="m", recipe="q", smoothing=smoothing, **more)  # type: ignore[arg-type]
    return Mixing(config, 5)(photos, torch.tensor([0, 1, 2, 3]), seed)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_is_torchvisions(kind: str) -> None:
    photos, targets = mix(**{kind: 0.4})
    torch.manual_seed(1 ^ _OWN)
    torch.randint(1, ())
    theirs = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](alpha=0.4, num_classes=5)
    plain = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = theirs(plain, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(photos, expected[0])
    assert torch.equal(targets, expected[1])
    assert not torch.equal(photos, plain)


def test_mixing_depends_on_the_seed_alone_and_leaves_torchs_generator() -> None:
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    one = mix(seed=3, mixup=0.4, cutmix=1.0)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(one[0], mix(seed=3, mixup=0.4, cutmix=1.0)[0])
    others = [mix(seed=seed, mixup=0.4, cutmix=1.0)[0] for seed in range(4, 20)]
    assert not all(torch.equal(one[0], other) for other in others)


def test_targets_are_smoothed() -> None:
    _, plain = mix(mixup=0.4)
    _, smooth = mix(mixup=0.4, smoothing=0.1)
    torch.testing.assert_close(smooth, plain * 0.9 + 0.02)
    torch.testing.assert_close(smooth.sum(1), torch.ones(4))


def test_mixing_keeps_channels_last_and_takes_one_photo() -> None:
    config = Config(command="train", data="d", model="m", recipe="q", mixup=0.2)
    photos = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    mixed, _ = Mixing(config, 5)(photos, torch.tensor([0, 1]), 0)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert Mixing(config, 5)(photos[:1], torch.tensor([0]), 0)[1].shape == (1, 5)
    assert not Mixing(CONFIG, 5).active
    assert Mixing(config, 5).active


def test_loss() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    smooth = Loss(Config(command="train", data="d", model="m", recipe="q", smoothing=0.1))
    assert torch.equal(smooth(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.1))
    soft = F.one_hot(labels, 4) * 0.9 + 0.025
    torch.testing.assert_close(smooth(logits, soft), smooth(logits, labels))
    assert not torch.equal(smooth(logits, labels), Loss(CONFIG)(logits, labels))
