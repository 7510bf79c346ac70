"""One of two processes that train on the CPU, or one process that does the work of both.

    RANK=... WORLD_SIZE=2 ... python -m tests.training.ranks FOLDER

writes what the process has after one step, and after a run: `test_distributed` compares it with
what `work(folder, World())` gives.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnest_cli.data.dataset import Sample
from resnest_cli.data.seeds import derived_seed
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.model.variants import Preprocessing
from resnest_cli.progress import ignore, silent
from resnest_cli.signals import StopRequest
from resnest_cli.training.augment import Augment
from resnest_cli.training.distributed import World, join
from resnest_cli.training.loader import Batch, Batches
from resnest_cli.training.loop import Trainer
from resnest_cli.training.network import freeze, thawing
from resnest_cli.training.order import Draw
from resnest_cli.training.settings import Config
from resnest_cli.training.state import EpochRow
from resnest_cli.training.step import Task
from resnest_cli.training.teacher import Teacher
from resnest_cli.training.teacher_answers import TeacherAnswers
from resnest_cli.training.teacher_crops import Questions
from tests.conftest import make_photo
from tests.networks import TINY, lively

CLASSES, RANKS, BATCH = 3, 2, 4
PREPROCESSING = Preprocessing(32, 0.9, "bilinear")
CONFIG = Config(
    command="train", data="data", model="resnest14t", recipe="quick", img_size=32, epochs=2,
    batch_size=BATCH, opt="sgd", lr=0.05, smoothing=0.1, drop=0.2, drop_path=0.2, drop_block=0.1,
    model_ema=True, model_ema_decay=0.9, freeze="none", device="cpu", channels_last=True, workers=0,
    seed=3, save_every=0.0, hflip=0.5, scale=0.5, color_jitter=0.2,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Settings, so many photos to train on and to validate with, and batches of a step."""

    changes: dict[str, Any]
    train: int = 24
    val: int = 13
    accumulated: int = 1
    class_weights: bool = False


CASES = {
    "plain": Case({}),
    "mixed": Case({"bce_loss": True, "mixup": 0.4, "cutmix": 0.5}, accumulated=2),
    "uneven": Case({"clip_grad": 0.1, "balanced": True}, train=29, val=9),
    "weighted": Case({"opt": "adamw", "lr": 0.001, "in_chans": 1}, train=26, class_weights=True),
    "varied": Case(
        {
            "aa": "rand-m9-n2", "reprob": 0.5, "color_jitter": 0.4, "aug_repeats": 3, "hflip": 1.0,
            "opt": "lamb", "lr": 0.01, "sched": "step", "decay_epochs": 1.0, "decay_rate": 0.5,
            "layer_decay": 0.8, "warmup_epochs": 0.5, "min_lr": 0.01, "weight_decay": 0.1,
        }
    ),
    "growing": Case(
        {
            "start_size": 24, "train_size": 40, "aa": "auto", "crop_pct": 1.0, "ratio": 2.0,
            "sched": "onecycle", "bce_loss": True, "bce_target_thresh": 0.2, "cutmix": 1.0,
            "model_ema_decay": 0.5,
        }
    ),
    "taught": Case(
        {"teacher": "t", "teacher_weight": 0.7, "teacher_temperature": 3.0, "mixup": 0.4},
        accumulated=2,
        class_weights=True,
    ),
    "thawing": Case({"unfreeze_every": 1, "freeze": "stages:1", "momentum": 0.0}),
    "crops": Case(
        {
            "teacher": "t", "teacher_crops": 2, "teacher_weight": 0.7, "teacher_temperature": 2.0,
            "mixup": 0.4,
        }
    ),
    "label sets": Case(
        {"multi_label": True, "mixup": 0.4, "cutmix": 0.5}, accumulated=2, class_weights=True
    ),
    "asymmetric": Case(
        {
            "multi_label": True, "asl": True, "asl_gamma_neg": 2.0, "asl_gamma_pos": 0.5,
            "asl_margin": 0.1,
        },
        train=29,
        val=9,
    ),
}  # fmt: skip


def in_double(config: Config) -> ResNeSt:
    """The network in float64, on photos of any kind."""
    torch.manual_seed(derived_seed(config.seed, "weights"))
    network = build(
        TINY, num_classes=CLASSES, drop_rate=config.drop, drop_path_rate=config.drop_path,
        drop_block_rate=config.drop_block, in_channels=1 if config.grey else 3,
    ).double()  # fmt: skip
    network.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    return network


def teacher() -> Teacher:
    """A small network, of photos of 24 pixels."""
    network = lively(TINY, num_classes=CLASSES, seed=5).eval()
    names = tuple(f"class {number}" for number in range(CLASSES))
    found = Teacher("t", "d", "s", None, names, Preprocessing(24), lambda: network)
    return found.of_student(names, names, PREPROCESSING)


