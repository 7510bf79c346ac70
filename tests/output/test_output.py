"""Records on stdout, messages on stderr: what each of them looks like."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from resnest_cli import output
from resnest_cli.errors import ResnestError
from resnest_cli.inference.ranking import Prediction, Record
from resnest_cli.output.messages import decorated
from resnest_cli.output.sink import stdout_console

GOOD = Record(
    "dog.jpg", "m", predictions=(Prediction(1, 7, "dog", 0.75), Prediction(2, 3, "cat", 0.25))
)
BAD = Record("bad.jpg", "m", error="is empty (0 bytes)")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_quiet_drops_messages_but_not_errors(capsys: pytest.CaptureFixture[str]) -> None:
    output.set_quiet(True)
    output.message("psst")
    output.error("broken")
    output.set_quiet(False)
    output.message("hello")
    assert capsys.readouterr().err == "error: broken\nhello\n"


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert decorated(terminal)
    output.error("red")
    assert "\x1b[" in terminal.getvalue()
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    assert not decorated(terminal)
    monkeypatch.setattr(sys, "stderr", plain := Terminal())
    output.error("plain")
    with output.DownloadBar()("file") as bar:
        bar(0, 10)
    assert "\x1b[" not in plain.getvalue()


def write(format_: output.Format, records: list[Record], path: Path, **options: bool) -> str:
    flags = {"single": False, "many": False} | options
    writer = output.record_writer(format_, path, topk=2, **flags)
    for record in records:
        writer.write(record)
    writer.close()
    return path.read_text(encoding="utf-8")


def test_json_documents(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert json.loads(write("json", [], path)) == []
    assert json.loads(write("json", [GOOD, BAD], path)) == [GOOD.as_dict(), BAD.as_dict()]
    assert json.loads(write("json", [BAD], path, single=True)) == BAD.as_dict()
    lines = write("jsonl", [GOOD, BAD], path).splitlines()
    assert [json.loads(line) for line in lines] == [GOOD.as_dict(), BAD.as_dict()]


def test_csv_gives_names_their_own_bytes_back(tmp_path: Path) -> None:
    path = tmp_path / "out"
    writer = output.record_writer("csv", path, topk=1, single=False, many=False)
    writer.write(Record("caf\udce9.jpg", "m", error="x"))
    writer.close()
    assert path.read_bytes().splitlines()[1].startswith(b"caf\xe9.jpg,error,x,m,,,")


def test_names_act_neither_in_rows_nor_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [Record(f"{name}.jpg", "m", error="\x1b[2J") for name in ("a\rb", "=1+1", "\x1b[31m")]
    write("csv", odd, tmp_path / "out")
    text = (tmp_path / "out").read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[0] for row in rows] == ["input", "a\rb.jpg", "'=1+1.jpg", "\x1b[31m.jpg"]
    for format_ in ("csv", "json", "jsonl", "table"):
        terminal = Terminal()
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr(sys, "stdout", terminal)
        writer = output.record_writer(format_, None, topk=1, single=False, many=False)
        for record in odd:
            writer.write(record)
        writer.close()
        assert "\x1b[31m" not in terminal.getvalue()
        assert "\x1b[2J" not in terminal.getvalue()
        assert "\r" not in terminal.getvalue()


def test_tables_in_files_have_no_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    for many in (False, True):
        text = write("table", [GOOD, BAD], tmp_path / "out", many=many)
        assert "\x1b" not in text
        assert "dog" in text
        assert "75.00%" in text
        assert "is empty (0 bytes)" in text


def test_compact_lines_keep_the_end_of_long_names(tmp_path: Path) -> None:
    long = Record("x" * 200 + "/狗/the-end.jpg", "m", predictions=GOOD.predictions)
    lines = write("table", [GOOD, long], tmp_path / "out", many=True).splitlines()
    assert "/the-end.jpg" in lines[3]
    assert lines[3].startswith("...")
    assert lines[3].index("dog") == lines[2].index("dog", 10) - 1  # a wide character counts twice


def test_narrow_lines_say_what_they_cut(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    writer = output.record_writer("table", None, topk=1, single=False, many=True)
    for label in ("golden retriever", "Rhodesian ridgeback", "狗" * 20, "dog"):
        writer.write(Record("a/1.jpg", "m", predictions=(Prediction(1, 7, label, 0.75),)))
    lines = capfd.readouterr().out.splitlines()[2:]
    found = [line[21:36].rstrip() for line in lines[:2]]
    assert found == ["golden retri...", "Rhodesian ri..."]
    assert "狗" * 6 + "..." in lines[2]
    assert "dog  " in lines[3]
    assert all(cell_len(line) <= 50 and line.endswith("75.00%") for line in lines)


def test_a_file_that_cannot_be_created(tmp_path: Path) -> None:
    for bad in (tmp_path / "no" / "file", tmp_path):
        with pytest.raises(ResnestError, match="cannot be written"):
            output.Sink(bad).write("text")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device(capfd: pytest.CaptureFixture[str]) -> None:
    sink = output.Sink(Path("/dev/full"))
    with pytest.raises(ResnestError, match="No space left"):
        sink.write("text\n")


def test_progress_appears_only_in_long_runs_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with output.Bar(beside_records=True) as quick:
        quick(1, 10)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(output.Bar, "DELAY", 0.0)
    monkeypatch.setattr(output.Bar, "FRAME", 0.0)
    with output.Bar(beside_records=True) as slow:
        slow(3, 10, failed=1)
        slow(4, 10, failed=1)
    assert "4/10" in terminal.getvalue()
    assert "1 failed" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    with output.Bar(beside_records=True) as hidden:
        hidden(4, 10, failed=1)
    assert pipe.getvalue() == ""


def test_download_bar_on_a_terminal_and_off_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(output.Bar, "FRAME", 0.0)
    display = output.DownloadBar()
    with display("weights.pth") as bar:
        bar(100, 1000)
        bar(500, 1000)
    assert "weights.pth" in terminal.getvalue()
    assert "0.5 kB/1.0 kB" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    with display("weights.pth") as bar:
        bar(0, 110_000_000)
        bar(5, 110_000_000)
    assert pipe.getvalue() == "Downloading weights.pth (110 MB)\n"


def test_width_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stdout_console().width == 100
    monkeypatch.setenv("COLUMNS", "70")
    assert stdout_console().width == 70
    assert stdout_console(to_file=True).width == 100


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0  # noqa: PTH208
    for _ in range(5):
        with output.Sink(tmp_path / "out") as sink:
            sink.write("x")
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0  # noqa: PTH208
    assert after == before
