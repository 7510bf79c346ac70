"""The page of `resnest check` in headless Chromium: filters, checkboxes, the list; size, names."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.report.issues_page import IssueCard, IssueSection, IssuesPage, PhotoTile
from resnest_cli.report.pages import PageTable
from tests.conftest import make_photo
from tests.report.test_pages import HOSTILE, browser, opened

__all__ = ["browser", "opened"]  # fixtures

PHOTOS = Path(__file__).parents[1] / "data"
HEADER = "path,kind,score,partner,suggestion,detail"


def card(
    path: Path, label: str, row: str, partner: Path | None = None, side: str = ""
) -> IssueCard:
    other = None if partner is None else PhotoTile(partner.name, "dog", str(partner))
    labels = label.split(" + ")
    return IssueCard(PhotoTile(path.name, label, str(path)), other, labels, side, "20% dog", row)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("issues")
    photo = make_photo(folder / "1.jpg", (90, 60))
    second = make_photo(folder / "2.jpg", (90, 60), seed=1)
    hostile = Path(shutil.copy(photo, folder / HOSTILE))
    labels = [
        card(photo, "cat", '1.jpg,label,0.9,,dog,"80% dog, 1% cat"', second, "train"),
        card(hostile, "<i>ant</i>", f'"{HOSTILE}",label,0.8,,dog,', None, "val"),
        card(second, "cat + dog's", "", None, "train"),
    ]
    files = [card(folder / "gone.jpg", "cat", "gone.jpg,unreadable,1,,,is empty", None, "train")]
    page = IssuesPage("data/: what is wrong", "4 photos", HEADER, [("Labels", "3", "")])
    page.sections = [
        IssueSection("unreadable", "cannot be read", files, 1),
        IssueSection("label", "the class looks wrong", labels, 70),
    ]
    page.tables = [PageTable("Classes", ["Class", "What"], [["<b>cat</b>", "few"]])]
    page.write(folder / "page.html")
    return folder / "page.html"


def lines(tab: Any) -> str:
    return str(tab.locator("#lines").input_value())


@pytest.mark.parametrize(
    ("selector", "value", "count"),
    [
        ("#kind", "label", 3),
        ("#class", "<i>ant</i>", 1),
        ("#class", "cat", 3),
        ("#class", "dog's", 1),  # one of several labels
        ("#side", "train", 3),
        ("#search", "1.JPG ant", 0),
        ("#search", "2.jpg cat", 2),
    ],
)
def test_filters(opened: Any, selector: str, value: str, count: int) -> None:
    field = opened.locator(selector)
    if field.evaluate("node => node.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)
    assert opened.locator(".card:not([hidden])").count() == count
    assert opened.locator("#count").inner_text() == f"{count} of 4 issues on this page"
    empty = {"label": "unreadable"}.get(value, "")
    if empty:
        assert opened.locator(f"section[data-kind={empty}]").is_hidden()


def test_checked_issues_are_rows_of_issues_csv(opened: Any) -> None:
    assert lines(opened) == ""
    boxes = opened.locator(".pick input")
    assert boxes.count() == 3  # one has a name that no page can hold
    boxes.nth(1).check()
    assert lines(opened) == f'{HEADER}\n1.jpg,label,0.9,,dog,"80% dog, 1% cat"\n'
    assert opened.locator("#checked").inner_text() == "1"
    opened.locator("#only").check()
    assert opened.locator(".card:not([hidden])").count() == 1
    opened.locator("#only").uncheck()
    opened.locator("#kind").select_option("label")
    opened.locator("#all").click()
    assert lines(opened).count("\n") == 3
    assert f'"{HOSTILE}",label,0.8,,dog,\n' in lines(opened)
    opened.locator("#none").click()
    assert lines(opened) == ""
    opened.locator("#kind").select_option("")
    opened.locator("#all").click()
    opened.locator("#copy").click()
    assert opened.locator("#copied").inner_text() in {"copied", "press Ctrl-C"}
    assert opened.evaluate("getSelection().toString()") == lines(opened)


def test_what_is_shown(opened: Any) -> None:
    assert opened.locator(".card img").count() == 4
    assert opened.locator(".card .none").count() == 1  # of a file that is not there
    text = opened.locator("main").inner_text()
    assert "The 3 worst of 70; issues.csv has all of them." in text
    assert "<i>ant</i>" in text
    assert "<b>cat</b>" in text
    assert opened.title() == "data/: what is wrong"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_fits_and_can_be_read(opened: Any, scheme: str, width: int) -> None:
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = (
        sum(map(int, opened.evaluate(f"getComputedStyle(document.body).{name}")[4:-1].split(",")))
        for name in ("color", "backgroundColor")
    )
    assert (ink > paper) == (scheme == "dark")


def test_five_hundred_issues_stay_below_5_mb(tmp_path: Path) -> None:
    photos = [PHOTOS / "cat.jpg", PHOTOS / "coffee.jpg"]
    cards = [
        card(photos[n % 2], "cat", f"some/folder/{n}.jpg,label,0.5,,dog,", photos[1 - n % 2])
        for n in range(500)
    ]
    page = IssuesPage("many", "", HEADER, [])
    page.sections = [IssueSection("label", "the class looks wrong", cards, 500)]
    page.write(tmp_path / "page.html")
    assert 500_000 < (tmp_path / "page.html").stat().st_size < 5_000_000


def test_a_page_without_issues(tmp_path: Path, browser: Any) -> None:
    IssuesPage("clean", "", HEADER, [], notes=["Nothing was found."]).write(tmp_path / "page.html")
    tab = browser.new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto((tmp_path / "page.html").as_uri())
    assert "Nothing was found." in tab.locator("main").inner_text()
    assert problems == []
    tab.close()