class AllBatches(Batches):
    """The batches of all devices, one after the other."""

    def __init__(
        self, samples: Sequence[Sample], prepare: Augment, draw: Draw, **more: Any
    ) -> None:
        super().__init__(samples, prepare, replace(draw, ranks=1, accumulated=1), **more)
        self._order.bounds = draw.bounds(len(samples))
        self._order._length = len(self._order.bounds)


class Seen:
    """Hands batches on and notes which photos were in them."""

    def __init__(self, source: Batches) -> None:
        self.source, self.batches = source, []

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in self.source.epoch(epoch, start):
            self.batches.append((batch.indices, float(batch.photos.double().sum())))
            yield batch


class Watch:
    """What the display is told of losses; calls `first` after the first step."""

    def __init__(self, first: Any) -> None:
        self.losses, self.first = [], first

    def start(self, **_: int) -> None: ...

    def step(self, *, loss: float, **_: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == 1:
            self.first()

    def validating(self, done: int, total: int) -> None: ...

    def epoch(self, row: EpochRow) -> None: ...


def samples(folder: Path, side: str, count: int) -> list[Sample]:
    names = [f"{side}{index}.png" for index in range(count)]
    return [
        Sample(
            str(folder / name), name, (index * index) % CLASSES,
            labels=tuple(label for label in range(CLASSES) if index >> label & 1),
        )
        for index, name in enumerate(names)
    ]  # fmt: skip


def make_photos(folder: Path) -> None:
    for side, count in (("train", 29), ("val", 13)):
        for index in range(count):
            make_photo(folder / f"{side}{index}.png", (40, 36), seed=len(side) * 100 + index)


def clones(named: Sequence[tuple[str, Tensor | None]]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named if tensor is not None}


def answered(
    folder: Path, samples: list[Sample], config: Config, world: World
) -> TeacherAnswers | None:
    """A teacher's answers, which the first process has computed; it goes by the mean colours."""
    if not config.teacher_crops:
        return None
    names, how = ("red", "green", "blue"), Preprocessing(16, 1.0, "bilinear")
    made = Teacher("t", "", "", None, names, how, lambda: lambda photos: photos.mean(dim=(2, 3)))
    known = made.of_student(names, names, PREPROCESSING)
    questions = Questions.of(known, samples, config, folder / f"teacher{world.size}")
    if world.main:
        questions.answer(silent, lambda: None, ignore)
    world.meet()
    return questions.answers


def work(folder: Path, world: World, case: Case) -> dict[str, Any]:
    """What one process of `world` has; of a world of one, the work of `RANKS` processes."""
    ranks = world.size
    accumulated = case.accumulated if ranks > 1 else RANKS * case.accumulated
    config = replace(CONFIG, devices=ranks, grad_accum_steps=accumulated, **case.changes)
    train, val = samples(folder, "train", case.train), samples(folder, "val", case.val)
    draw = Draw(
        BATCH, config.seed, config.balanced, config.aug_repeats, world.rank, RANKS,
        case.accumulated,
    )  # fmt: skip
    kind = Batches if ranks > 1 else AllBatches
    answers = answered(folder, train, config, world)
    classes = CLASSES if config.multi_label else 0
    augment = Augment(config, PREPROCESSING)
    source = Seen(kind(train, augment, draw, answers=answers, classes=classes, grey=config.grey))
    validation = Batches(
        val,
        PREPROCESSING,
        Draw(BATCH, rank=world.rank, ranks=ranks),
        classes=classes,
        grey=config.grey,
    )
    network = in_double(config)
    frozen = freeze(network, config.freeze)
    task = Task(
        config, network, source, validation, CLASSES, frozen=frozen,
        thawing=thawing(network, config.freeze) if config.unfreeze_every else (),
        class_weights=torch.tensor([0.2, 1.0, 3.0]) if case.class_weights else None,
        teacher=teacher() if config.teacher is not None else None,
    )  # fmt: skip
    first: dict[str, Any] = {}

    def after_first_step() -> None:
        first["gradients"] = clones([(n, p.grad) for n, p in network.named_parameters()])
        first["buffers"] = clones(list(network.named_buffers()))

    start = clones(list(network.named_buffers()))
    watch = Watch(after_first_step)
    trainer = Trainer(task, None, watch, StopRequest(), None, world=world)
    before, progress = trainer._validate(network), trainer.run()
    assert trainer._ema is not None
    return {
        "start": start, **first, "evaluation": before, "losses": watch.losses,
        "batches": source.batches, "loss": [row.train_loss for row in progress.rows],
        "rows": [
            (row.val_loss, row.top1, row.recall, row.map, row.ema_map, row.micro_f1, row.macro_f1)
            for row in progress.rows
        ],
        "weights": clones(list(network.named_parameters())),
        "ema": clones(list(trainer._ema.network.named_parameters())),
        "end_buffers": clones(list(network.named_buffers())),
    }  # fmt: skip


def main(folder: Path) -> None:
    world = join()
    torch.set_num_threads(1)
    found = {name: work(folder, world, case) for name, case in CASES.items()}
    torch.save(found, folder / f"rank{world.rank}.pt")
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
