"""The loop: exact resume from any step, what it keeps, and how it ends."""

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnest_cli.data.seeds import derived_seed
from resnest_cli.errors import ResnestError
from resnest_cli.evaluation.scores import Evaluation, Meter, Share
from resnest_cli.model.resnest import build
from resnest_cli.signals import StoppedError, StopRequest
from resnest_cli.training.loader import Batch
from resnest_cli.training.loop import Trainer
from resnest_cli.training.settings import Config
from resnest_cli.training.state import EpochRow, State
from resnest_cli.training.step import DivergedError, Task
from tests.networks import TINY

CLASSES, SIZE, STEPS = 6, 32, 4

CONFIG = Config(
    command="train", data="data", model="resnest14d", recipe="quick", img_size=SIZE, epochs=3,
    batch_size=6, opt="sgd", lr=0.05, warmup_epochs=1, clip_grad=1.0, smoothing=0.1, mixup=0.2,
    cutmix=0.5, drop=0.2, drop_path=0.2, drop_block=0.1, model_ema=True, model_ema_decay=0.9,
    freeze="none", device="cpu", channels_last=True, workers=0, seed=3, save_every=0.0,
)  # fmt: skip


class Photos:
    """Seeded noise with a class-dependent tint; batch after batch a function of the epoch."""

    photos = STEPS * 6

    def __len__(self) -> int:
        return STEPS

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for position in range(start, STEPS):
            yield self.batch(derived_seed(0, "order", epoch, position))

    def batch(self, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(6) % CLASSES
        photos = torch.randn(6, 3, SIZE, SIZE, generator=generator)
        photos[:, 0] += labels[:, None, None] - 2.5
        return Batch(photos, labels, list(range(6)))


class Validation(Photos):
    def __len__(self) -> int:
        return 2

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield self.batch(1)
        yield self.batch(2)


@dataclass
class Kept:
    """What the loop handed over, copied."""

    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    metrics: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: list[EpochRow] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    def save_weights(
        self,
        names: Sequence[str],
        tensors: Mapping[str, Tensor],
        metrics: Mapping[str, Any],
        thresholds: tuple[float, ...] | None = None,
    ) -> None:
        for name in names:
            self.weights[name] = {key: value.clone() for key, value in tensors.items()}
            self.metrics[name] = metrics

    def save_rows(self, rows: Sequence[EpochRow], classes: Sequence[float | None]) -> None:
        assert len(classes) == CLASSES
        self.rows = list(rows)

    def save_state(self, state: State) -> None:
        tensors = {
            part: {name: tensor.clone().contiguous() for name, tensor in group.items()}
            for part, group in state.tensors.items()
        }
        record = replace(state.record, rows=list(state.record.rows))
        self.states.append(State(record, tensors, dict(state.scaler)))


class Watch:
    """A display that can interfere: `at(step)` is called after each step of the run."""

    def __init__(self, at: Any = None) -> None:
        self.at, self.steps, self.losses, self.lrs = at, 0, [], []
        self.validations: list[tuple[int, int]] = []

    def start(self, **_: int) -> None: ...

    def step(self, *, loss: float, lr: float, **_: float) -> None:
        self.steps += 1
        self.losses.append(loss)
        self.lrs.append(lr)
        if self.at is not None:
            self.at(self.steps)

    def validating(self, done: int, total: int) -> None:
        self.validations.append((done, total))

    def epoch(self, row: EpochRow) -> None: ...


def network(config: Config) -> nn.Module:
    torch.manual_seed(derived_seed(config.seed, "weights"))
    return build(
        TINY, num_classes=CLASSES, drop_rate=config.drop, drop_path_rate=config.drop_path,
        drop_block_rate=config.drop_block,
    )  # fmt: skip


def trainer(
    config: Config,
    kept: Kept,
    watch: Watch,
    state: State | None = None,
    stop: StopRequest | None = None,
    train: Photos | None = None,
) -> Trainer:
    task = Task(config, network(config), train or Photos(), Validation(), CLASSES)
    return Trainer(task, kept, watch, stop or StopRequest(), state)


class KilledError(Exception):
    pass


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def timeless(rows: Sequence[EpochRow]) -> list[EpochRow]:
    return [replace(row, photos_per_second=0, train_seconds=0, seconds=0) for row in rows]


@pytest.fixture(scope="module")
def straight() -> Kept:
    kept = Kept()
    trainer(CONFIG, kept, Watch()).run()
    return kept


@pytest.mark.parametrize("step", range(1, 3 * STEPS + 1))
def test_killed_at_any_step_and_resumed_gives_the_same_bits(straight: Kept, step: int) -> None:
    """The state is that of the last epoch, or of the step before where one was saved there."""

    def kill(done: int) -> None:
        if done == step:
            raise KilledError

    kept = Kept()
    config = replace(CONFIG, save_every=1e-9 if step % 2 else 0.0)  # after every step, or never
    with pytest.raises(KilledError):
        trainer(config, kept, Watch(kill)).run()
    torch.manual_seed(12345)  # a new process has another generator
    state = kept.states[-1] if kept.states else None
    trainer(config, kept, Watch(), state).run()
    assert same(kept.weights["last"], straight.weights["last"])
    assert same(kept.weights["best"], straight.weights["best"])
    assert same(kept.weights["last_ema"], straight.weights["last_ema"])
    assert timeless(kept.rows) == timeless(straight.rows)
    assert kept.metrics == straight.metrics


class Several:
    """The same batches with one label more for each photo."""

    def __init__(self, source: Photos) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in self._source.epoch(epoch, start):
            first = nn.functional.one_hot(batch.labels, CLASSES)
            yield batch._replace(labels=(first + first.roll(1, 1)).float())


@pytest.mark.parametrize("step", [1, STEPS + 2])
def test_several_labels_and_resumed_give_the_same_bits(step: int) -> None:
    def kill(done: int) -> None:
        if done == step:
            raise KilledError

    config = replace(CONFIG, multi_label=True, epochs=2, save_every=1e-9)
    task = Task(config, network(config), Several(Photos()), Several(Validation()), CLASSES)
    whole, kept, stop = Kept(), Kept(), StopRequest()
    Trainer(task, whole, Watch(), stop, None).run()
    task = replace(task, network=network(config))
    with pytest.raises(KilledError):
        Trainer(task, kept, Watch(kill), stop, None).run()
    task = replace(task, network=network(config))
    Trainer(task, kept, Watch(), stop, kept.states[-1] if kept.states else None).run()
    assert same(kept.weights["last"], whole.weights["last"])
    assert timeless(kept.rows) == timeless(whole.rows)
    assert kept.metrics == whole.metrics
    assert all(row.map is not None and row.top1 is None for row in whole.rows)
    best = whole.states[-1].tensors["best"]
    assert (best["probabilities"].shape, len(best["labels"])) == ((12, CLASSES), 24)


def test_every_setting_of_several_labels_acts() -> None:
    config = replace(CONFIG, multi_label=True, epochs=1, warmup_epochs=0.25)

    def trained(config: Config, weights: Tensor | None = None) -> dict[str, dict[str, Tensor]]:
        sides, kept = (Several(Photos()), Several(Validation())), Kept()
        task = Task(config, network(config), *sides, CLASSES, class_weights=weights)
        Trainer(task, kept, Watch(), StopRequest(), None).run()
        return kept.weights

    one = trained(config)
    assert not same(one["last"], one["last_ema"])
    for change in (
        {"mixup": 0.0}, {"cutmix": 0.0}, {"smoothing": 0.0}, {"bce_target_thresh": 0.4},
        {"asl": True},
    ):  # fmt: skip
        assert not same(trained(replace(config, **change))["last"], one["last"]), change
    assert not same(trained(config, torch.full((CLASSES,), 3.0))["last"], one["last"])
    assert "last_ema" not in trained(replace(config, model_ema=False))


def test_every_setting_of_the_step_acts() -> None:
    one, config = Kept(), replace(CONFIG, epochs=1, warmup_epochs=0.25)
    trainer(config, one, Watch()).run()
    for change in (
        {"clip_grad": 0.01}, {"smoothing": 0.0}, {"mixup": 0.0, "cutmix": 0.0}, {"drop": 0.0},
        {"drop_path": 0.0}, {"drop_block": 0.0}, {"seed": 4}, {"lr": 0.04}, {"warmup_epochs": 0.0},
        {"opt": "adamw", "lr": 0.001}, {"weight_decay": 0.1}, {"momentum": 0.5},
        {"sched": "constant"},
        {"min_lr": 0.5}, {"amp": "bfloat16"},
    ):  # fmt: skip
        kept = Kept()
        trainer(replace(config, **change), kept, Watch()).run()
        assert not same(kept.weights["last"], one.weights["last"]), change


def test_the_memory_format_changes_no_more_than_the_last_bits(straight: Kept) -> None:
    kept = Kept()
    config = replace(CONFIG, channels_last=False, epochs=1)
    trainer(config, kept, Watch()).run()
    first = next(s for s in straight.states if s.record.epoch == 1).tensors["model"]
    for name, tensor in kept.weights["last"].items():
        torch.testing.assert_close(tensor, first[name], rtol=2e-3, atol=2e-4)


def test_what_it_keeps(straight: Kept) -> None:
    assert set(straight.weights) == {"last", "last_ema", "best", "best_raw", "best_ema"}
    top = max(max(row.top1, row.ema_top1 or 0) for row in straight.rows)
    assert straight.metrics["best"]["top1"] == top
    assert straight.metrics["best_raw"]["top1"] == max(row.top1 for row in straight.rows)
    assert straight.metrics["best_ema"]["top1"] == max(row.ema_top1 or 0 for row in straight.rows)
    assert [row.epoch for row in straight.rows] == [1, 2, 3]
    assert [row.step for row in straight.rows] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert straight.rows[0].best
    assert not same(straight.weights["last"], straight.weights["last_ema"])
    assert straight.states[-1].tensors["best"]["cells"][:, 2].sum() == 12
    assert len(straight.states[-1].tensors["best"]["predicted"]) == 12
    assert all(row.top5 is not None for row in straight.rows)


def test_without_a_moving_average(straight: Kept) -> None:
    kept = Kept()
    trainer(replace(CONFIG, model_ema=False), kept, Watch()).run()
    assert set(kept.weights) == {"last", "best"}
    assert same(kept.weights["last"], straight.weights["last"])  # the average changes nothing else
    assert all(row.ema_top1 is None and row.which == "raw" for row in kept.rows)


def test_a_signal_ends_it_between_two_steps_with_its_state(straight: Kept) -> None:
    kept = Kept()
    with StopRequest() as stop:

        def interrupt(step: int) -> None:
            if step == 6:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(StoppedError):
            trainer(CONFIG, kept, Watch(interrupt), stop=stop).run()
    assert stop.exit_code == 143
    state = kept.states[-1]
    assert (state.record.epoch, state.record.position) == (1, 2)
    trainer(CONFIG, kept, Watch(), state).run()
    assert same(kept.weights["last"], straight.weights["last"])


def test_a_signal_during_validation(straight: Kept) -> None:
    kept = Kept()
    with StopRequest() as stop:
        watch = Watch()
        watch.validating = lambda *_: signal.raise_signal(signal.SIGINT)  # type: ignore[method-assign]
        with pytest.raises(StoppedError):
            trainer(CONFIG, kept, watch, stop=stop).run()
    assert stop.exit_code == 130
    state = kept.states[-1]
    assert (state.record.epoch, state.record.position) == (0, STEPS)
    assert not kept.rows
    trainer(CONFIG, kept, Watch(), state).run()
    assert same(kept.weights["last"], straight.weights["last"])
    assert timeless(kept.rows) == timeless(straight.rows)


def test_a_second_ctrl_c_leaves_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


class Poisoned(Photos):
    """NaN in one photo of the second epoch's third batch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for position, batch in enumerate(super().epoch(epoch, start), start=start):
            if (epoch, position) == (1, 2):
                batch.photos[0, 0, 0, 0] = math.nan
            yield batch


def test_a_loss_that_is_no_number_ends_it_before_the_step() -> None:
    kept = Kept()
    run = trainer(CONFIG, kept, Watch(), train=Poisoned())
    with pytest.raises(DivergedError, match="became nan in epoch 2, batch 3") as error:
        run.run()
    assert "lower --lr" in str(error.value)
    assert len(kept.rows) == 1
    for name, tensor in run.task.network.state_dict().items():
        # Running statistics have seen the photo; what is learned has not.
        if "running" not in name:
            assert bool(torch.isfinite(tensor).all()), name


def test_a_gradient_that_is_no_number_ends_it_too() -> None:
    kept = Kept()
    run = trainer(CONFIG, kept, Watch())
    run.task.network.fc.weight.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[union-attr]
    with pytest.raises(DivergedError, match="the gradient became"):
        run.run()


def test_patience() -> None:
    kept = Kept()
    config = replace(CONFIG, lr=1e-12, epochs=20, patience=2, model_ema=False)
    progress = trainer(config, kept, Watch()).run()
    assert progress.epoch < 20
    assert progress.epoch == progress.best_epoch + 2
    again = trainer(config, kept, Watch(), kept.states[-1])
    assert again.run().epoch == progress.epoch  # stopped for good


# Top-1 and loss of each epoch's weights, of their average; the best epoch and kind, and the best of
# each kind.
TIES = {
    "the first of equals": ([(0.5, 1.0)] * 3, None, 1, "raw", {"raw": 1}),
    "the least loss": ([(0.9, 4.0), (0.9, 1.0), (0.9, 2.0)], None, 2, "raw", {"raw": 2}),
    "top-1 before loss": ([(0.8, 0.1), (0.9, 4.0), (0.7, 0.0)], None, 2, "raw", {"raw": 2}),
    "the average wins by loss": (
        [(0.9, 2.0), (0.9, 3.0)], [(0.9, 1.5), (0.9, 1.0)], 2, "ema", {"raw": 1, "ema": 2},
    ),
    "the weights win by loss": (
        [(0.9, 2.0), (0.9, 0.5)], [(0.9, 1.5), (0.9, 1.0)], 2, "raw", {"raw": 2, "ema": 2},
    ),
    "of all equal the weights": (
        [(0.9, 2.0)] * 2, [(0.9, 2.0)] * 2, 1, "raw", {"raw": 1, "ema": 1},
    ),
    "a loss that is no number": ([(0.9, math.nan), (0.9, 1.0)], None, 2, "raw", {"raw": 2}),
}  # fmt: skip


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("case", TIES)
def test_of_equally_good_epochs_the_least_loss_is_best(
    case: str, resumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, averaged, epoch, kind, of_kind = TIES[case]
    scores = [row for pair in zip(raw, averaged or raw, strict=True) for row in pair]
    if averaged is None:
        scores = list(raw)
    left = iter(scores)

    def scripted(_run: Trainer, _network: nn.Module) -> Evaluation:
        top1, loss = next(left)
        empty = Meter(CLASSES).result()
        scored = replace(empty.scores, top1=Share(top1, top1, top1), loss=loss)
        return replace(empty, scores=scored)

    monkeypatch.setattr(Trainer, "_validate", scripted)
    monkeypatch.setattr(Trainer, "_train_epoch", lambda _run: None)
    kept = Kept()
    config = replace(CONFIG, epochs=len(raw), model_ema=averaged is not None)
    if resumed:  # after each epoch
        for done in range(1, len(raw) + 1):
            state = kept.states[-1] if kept.states else None
            progress = trainer(replace(config, epochs=done), kept, Watch(), state).run()
    else:
        progress = trainer(config, kept, Watch()).run()
    assert progress.best_epoch == epoch
    assert [row.epoch for row in progress.rows if row.best][-1] == epoch
    assert kept.metrics["best"]["epoch"] == epoch
    assert kept.metrics["best"]["weights"] == kind
    for which, expected in of_kind.items():
        name = f"best_{which}" if averaged is not None else "best"
        assert kept.metrics[name]["epoch"] == expected


def test_more_epochs_go_on_from_the_step() -> None:
    kept = Kept()
    trainer(replace(CONFIG, epochs=1), kept, Watch()).run()
    watch = Watch()
    progress = trainer(replace(CONFIG, epochs=3), kept, watch, kept.states[-1]).run()
    assert progress.epoch == 3
    straight = Watch()
    trainer(CONFIG, Kept(), straight).run()
    assert watch.lrs == straight.lrs[STEPS:]


def test_running_out_of_memory_is_told_with_a_remedy() -> None:
    def full(*_: Any) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 PB")

    run = trainer(CONFIG, Kept(), Watch())
    run.task.network.forward = full  # type: ignore[method-assign]
    with pytest.raises(ResnestError, match=r"memory ran out with 6 photos.*-b 3"):
        run.run()


def test_frozen_modules_stay_as_they_are() -> None:
    from resnest_cli.training.network import freeze

    whole = network(CONFIG)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    frozen = freeze(whole, "stages:2")  # type: ignore[arg-type]
    task = Task(CONFIG, whole, Photos(), Validation(), CLASSES, frozen)
    Trainer(task, Kept(), Watch(), StopRequest(), None).run()
    changed = {
        name.partition(".")[0]
        for name, tensor in whole.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {"layer3", "layer4", "fc"}
