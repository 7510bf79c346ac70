"""A teacher: the loss, what is mixed, what it sees, whose classes are whose; and a whole run."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_digits
from torch import Tensor

from resnest_cli.data.dataset import DataSet, Sample
from resnest_cli.errors import UsageError
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.labels import imagenet_ids, imagenet_labels
from resnest_cli.model.resnest import build
from resnest_cli.model.variants import Preprocessing
from resnest_cli.net import Access
from resnest_cli.signals import StopRequest
from resnest_cli.training.augment import Mixing
from resnest_cli.training.class_weights import with_mean_1
from resnest_cli.training.loader import Batch
from resnest_cli.training.loop import Trainer
from resnest_cli.training.settings import Config, parse_channels
from resnest_cli.training.step import Loss, Task
from resnest_cli.training.teacher import Teacher, columns_of, load_teacher, with_classes_of
from tests.conftest import Cli
from tests.networks import TINY, enliven
from tests.training import test_loop

CLASSES = 5
CONFIG = Config(
    command="train", data="d", model="m", recipe="quick", teacher="t", teacher_weight=0.3,
    teacher_temperature=2.5, device="cpu",
)  # fmt: skip
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1])


def drawn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# The loss


def plain_loss(
    logits: Tensor, targets: Tensor, teacher: Tensor, config: Config, weights: Tensor | None
) -> Tensor:
    """From logs and sums alone; `targets` (B, classes), smoothed."""

    def log_softmax(x: Tensor) -> Tensor:
        return x - x.exp().sum(1, keepdim=True).log()

    t, a = config.teacher_temperature, config.teacher_weight
    shares = targets if weights is None else targets * weights.double()
    labels = -(shares * log_softmax(logits)).sum(1).mean()
    p, q = log_softmax(teacher / t), log_softmax(logits / t)
    return (1 - a) * labels + a * t**2 * (p.exp() * (p - q)).sum(1).mean()


def smoothed(labels: Tensor, smoothing: float) -> Tensor:
    """One-hot, smoothed; nothing at all for -1."""
    known = (labels[:, None] == torch.arange(CLASSES)).double()
    return (1 - smoothing) * known + smoothing / CLASSES * (labels >= 0).double()[:, None]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("unlabelled", [0, 4, 12])
@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_is_the_plain_formula(
    smoothing: float, weights: Tensor | None, unlabelled: int, soft: bool
) -> None:
    config = replace(CONFIG, smoothing=smoothing)
    logits, teacher = drawn(0, 12, CLASSES).requires_grad_(), 3 * drawn(1, 12, CLASSES)
    labels = torch.arange(12) % CLASSES
    labels[:unlabelled] = -1
    targets = smoothed(labels, smoothing)
    answers = (teacher / config.teacher_temperature).softmax(1)
    found = Loss(config, weights)(logits, targets if soft else labels, answers)
    expected = plain_loss(logits, targets, teacher, config, weights)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_the_loss_is_0_where_the_student_answers_as_the_teacher() -> None:
    config, logits = replace(CONFIG, teacher_weight=1.0), drawn(0, 3, CLASSES)
    answers = (logits / config.teacher_temperature).softmax(1)
    assert float(Loss(config)(logits, torch.tensor([0, 1, -1]), answers)) == pytest.approx(0)


def test_shares_of_batches_are_photos_and_weights_have_a_mean_of_1() -> None:
    assert Loss(CONFIG, WEIGHTS).share(torch.tensor([0, -1, 2])) == 3
    samples = tuple(Sample("", "", label) for label in (0, 0, 0, 1, 3))
    dataset = DataSet(tuple("abcde"), tuple("abcde"), samples, ())
    found = with_mean_1(WEIGHTS, dataset)
    assert found is not None
    torch.testing.assert_close(found / found[0], WEIGHTS / WEIGHTS[0])
    assert float(found[[one.label for one in samples]].mean()) == pytest.approx(1)
    assert with_mean_1(None, dataset) is None


# Mixing


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_answers_are_mixed_as_labels_are(kind: str) -> None:
    config = replace(CONFIG, smoothing=0.0, **{kind: 0.7})  # type: ignore[arg-type]
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    photos = torch.arange(6.0)[:, None, None, None].expand(6, 3, 16, 16).contiguous()
    answers = torch.eye(CLASSES)[labels]  # a teacher that is sure of the labels
    for seed in range(5):
        mixed, targets, both = Mixing(config, CLASSES)(photos, labels, seed, answers)
        assert both is not None
        assert torch.equal(both, targets)
        # Photo i is i everywhere, and the next in the batch is mixed in: so the mean says how much.
        values = mixed.mean((1, 2, 3)).double()
        share = (targets[torch.arange(1, 6), labels[1:]]).double()
        torch.testing.assert_close(
            values[1:], torch.arange(1.0, 6).double() - (1 - share), atol=1e-5, rtol=0
        )


def test_a_mixture_with_a_photo_without_a_label_has_a_part_of_one() -> None:
    config = replace(CONFIG, smoothing=0.2, mixup=0.7)
    labels, photos = torch.tensor([1, -1, 2, 3]), torch.zeros(4, 3, 8, 8)
    _, targets, _ = Mixing(config, CLASSES)(photos, labels, 0)
    _, whole, _ = Mixing(config, CLASSES)(photos, torch.tensor([1, 1, 2, 3]), 0)
    lam = float((whole[3, 3] - 0.04) / 0.8)
    sums = torch.tensor([1.0, 1 - lam, lam, 1.0])
    torch.testing.assert_close(targets.sum(1), sums)
    assert torch.equal(targets[[0, 3]], whole[[0, 3]])


# What the teacher sees


class Seen:
    """A teacher's network that remembers what it was given; logits are 0, 1, 2, ..."""

    def __init__(self, classes: int = CLASSES) -> None:
        self.photos: list[Tensor] = []
        self._classes = classes

    def __call__(self, photos: Tensor) -> Tensor:
        self.photos.append(photos)
        return torch.arange(float(self._classes)).repeat(len(photos), 1)


