"""Fonts: who draws what, and what is done about names that none draws."""

from pathlib import Path

import matplotlib as mpl
import pytest

from resnest_cli.report import canvas

SERIF = str(Path(mpl.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf"))


def test_other_fonts_come_in_only_where_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_dejavu: None
) -> None:
    (own,) = canvas._candidates()
    more = sorted(canvas._characters(SERIF) - canvas._characters(own[1]))
    only_there = next(chr(code) for code in more if chr(code).isprintable())
    others = [own, ("Broken", __file__), ("STIXGeneral", SERIF), ("Other", SERIF)]
    monkeypatch.setattr(canvas, "_candidates", lambda: others)
    assert canvas.fonts_for(["cat", "кот"]) == canvas.Fonts()
    name = f"{only_there} cat"
    fonts = canvas.fonts_for(["cat", name, "\ue123"])  # the last is escaped in any case
    assert fonts.families == ("DejaVu Sans", "STIXGeneral")
    assert fonts.draw(name)
    assert fonts.escaped(name) == name
    assert fonts.width("aa", 20) == pytest.approx(2 * fonts.width("a", 20), abs=2)
    assert fonts.width(only_there, 20) > 2
    with canvas.figure(tmp_path / "a.png", 200, 50, fonts) as figure:  # and nothing warns
        canvas.text_at(figure, 5, 5, name, 10)


def test_characters_that_no_font_draws_are_escaped(only_dejavu: None) -> None:
    fonts = canvas.fonts_for(["狗"])
    assert not fonts.draw("a 狗")
    assert fonts.draw("a\x00")  # shown as the four letters \x00
    assert fonts.escaped("a狗b\x00") == "a\\u72d7b\\x00"


def test_lines_break_at_spaces() -> None:
    fonts = canvas.Fonts()
    text = "one two three four five six seven eight nine ten " + "x" * 40
    lines = fonts.lines(text, 120, 16)
    assert " ".join(lines) == text
    assert all(fonts.width(line, 16) <= 120 for line in lines[:-1])
    assert len(lines) > 3


def test_fonts_of_this_machine_leave_out_those_that_draw_boxes() -> None:
    families = [family for family, _ in canvas._candidates()]
    assert families[0] == "DejaVu Sans"
    assert not [family for family in families if "Last" in family]
