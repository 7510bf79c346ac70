"""A signal is asked once and answered between two steps; a second one is not waited for."""

import contextlib
import signal
import time

import pytest

from resnest_cli import signals
from resnest_cli.errors import EngineError
from resnest_cli.model.onnx_file import needed
from resnest_cli.signals import PatientStop, StoppedError, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_check_answers(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.check()
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)  # changes nothing while the work is saved
        if number is signal.SIGTERM:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal is signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(StoppedError, match="interrupted by SIG") as told:
            stop.check()
        assert told.value.exit_code == stop.exit_code > 128
    assert signal.getsignal(number) is before


def test_before_there_is_anything_to_finish_a_signal_ends_at_once() -> None:
    with pytest.raises(StoppedError, match="interrupted by SIGTERM") as told, PatientStop():
        signal.raise_signal(signal.SIGTERM)
    assert told.value.exit_code == 143


def test_patience_ends_and_a_second_signal_is_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PATIENCE", 0.05)
    alarm = signal.getsignal(signal.SIGALRM)
    with PatientStop() as stop:
        stop.patient = True
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(StoppedError, match="SIGTERM"):
            time.sleep(5)
    assert signal.getsignal(signal.SIGALRM) is alarm
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_wins_over_what_an_import_makes_of_it(number: signal.Signals) -> None:
    with pytest.raises(EngineError, match="onnx cannot be loaded: damaged"), needed("onnx"):
        raise ImportError("damaged")

    def imported() -> None:
        with contextlib.suppress(StoppedError):  # as code in C does
            signal.raise_signal(number)
        raise ImportError("initialization failed")

    with pytest.raises(StoppedError) as told, PatientStop(), needed("onnx"):
        imported()
    assert told.value.exit_code == 128 + number
    with pytest.raises(EngineError, match="damaged"), needed("onnx"):  # that is over
        raise ImportError("damaged")