def teacher(
    names: tuple[str, ...],
    ids: tuple[str, ...] | None = None,
    network: Callable[[Tensor], Tensor] | None = None,
    **preprocessing: Any,
) -> Teacher:
    return Teacher(
        name="wise",
        digest="d",
        sha256="s",
        class_ids=ids,
        class_names=names,
        preprocessing=Preprocessing(**preprocessing),
        make=lambda: network or Seen(len(names)),
    )


def test_it_sees_the_students_crop_in_its_own_size_and_normalisation() -> None:
    seen = Seen()
    found = teacher(tuple("abcde"), None, seen, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    student = Preprocessing(8)
    found = found.of_student("db", "db", student)
    pixels = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (student.mean, student.std))
    answers = found.answers((pixels - mean) / std)
    assert torch.equal(answers, torch.tensor([[3.0, 1.0]] * 2))  # of classes d and b
    larger = torch.nn.functional.interpolate(pixels, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen.photos[0], (larger - 0.5) / 0.25)
    assert not answers.requires_grad


def test_batches_that_bring_answers_need_no_teacher() -> None:
    config = replace(test_loop.CONFIG, teacher="t", epochs=1)

    class Answered(test_loop.Photos):
        def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
            for batch in super().epoch(epoch, start):
                yield batch._replace(answers=torch.eye(test_loop.CLASSES)[batch.labels])

    assert len(run(config, None, train=Answered()).rows) == 1
    with pytest.raises(AssertionError):
        run(config, None)


# Classes


IMAGENET = (imagenet_labels(), imagenet_ids())


