"""Fonts: who draws what, and what is done about names that none draws."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest

from resnest_cli.report import fonts

SERIF = str(Path(mpl.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf"))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    fonts._faces.cache_clear()
    yield
    fonts._faces.cache_clear()


def test_other_fonts_come_in_only_where_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    stix = fonts._characters(SERIF)
    more = sorted(stix - fonts._dejavu().characters)
    only_there = next(chr(code) for code in more if chr(code).isprintable())
    asked: list[str] = []

    def candidates() -> list[tuple[str, str]]:
        asked.append("candidates")
        return [("Broken", __file__), ("STIXGeneral", SERIF), ("Other", SERIF)]

    monkeypatch.setattr(fonts, "_candidates", candidates)
    assert [face.family for face in fonts.faces_for(["cat", "кот"])] == ["DejaVu Sans"]
    assert not asked
    faces = fonts.faces_for(["cat", f"{only_there} cat", "\ue123"])
    assert [face.family for face in faces] == ["DejaVu Sans", "STIXGeneral"]
    assert fonts.drawable(f"{only_there} cat", faces)
    pieces = [(piece, face.family) for piece, face in fonts.runs(f"a{only_there}", faces)]
    assert pieces == [("a", "DejaVu Sans"), (only_there, "STIXGeneral")]
    assert fonts.width("aa", 20, faces) == pytest.approx(2 * fonts.width("a", 20, faces), abs=2)


def test_characters_that_no_font_draws_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_candidates", list)
    faces = fonts.faces_for(["狗"])
    assert not fonts.drawable("a 狗", faces)
    assert fonts.drawable("a\x00", faces)  # shown as the four letters \x00
    assert list(fonts.runs("a狗b", faces)) == [("a\\u72d7b", faces[0])]


@pytest.mark.parametrize(
    ("name", "short"),
    [("cat", "cat"), ("x" * 10, "x" * 10), ("0123456789ab", "01234…89ab"), ("a\nb", "a\\nb")],
)
def test_shortened(name: str, short: str) -> None:
    assert fonts.shortened(name, 10) == short


def test_fonts_of_this_machine_leave_out_those_that_draw_boxes() -> None:
    families = [family for family, _ in fonts._candidates()]
    assert "DejaVu Sans" in families
    assert not [family for family in families if "Last Resort" in family]
