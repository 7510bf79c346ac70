"""The live line on stderr: drawn in place on a terminal, now and then elsewhere."""

import io
import re
import sys
import threading

import pytest
from rich.console import Console

from resnest_cli import output
from resnest_cli.output import messages
from resnest_cli.output.messages import Bar, Line
from tests.output.test_output import Terminal

LINE = Line("Epoch 3/50", 12, 120, ("loss 1.2345", "12:34 left", "412 photos/s", "lr 0.001"))


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(Bar, "DELAY", 0.0)
    monkeypatch.setattr(Bar, "FRAME", 0.0)
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    return stream


def rendered(line: Line, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system="standard", force_terminal=True)
    with console.capture() as capture:
        console.print(line, end="")
    return re.sub(r"\x1b\[[\d;]*m", "", capture.get())


def test_the_line_fits_every_width() -> None:
    for width in range(10, 140):
        text = rendered(LINE, width)
        assert "\n" not in text
        assert len(text) < width
        assert text.startswith("Epoch 3/50"[: width - 1])
    assert rendered(LINE, 50).endswith("12/120  loss 1.2345  12:34 left")
    assert rendered(LINE, 80).endswith("12/120  loss 1.2345  12:34 left  412 photos/s  lr 0.001")
    assert rendered(LINE, 80).count("━") + rendered(LINE, 80).count("╺") >= 6
    assert len(rendered(LINE, 80)) == 79  # the bar takes what is left
    assert rendered(Line("Checking photos", 1200, None), 80) == "Checking photos 1,200"


def test_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    threads = threading.active_count()
    line = Bar(logged=True)
    line.show(lambda: LINE)
    assert threading.active_count() == threads  # a thread would not survive a fork
    drawn = terminal.getvalue()
    assert "loss 1.2345" in drawn
    assert drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l")  # the cursor is never left hidden
    output.message("a message")
    line.show(lambda: LINE)
    line.clear()
    assert sys.stderr is terminal
    assert "a message\n" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # nothing is left on the line
    line.clear()
    line.show(lambda: LINE)
    line.clear()


def test_what_is_quick_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(Bar, "DELAY", 60.0)
    line = Bar(logged=True)
    line.show(lambda: LINE)
    line.clear()
    assert terminal.getvalue() == ""


def test_a_line_now_and_then_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(messages.time, "monotonic", lambda: now[0])
    line, made = Bar(logged=True), []

    def make() -> Line:
        made.append(now[0])
        return LINE

    for _ in range(700):
        line.show(make)
        now[0] += 0.1
    assert [round(at - 100) for at in made] == [30, 60]
    text = "Epoch 3/50 12/120  loss 1.2345  12:34 left  412 photos/s  lr 0.001\n"
    assert capsys.readouterr().err == 2 * text


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_bar_where_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str]
) -> None:
    terminal = on_terminal(monkeypatch)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Bar, "PLAIN", 0.0)
    Bar(logged=True).show(lambda: LINE)
    assert terminal.getvalue().startswith("Epoch 3/50 12/120  loss")
    assert "\x1b" not in terminal.getvalue()


def test_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    output.set_quiet(True)
    try:
        Bar(logged=True).show(lambda: LINE)
    finally:
        output.set_quiet(False)
    assert terminal.getvalue() == ""


def test_a_bar_is_a_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Title, failures, speed and the time that is left; the first call says where it begins."""
    now = [100.0]
    stream = on_terminal(monkeypatch)
    monkeypatch.setattr(messages.time, "monotonic", lambda: now[0])
    with Bar("Reading") as bar:
        bar(500, 1000)
        now[0] += 10
        bar(600, 1000, failed=3)
        bar(601, 1000, title="Writing")
        now[0] += 10
        bar(621, title="Writing")  # its pace is its own
    text = stream.getvalue()
    assert "3 failed  40 s left  10 photos/s" in text
    assert "Writing 621  2.0 photos/s" in text
    monkeypatch.setattr(sys, "stdout", stream)
    assert not Bar(beside_records=True).wanted  # both would draw on one terminal


def test_off_a_terminal_only_a_logged_bar_says_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    monkeypatch.setattr(Bar, "PLAIN", 0.0)
    for logged in (False, True):
        with Bar("weights", "bytes", logged=logged) as bar:
            bar(1_000_000, 2_000_000)
            bar(1_500_000)
    assert stream.getvalue().splitlines()[0] == "weights 1.0 MB/2.0 MB"
    assert len(stream.getvalue().splitlines()) == 2