@pytest.mark.parametrize(
    ("ids", "names", "expected"),
    [
        (("n01440764", "n01443537"), ("n01440764", "n01443537"), (0, 1)),
        (("b", "a"), ("tench", "goldfish"), (0, 1)),  # by --class-names
        (("goldfish", "Great_White_Shark"), ("goldfish", "Great_White_Shark"), (1, 2)),
        (("n02012849", "n03126707"), ("crane", "crane"), (134, 517)),
    ],
)
def test_classes_are_found_by_id_and_by_name(
    ids: tuple[str, ...], names: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    assert columns_of(teacher(*IMAGENET), ids, names) == expected


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (("tench", "goldfsh"), "does not know goldfsh. Did you mean goldfish?"),
        (("tench", "7"), "does not know 7"),  # a number is no name
        (("tench", "crane"), "'crane' is the name of several classes"),
        (("tench", "n01440764"), "'tench' and 'n01440764' are one class of it, 'tench'"),
    ],
)
def test_classes_that_it_does_not_know(ids: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as error:
        columns_of(teacher(*IMAGENET), ids, ids)
    assert words in str(error.value)


def test_numbers_are_names_where_they_are_the_teachers() -> None:
    assert columns_of(teacher(("7", "8", "9")), ("9", "8"), ("9", "8")) == (2, 1)


def test_the_teachers_classes_for_the_student() -> None:
    data = DataSet(
        ("goldfish", "tench"), ("goldfish", "tench"),
        (Sample("p", "p", 0), Sample("q", "q", 1)), (Sample("r", "r", 1),),
        unlabelled=(Sample("s", "s", -1),),
    )  # fmt: skip
    found = with_classes_of(teacher(*IMAGENET), data)
    assert found.class_ids == imagenet_ids()
    assert found.class_names == imagenet_labels()
    assert [one.label for one in (*found.learned, *found.val)] == [1, 0, -1, 0]
    assert with_classes_of(teacher(*IMAGENET), found) == found


def test_ids_of_a_teacher_whose_names_are_not_unique() -> None:
    wise = teacher(("crane", "crane", *"abcdefghi"))
    assert wise.keys == tuple(f"{index:02d}" for index in range(11))
    assert columns_of(wise, wise.keys, wise.class_names) == tuple(range(11))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.4,0.5,0.6", (0.4, 0.5, 0.6)), ("0.5", (0.5,) * 3), ("1,2", None), ("", None),
        ("nan", None), ("red", None), ("1e9,1,1", None),
    ],
)  # fmt: skip
def test_channels(text: str, expected: tuple[float, ...] | None) -> None:
    assert parse_channels(text) == expected


# One of our own networks


