"""The loop's options: accumulation, unfreezing, schedules, class weights, time; all resumable."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnest_cli.model.resnest import DropBlock, build
from resnest_cli.signals import BudgetUsedError, StopRequest
from resnest_cli.training import time_budget
from resnest_cli.training.loader import Batch
from resnest_cli.training.loop import Trainer
from resnest_cli.training.network import thawing
from resnest_cli.training.settings import Config
from resnest_cli.training.state import State
from resnest_cli.training.step import DivergedError, Task
from tests.networks import TINY, enliven
from tests.training.test_loop import (
    CLASSES,
    CONFIG,
    STEPS,
    Kept,
    KilledError,
    Photos,
    Validation,
    Watch,
    network,
    same,
    timeless,
)

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 1.5, 0.7, 1.1])


class Parts(Photos):
    """The batches of `Photos`, each cut into pieces, in float64."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)

    def __len__(self) -> int:
        return STEPS * len(self._sizes)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        pieces = []
        for batch in super().epoch(epoch):
            at = 0
            for size in self._sizes:
                chosen = slice(at, at + size)
                pieces.append(
                    Batch(batch.photos[chosen].double(), batch.labels[chosen], list(range(size)))
                )
                at += size
        yield from pieces[start:]


class DoubleValidation(Validation):
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch, start):
            yield batch._replace(photos=batch.photos.double())


STILL = replace(
    CONFIG, mixup=0.0, cutmix=0.0, drop=0.0, drop_path=0.0, drop_block=0.0, epochs=2,
    channels_last=False,
)  # fmt: skip


def weights_of(config: Config, sizes: Sequence[int], weights: Tensor | None) -> dict[str, Tensor]:
    """Trained in float64, with all batch norms at their running statistics."""
    whole = enliven(build(TINY, num_classes=CLASSES)).double()
    task = Task(
        config, whole, Parts(sizes), DoubleValidation(), CLASSES, frozen=[whole],
        class_weights=weights,
    )  # fmt: skip
    kept = Kept()
    Trainer(task, kept, Watch(), StopRequest(), None).run()
    return kept.weights["last"]


@pytest.mark.parametrize(("sizes", "weights"), [((3, 3), None), ((4, 1, 1), WEIGHTS)])
@pytest.mark.parametrize("change", [{}, {"bce_loss": True}, {"opt": "lamb", "lr": 0.005}])
def test_accumulated_gradients_are_those_of_one_batch(
    sizes: tuple[int, ...], weights: Tensor | None, change: dict[str, Any]
) -> None:
    config = replace(STILL, **change)
    whole = weights_of(config, (6,), weights)
    parts = replace(config, batch_size=max(sizes), grad_accum_steps=len(sizes))
    found = weights_of(parts, sizes, weights)
    for name, tensor in whole.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10)
    apart = weights_of(replace(parts, grad_accum_steps=1), sizes, weights)
    assert not all(torch.allclose(apart[name], whole[name], 1e-6, 1e-8) for name in whole)


def test_the_last_step_of_an_epoch_takes_what_is_left() -> None:
    kept, watch = Kept(), Watch()
    config = replace(STILL, grad_accum_steps=3)  # of four batches: three, and one
    task = Task(config, network(config), Photos(), Validation(), CLASSES)
    progress = Trainer(task, kept, watch, StopRequest(), None).run()
    assert (watch.steps, progress.step) == (4, 4)
    assert [row.step for row in kept.rows] == [2, 4]


OPTIONS: dict[str, dict[str, Any]] = {
    "accumulation": {"grad_accum_steps": 3},
    "one cycle": {"sched": "onecycle"},
    "steps": {"sched": "step", "decay_epochs": 0.75, "decay_rate": 0.5},
    "layer decay": {"layer_decay": 0.7},
    "lamb": {"opt": "lamb", "lr": 0.01},
    "bce": {"bce_loss": True, "bce_target_thresh": 0.2},
    "thawing": {"unfreeze_every": 1, "grad_accum_steps": 2},
    "thawing, adamw": {"unfreeze_every": 1, "opt": "adamw", "lr": 0.001},
    "class weights": {},
}


def trainer(config: Config, name: str, kept: Kept, watch: Watch, state: State | None) -> Trainer:
    whole = network(config)
    task = Task(
        config, whole, Photos(), Validation(), CLASSES,
        thawing=thawing(whole, "none") if config.unfreeze_every else (),  # type: ignore[arg-type]
        class_weights=WEIGHTS if name == "class weights" else None,
    )  # fmt: skip
    return Trainer(task, kept, watch, StopRequest(), state)


@pytest.fixture(scope="module")
def plain() -> Kept:
    kept = Kept()
    trainer(replace(CONFIG, epochs=2), "", kept, Watch(), None).run()
    return kept


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_acts_and_a_killed_run_ends_with_the_same_bits(plain: Kept, name: str) -> None:
    config = replace(CONFIG, epochs=2, **OPTIONS[name])
    straight, kept = Kept(), Kept()
    trainer(config, name, straight, Watch(), None).run()
    assert not same(plain.weights["last"], straight.weights["last"])
    steps = straight.rows[-1].step

    def kill(done: int) -> None:
        if done == steps - 1:
            raise KilledError

    with pytest.raises(KilledError):
        trainer(replace(config, save_every=1e-9), name, kept, Watch(kill), None).run()
    assert kept.states[-1].record.step == steps - 2
    torch.manual_seed(9)
    trainer(config, name, kept, Watch(), kept.states[-1]).run()
    for which in ("last", "best", "last_ema"):
        assert same(kept.weights[which], straight.weights[which]), which
    assert timeless(kept.rows) == timeless(straight.rows)


