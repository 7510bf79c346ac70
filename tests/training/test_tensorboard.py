"""TensorBoard's event files, and the error where the package is missing."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli.errors import MissingPackageError
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.tensorboard import check_tensorboard, logged
from tests.training.test_loop import CONFIG, STEPS, Kept, KilledError, Watch, trainer

LOGGED = replace(CONFIG, epochs=2, tensorboard=True)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_steps_and_epochs_are_logged_and_a_resumed_run_has_each_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)

    def kill(step: int) -> None:
        if step == 6:
            raise KilledError

    kept, watch = Kept(), Watch(kill)
    with pytest.raises(KilledError), logged(watch, run, True, 0) as display:
        trainer(LOGGED, kept, display).run()  # type: ignore[arg-type]
    state = kept.states[-1]
    again = Watch()
    with logged(again, run, True, state.record.step) as display:
        trainer(LOGGED, kept, display, state).run()  # type: ignore[arg-type]
    losses = scalars(tmp_path, "step/loss")
    assert [step for step, _ in losses] == list(range(1, 2 * STEPS + 1))
    expected = watch.losses[:STEPS] + again.losses
    assert [value for _, value in losses] == pytest.approx(expected, rel=1e-6)
    assert scalars(tmp_path, "step/lr")[0][1] == pytest.approx(watch.lrs[0])
    assert scalars(tmp_path, "accuracy/top1") == [
        (row.step, pytest.approx(row.top1)) for row in kept.rows
    ]


def test_without_the_option_there_is_nothing(tmp_path: Path) -> None:
    watch = Watch()
    with logged(watch, RunFolder(tmp_path), False, 0) as display:
        assert display is watch
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tensorboard(LOGGED)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    check_tensorboard(CONFIG)
    with pytest.raises(MissingPackageError, match="pip install tensorboard"):
        check_tensorboard(LOGGED)