@pytest.fixture(scope="module")
def wise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of six classes in 40 pixels, calibrated."""
    path = tmp_path_factory.mktemp("wise") / "wise.safetensors"
    variant = replace(TINY, preprocessing=Preprocessing(40, mean=(0.5,) * 3, std=(0.5,) * 3))
    names = tuple(f"class {index}" for index in range(test_loop.CLASSES))
    info = CheckpointInfo(variant=variant, class_names=names, temperature=2.0)
    checkpoint.save(path, enliven(build(variant, num_classes=len(names)), seed=7), info)
    return path


def taught(wise: Path, **settings: Any) -> Teacher:
    found = load_teacher(replace(CONFIG, teacher=str(wise), **settings), Access(offline=True))
    names = found.class_names
    return found.of_student(names, names, Preprocessing(32))


def test_a_checkpoint_answers_as_it_would_predict(wise: Path) -> None:
    pixels = torch.rand(3, 3, 40, 40)
    with torch.no_grad():
        expected = checkpoint.instantiate(checkpoint.load(wise))((pixels - 0.5) / 0.5) / 2
    torch.testing.assert_close(taught(wise).logits(pixels), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(taught(wise).first_answers((pixels - 0.5) / 0.5), expected.argmax(1))


def test_settings_change_what_it_sees_and_what_keeps_its_answers_apart(wise: Path) -> None:
    plain = taught(wise)
    assert taught(wise).digest == plain.digest
    others = [
        taught(wise, teacher_size=24), taught(wise, teacher_mean="0.1"),
        taught(wise, teacher_std="1,1,2"),
    ]  # fmt: skip
    photos = torch.randn(2, 3, 32, 32)
    for other in others:
        assert other.digest != plain.digest
        assert not torch.allclose(other.answers(photos), plain.answers(photos))
    assert len({one.digest for one in others}) == 3


# Runs


def run(
    config: Config,
    wise: Teacher | None,
    kept: test_loop.Kept | None = None,
    watch: test_loop.Watch | None = None,
    state: Any = None,
    train: test_loop.Photos | None = None,
) -> Any:
    task = Task(
        config, test_loop.network(config), train or test_loop.Photos(), test_loop.Validation(),
        test_loop.CLASSES, teacher=wise,
    )  # fmt: skip
    trainer = Trainer(
        task, kept or test_loop.Kept(), watch or test_loop.Watch(), StopRequest(), state
    )
    return trainer.run()


def test_resumed_from_any_step_the_weights_are_the_same(wise: Path) -> None:
    config = replace(test_loop.CONFIG, teacher="t", epochs=1, save_every=1e-9)
    whole = test_loop.Kept()
    run(config, taught(wise), whole)
    for state in whole.states[: test_loop.STEPS : 2]:
        again = test_loop.Kept()
        record = replace(state.record, rows=list(state.record.rows))
        run(config, taught(wise), again, state=replace(state, record=record))
        assert test_loop.same(again.weights["last"], whole.weights["last"])


@pytest.mark.parametrize("change", [{"teacher_weight": 0.9}, {"teacher_temperature": 1.0}])
def test_weight_and_temperature_act(wise: Path, change: dict[str, float]) -> None:
    config = replace(test_loop.CONFIG, teacher="t", epochs=1)
    one, two = test_loop.Kept(), test_loop.Kept()
    run(config, taught(wise), one)
    run(replace(config, **change), taught(wise), two)  # type: ignore[arg-type]
    assert not test_loop.same(one.weights["last"], two.weights["last"])


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_student_of_random_photos_alone_knows_most_digits(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never sees a digit: strokes at random, and what the teacher says of them."""
    monkeypatch.chdir(tmp_path)
    found = load_digits()
    for index, (pixels, label) in enumerate(zip(found.images, found.target, strict=True)):
        folder = tmp_path / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray((15.9 * pixels).astype(np.uint8)).resize((32, 32), 2)
        photo.convert("RGB").save(folder / f"{index}.png")
    strokes(tmp_path / "strokes", 1000)
    how = ("--model", "resnest14t", "--img-size", "32", "-b", "64", "--hflip", "0", "-j", "0")
    assert cli("train", "digits", *how, "--epochs", "3", "--run", "teacher").code == 0
    weights = "runs/train/{}/weights/best.safetensors"
    more = ("--unlabelled", "strokes", "--teacher", weights.format("teacher"), "--teacher-classes")
    done = cli("train", *more, *how, "--epochs", "6", "--run", "student")
    assert done.code == 0, done.err
    scores = cli("evaluate", "digits", "--model", weights.format("student"), "--format", "json")
    assert json.loads(scores.out)["top1"] > 0.6, scores.out[:400]


def strokes(folder: Path, count: int) -> None:
    """Photos of 32 pixels with one to three thick strokes at random."""
    folder.mkdir()
    for index in range(count):
        random, photo = np.random.default_rng(index), Image.new("L", (32, 32))
        draw = ImageDraw.Draw(photo)
        for _ in range(random.integers(1, 4)):
            points = random.uniform(2, 30, (random.integers(2, 6), 2))
            shade, width = int(random.integers(120, 256)), int(random.integers(3, 7))
            draw.line([tuple(point) for point in points], shade, width, "curve")
        blurred = photo.filter(ImageFilter.GaussianBlur(1.5))
        blurred.convert("RGB").save(folder / f"{index}.png")