def test_what_learns_when() -> None:
    """A unit every second epoch: classifier, then stages 4, 3, 2, 1, then the stem."""
    config = replace(STILL, epochs=11, unfreeze_every=2, warmup_epochs=0, model_ema=False)
    whole = network(config)
    kept = Kept()
    task = Task(
        config, whole, Photos(), Validation(), CLASSES,
        thawing=thawing(whole, "none"),  # type: ignore[arg-type]
    )  # fmt: skip
    start = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    Trainer(task, kept, Watch(), StopRequest(), None).run()
    ends = [s.tensors["model"] for s in kept.states if s.record.position == 0]
    assert len(ends) == 11
    first: dict[str, int] = {}
    for epoch, tensors in enumerate(ends):
        for name, tensor in tensors.items():  # statistics, too, stay while a unit is frozen
            if not torch.equal(tensor, start[name]):
                first.setdefault(name.partition(".")[0], epoch)
    assert first == {
        "fc": 0, "layer4": 2, "layer3": 4, "layer2": 6, "layer1": 8, "conv1": 10, "bn1": 10,
    }  # fmt: skip


def test_weights_of_the_last_epochs_are_named() -> None:
    kept = Kept()
    trainer(replace(CONFIG, keep_epochs=2), "", kept, Watch(), None).run()
    assert {"epoch-0001", "epoch-0002", "epoch-0003"} <= set(kept.weights)
    assert same(kept.weights["epoch-0003"], kept.weights["last"])
    assert not same(kept.weights["epoch-0002"], kept.weights["last"])


class Time:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time_budget.time, "monotonic", lambda: self.now)

    def tick(self, _: int) -> None:
        self.now += 10


def test_a_budget_ends_it_between_two_steps_and_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight = Kept()
    trainer(CONFIG, "", straight, Watch(), None).run()
    time, kept = Time(monkeypatch), Kept()
    limited = replace(CONFIG, time_budget="55s")  # six steps of ten seconds
    with pytest.raises(BudgetUsedError):
        trainer(limited, "", kept, Watch(time.tick), None).run()
    state = kept.states[-1]
    assert (state.record.epoch, state.record.position) == (1, 2)
    assert state.record.used == pytest.approx(60)
    assert kept.metrics["last"]["epoch"] == 2  # as it stood in the middle of the second epoch
    assert same(kept.weights["last"], state.tensors["model"])
    assert kept.metrics["best"]["epoch"] == 1
    with pytest.raises(BudgetUsedError):  # used up for good
        trainer(limited, "", Kept(), Watch(time.tick), state).run()
    longer = replace(CONFIG, time_budget="1h")
    trainer(longer, "", kept, Watch(time.tick), state).run()
    assert same(kept.weights["last"], straight.weights["last"])
    assert same(kept.weights["best"], straight.weights["best"])
    assert timeless(kept.rows) == timeless(straight.rows)


def test_a_budget_of_less_than_an_epoch_still_gives_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time, kept = Time(monkeypatch), Kept()
    with pytest.raises(BudgetUsedError):
        trainer(replace(CONFIG, time_budget="15s"), "", kept, Watch(time.tick), None).run()
    assert {"last", "best", "last_ema"} == set(kept.weights)
    assert not kept.rows


def test_a_loss_that_is_no_number_is_found_in_any_part_of_a_step() -> None:
    class Poisoned(Photos):
        def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
            for position, batch in enumerate(super().epoch(epoch, start), start=start):
                if position == 1:
                    batch.photos[0] = float("nan")
                yield batch

    config = replace(CONFIG, grad_accum_steps=2)
    whole = network(config)
    before = whole.fc.weight.clone()  # type: ignore[union-attr]
    task = Task(config, whole, Poisoned(), Validation(), CLASSES)
    with pytest.raises(DivergedError, match="epoch 1, batch 2"):
        Trainer(task, Kept(), Watch(), StopRequest(), None).run()
    assert torch.equal(whole.fc.weight, before)  # type: ignore[union-attr, arg-type]


def test_drop_block_acts_in_the_last_two_stages_and_only_in_training() -> None:
    whole = network(replace(STILL, drop_block=0.3))
    rates = {
        name.partition(".")[0]: module.rate
        for name, module in whole.named_modules()
        if isinstance(module, DropBlock)
    }
    assert rates == {"layer1": 0.0, "layer2": 0.0, "layer3": 0.3, "layer4": 0.3}
    whole = enliven(whole)
    maps = {}

    def note(name: str) -> Any:
        return lambda _, __, out: maps.__setitem__(name, out)

    for name in ("layer2", "layer3"):
        getattr(whole, name)[-1].register_forward_hook(note(name))
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    photos = torch.randn(4, 3, 64, 64)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        out = whole.train()(photos)
        found.append((out, dict(maps) | {"eval": whole.eval()(photos)}))
    (one, first), (two, second) = found
    assert not torch.equal(one, two)
    assert torch.equal(first["layer2"], second["layer2"])
    assert not torch.equal(first["layer3"], second["layer3"])
    assert torch.equal(first["eval"], second["eval"])
