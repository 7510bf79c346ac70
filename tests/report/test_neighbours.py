"""The page of `resnest search` in headless Chromium: pictures, the filter, hostile names."""

from pathlib import Path
from typing import Any

from resnest_cli.report.neighbours import NeighboursPage
from resnest_cli.search.records import Found, Group, Neighbour
from tests.conftest import make_photo
from tests.report.test_pages import browser  # noqa: F401 - a fixture

HOSTILE = "<script>document.title='stolen'<|script>.jpg"


def neighbours(folder: Path, *names: str) -> tuple[Neighbour, ...]:
    return tuple(
        Neighbour(rank, rank + 3, str(folder / name), 1 - rank / 8)
        for rank, name in enumerate(names, start=1)
    )


def test_pictures_filter_and_hostile_names(tmp_path: Path, browser: Any) -> None:  # noqa: F811
    for name in ("cat.png", "dog.png"):
        make_photo(tmp_path / name)
    page = NeighboursPage("Who is like whom?", "queries")
    near = neighbours(tmp_path, "dog.png", HOSTILE)
    page.add(Found(str(tmp_path / "cat.png"), "m", "cosine", neighbours=near))
    page.add(Found("broken.jpg", "m", "cosine", error="is empty (0 bytes)"))
    page.write(tmp_path / "page.html")
    tab, problems = browser.new_page(), list[str]()
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    tab.goto((tmp_path / "page.html").as_uri())
    assert tab.title() == "Who is like whom?"
    assert tab.locator("#count").inner_text() == "2 of 2 queries"
    widths = tab.eval_on_selector_all(".strip img", "nodes => nodes.map(n => n.naturalWidth)")
    assert len(widths) == 2
    assert min(widths) > 0
    assert tab.locator(".none").count() == 1  # the photo that is not there
    assert (tmp_path / "page.html").read_text().count(str(tmp_path)) == 1  # once for all photos
    assert tab.locator(".row h2").first.inner_text() == "cat.png"
    assert tab.locator("strong").all_inner_texts() == ["the query", "0.8750", "0.7500"]
    tab.fill("#search", "BROKEN empty")
    assert tab.locator(".row:not([hidden]) h2").all_inner_texts() == ["broken.jpg"]
    assert tab.locator("#count").inner_text() == "1 of 2 queries"
    for width in (400, 1300):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.close()
    assert problems == []


def test_a_page_has_room_for_so_many_pictures(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "cat.png")
    page = NeighboursPage("Alike", "groups", most=5)
    for number in range(1, 4):
        page.add(Group(number, "euclidean", neighbours(tmp_path, "cat.png", "cat.png")))
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<section") == 2
    assert "1 more are left out here" in text
    assert text.count("data:image/jpeg") == 4
    assert "the query" not in text
    assert photo.exists()
