"""Bars over many photos, and what is said after Ctrl-C: what there is, and how to go on."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnest_cli.commands.inputs import counted_ahead, show_records
from resnest_cli.images.sources import SourceStats
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.ranking import Record
from resnest_cli.options import RunOptions
from resnest_cli.output.messages import Bar
from tests.conftest import Cli, make_photo
from tests.output.test_output import Terminal
from tests.processes import wait_for


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "data" / "0").mkdir(parents=True)
    for place in range(5):
        make_photo(tmp_path / "data" / "0" / f"{place}.png", seed=place)
    return tmp_path / "data"


@pytest.mark.parametrize("to_file", [True, False])
def test_a_bar_where_records_go_to_a_file(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path, to_file: bool
) -> None:
    """Records that scroll by on the terminal are the progress themselves."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(Bar, "DELAY", 0.0)
    monkeypatch.setattr(Bar, "FRAME", 0.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    total = counted_ahead(RunOptions(inputs=[str(photos)]))
    wait_for(lambda: total() == 5)
    found = (Record(f"{place}.png", "m") for place in range(5))
    target = tmp_path / "x.csv" if to_file else None
    show_records(found, total, lambda _: None, lambda: None, SourceStats(), target)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert ("4/5" in drawn and "━" in drawn) == to_file


def interrupt_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C after so many answers."""
    answers = Classifier.answers

    def some(*args: object, **how: object) -> Iterator[object]:
        for place, one in enumerate(answers(*args, **how)):  # type: ignore[arg-type]
            if place == number:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(Classifier, "answers", some)


def test_predict_and_evaluate(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    interrupt_after(monkeypatch, 3)
    records, page = tmp_path / "x.json", tmp_path / "page.html"
    ended = cli("predict", photos, "-m", tiny_checkpoint, "-o", records, "--html", page)
    assert ended.code == 130
    assert f"interrupted by SIGINT: the 3 records are in {records}. {page} was not" in ended.err
    assert "FILE.parquet goes on with --resume" in ended.err
    assert records.read_text().count('"status": "ok"') == 3
    assert records.read_text().endswith("\n]\n")  # the document is whole
    assert not page.exists()
    ended = cli("evaluate", photos, "-m", tiny_checkpoint, "-o", tmp_path / "eval")
    assert ended.code == 130
    assert "3 photos had been judged" in ended.err
    assert not (tmp_path / "eval").exists()
    interrupt_after(monkeypatch, 0)
    ended = cli("predict", photos, "-m", tiny_checkpoint)
    assert (ended.code, "interrupted" in ended.err) == (130, False)  # there is nothing to tell


def test_explain(cli: Cli, monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path) -> None:
    from resnest_cli.explanation.explainer import Explainer

    explained = Explainer.explained

    def some(self: Explainer, index: int, *rest: object) -> object:
        if index == 1:
            raise KeyboardInterrupt
        return explained(self, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Explainer, "explained", some)
    ended = cli("explain", photos, "-m", "demo", "-o", tmp_path / "heat")
    assert ended.code == 130
    assert "the record is written. So are their pictures, in" in ended.err
    assert len(list((tmp_path / "heat").iterdir())) == 1
