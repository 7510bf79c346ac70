"""Pages in headless Chromium: filters, sorting, keyboard, both colour schemes; hostile names."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.inference.ranking import Prediction, Record
from resnest_cli.report.pages import MOST_PHOTOS, Page, PageTable, picture_of
from resnest_cli.report.thumbnails import jpeg_uri
from tests.conftest import make_photo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
HOSTILE = "<script>document.title='stolen'<|script>.jpg"


def answered(name: str, label: str, probability: float) -> Record:
    rest = Prediction(2, 9, "other & <b>more</b>", 1 - probability)
    return Record(name, "m", predictions=(Prediction(1, 1, label, probability), rest))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("html")


@pytest.fixture(scope="module")
def page_file(folder: Path) -> Path:
    """Four photos, one of them unreadable, one with a hostile name; right and wrong answers."""
    page = Page("Who is who?", "three and a half", figures=[("top-1", "66.67%", "95%")])
    for place, (name, label, probability, truth) in enumerate(
        (("2.jpg", "cat", 0.9, "cat"), (HOSTILE, "dog", 0.4, "cat"), ("10.jpg", "dog", 0.75, "dog"))
    ):
        path = folder / name
        make_photo(folder / "photo.jpg", (90, 60), seed=place)
        shutil.copy(folder / "photo.jpg", path)
        page.add(answered(str(path), label, probability), truth, right=label == truth)
    page.add(Record("broken <i>.jpg", "m", error="is empty (0 bytes)"), "cat")
    rows = [["cat", "9", "50.00%"], ["dog", "1,000", "-"], ["ant", "20", "7.50%"]]
    page.tables = [PageTable("Classes", ["Class", "Photos", "Recall"], rows, frozenset({1, 2}))]
    make_photo(folder / "curve.png", (1500, 900))
    page.pictures = [picture_of("A wide picture", folder / "curve.png")]
    page.write(folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    tab = browser.new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    tab.on("request", lambda request: _only_this(request.url, problems))
    tab.goto(page_file.as_uri())
    yield tab
    tab.close()
    assert problems == []


def _only_this(url: str, problems: list[str]) -> None:
    if not url.startswith(("file:", "data:")):
        problems.append(f"asked for {url}")


def names(tab: Any) -> list[str]:
    # What lies below the screen is not laid out, and has no inner text.
    found = tab.locator(".card:not([hidden]) figcaption").all_text_contents()
    return [text.rpartition("/")[2] for text in found]


def test_everything_is_shown(opened: Any) -> None:
    assert len(names(opened)) == 4
    assert opened.locator("#count").inner_text() == "4 of 4 photos"
    assert opened.locator(".card.right").count() == 2
    assert "it is cat" in opened.locator(".card.wrong").inner_text()
    widths = opened.eval_on_selector_all(".card img", "nodes => nodes.map(n => n.naturalWidth)")
    assert widths
    assert min(widths) > 0
    errors = opened.locator("section", has_text="could not be read").locator("td")
    assert errors.all_inner_texts() == ["broken <i>.jpg", "is empty (0 bytes)"]


def test_a_picture_opens_in_full_size_and_closes_by_keyboard(opened: Any) -> None:
    small = opened.get_by_role("button", name="A wide picture")
    small.focus()
    opened.keyboard.press("Enter")
    large = opened.locator("#zoomed img")
    assert large.evaluate("node => [node.clientWidth, node.naturalWidth]") == [1500, 1500]
    assert small.locator("img").evaluate("node => node.clientWidth") < 1500
    opened.keyboard.press("Escape")
    assert not opened.locator("#zoomed").is_visible()


def test_a_hostile_name_is_text(opened: Any) -> None:
    assert opened.title() == "Who is who?"
    assert opened.locator("figcaption b, figcaption script, .label b").count() == 0
    assert opened.locator(f'figcaption[title*="{HOSTILE[:8]}"]').count() == 1


@pytest.mark.parametrize(
    ("selector", "value", "left"),
    [
        ("#search", "10.jpg dog", ["10.jpg"]),
        ("#search", "nothing", []),
        ("#class", "cat", ["2.jpg"]),
        ("#state", "wrong", [HOSTILE]),
        ("#state", "error", ["broken <i>.jpg"]),
        ("#low", "80", ["2.jpg"]),
        ("#high", "50", [HOSTILE]),
    ],
)
def test_filters(opened: Any, selector: str, value: str, left: list[str]) -> None:
    field = opened.locator(selector)
    if field.evaluate("node => node.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)
    assert names(opened) == left
    assert opened.locator("#count").inner_text() == f"{len(left)} of 4 photos"


def test_sorting(opened: Any) -> None:
    opened.locator("#sort").select_option("up")
    assert names(opened) == [HOSTILE, "10.jpg", "2.jpg", "broken <i>.jpg"]
    opened.locator("#sort").select_option("down")
    assert names(opened)[:3] == ["2.jpg", "10.jpg", HOSTILE]
    opened.locator("#sort").select_option("look")
    assert names(opened) == [HOSTILE, "10.jpg", "2.jpg", "broken <i>.jpg"]
    opened.locator("#sort").select_option("place")
    assert names(opened) == ["2.jpg", HOSTILE, "10.jpg", "broken <i>.jpg"]


def test_tables_sort_by_click_and_by_key(opened: Any) -> None:
    def column(index: int) -> list[str]:
        cells = opened.locator(f"table.sortable td:nth-child({index})")
        return list(cells.all_inner_texts())

    opened.get_by_role("button", name="Photos").click()
    assert column(2) == ["9", "20", "1,000"]
    assert opened.locator("th[aria-sort=ascending]").inner_text().startswith("Photos")
    opened.get_by_role("button", name="Photos").press("Enter")
    assert column(2) == ["1,000", "20", "9"]
    opened.get_by_role("button", name="Recall").click()
    assert column(3) == ["7.50%", "50.00%", "-"]
    opened.get_by_role("button", name="Class").click()
    assert column(1) == ["ant", "cat", "dog"]


def test_by_keyboard_alone(opened: Any) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    opened.keyboard.press("Enter")
    for _ in range(30):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.id") == "search":
            break
    opened.keyboard.type("jpg")
    while "card" not in opened.evaluate("document.activeElement.className"):
        opened.keyboard.press("Tab")
    first = opened.evaluate("document.activeElement.dataset.look")
    opened.keyboard.press("ArrowRight")
    second = opened.evaluate("document.activeElement.dataset.look")
    assert (first, second) == ("0", "1")
    opened.keyboard.press("ArrowLeft")
    assert opened.evaluate("document.activeElement.dataset.look") == "0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_fits_and_can_be_read(opened: Any, scheme: str, width: int) -> None:
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    colours = opened.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    ink, paper = (sum(map(int, text[4:-1].split(","))) for text in colours)
    assert (ink > paper) == (scheme == "dark")
    assert abs(ink - paper) > 500


def test_a_wide_picture_has_a_row_and_no_table_has_the_common_folder(tmp_path: Path) -> None:
    page = Page("t", "", tables=[PageTable("Worst", ["Photo"], [["http://a/b/1.jpg"]])])
    for number in (1, 2):
        page.add(answered(f"http://a/b/{number}.jpg", "cat", 0.5))
    for name, width in (("wide.png", 1600), ("small.png", 1400)):
        make_photo(tmp_path / name, (width, 20))
    page.pictures = [picture_of(name, tmp_path / name) for name in ("wide.png", "small.png")]
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (text.count('class="picture wide"'), text.count('class="picture"')) == (1, 1)
    assert "<td>1.jpg</td>" in text


def test_five_thousand_photos_open(browser: Any, folder: Path) -> None:
    page = Page("Many", "", most=5_000)
    for index in range(5_000):
        page.add(answered(f"http://host/{index}.jpg", "cat", 0.5))
    page.write(folder / "many.html")
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    tab.goto(folder.joinpath("many.html").as_uri())
    assert tab.locator("#count").inner_text() == "5,000 of 5,000 photos, the first 60 shown"
    assert tab.locator(".card:not([hidden])").count() == 60
    assert tab.evaluate("document.documentElement.scrollHeight") < 8_000
    tab.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    tab.wait_for_function("document.querySelectorAll('.card:not([hidden])').length >= 120")
    tab.locator("#search").fill("4998.jpg")
    assert names(tab) == ["4998.jpg"]
    assert not tab.locator("#more").is_visible()
    # As list items ten thousand cards took a minute to filter, as blocks a tenth of a second.
    assert tab.locator(".card").first.evaluate("node => getComputedStyle(node).display") != (
        "list-item"
    )
    tab.close()


@pytest.mark.parametrize("width", [360, 1400])
def test_tiles_fit_and_can_be_filtered(browser: Any, folder: Path, width: int) -> None:
    page = Page("Heat", "", wide=True, most=2)
    tiles = [jpeg_uri(make_photo(folder / "tile.jpg", (288, 288)).read_bytes())] * 3
    for name, label in (("1.jpg", "cat"), ("2.jpg", "a dog of a very long name"), ("3.jpg", "x")):
        page.add(answered(name, label, 0.5), tiles=tiles)
    page.write(folder / "heat.html")
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(folder.joinpath("heat.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator(".card").count() == 2  # of at most so many
    assert "Of 3 photos the 2 are shown" in tab.locator("main").inner_text()
    first = tab.locator(".card").first
    captions = first.locator("figcaption").all_inner_texts()
    assert [text.split("\n")[0] for text in captions] == ["the photo", "cat", "other & <b>more</b>"]
    boxes = [one.bounding_box() for one in first.locator("img").all()]
    assert all(box["width"] == pytest.approx(box["height"], abs=1) for box in boxes)
    assert all(130 < box["width"] <= 320 for box in boxes)
    assert len({box["y"] for box in boxes}) == (1 if width > 1000 else 2)
    tab.locator("#class").select_option("cat")
    assert tab.locator(".card:visible").count() == 1
    tab.close()


def test_a_page_has_an_end(folder: Path) -> None:
    page = Page("Too many", "")
    for index in range(MOST_PHOTOS + 3):
        page.add(answered(f"http://host/{index}.jpg", "cat", 0.5))
    assert len(page.cards) == MOST_PHOTOS
    page.write(folder / "long.html")
    text = (folder / "long.html").read_text(encoding="utf-8")
    assert f"Of {MOST_PHOTOS + 3:,} photos the {MOST_PHOTOS:,} are shown that need a look" in text


def test_what_needs_a_look_comes_first_and_stays() -> None:
    """Of more photos than a page shows; the counts are of all."""
    records = [
        answered("a/1.jpg", "cat", 0.9),
        Record("a/2.jpg", "m", error="is empty (0 bytes)"),
        answered("a/3.jpg", "dog", 0.6),
        replace(answered("a/4.jpg", "dog", 0.8), unsure=True),
        replace(answered("a/5.jpg", "cat", 0.95), unknown=True, unsure=True),
        answered("a/6.jpg", "ant", 0.99),
    ]
    for most in (6, 4):
        page = Page("", "", most=most)
        for record in records:
            page.add(record)
        found = [card["input"][2] for card in page.cards]
        assert found == ["5", "4", "3", "1", "6", "2"][:most]
        assert page.summary() == (
            "6 photos: 1 cat, 1 dog and 1 ant; 1 unknown; 1 unsure; 1 could not be read."
        )
    judged = Page("", "", most=3)
    for name, probability, right in (("1", 0.9, True), ("2", 0.5, False), ("3", 0.8, False)):
        judged.add(answered(name, "cat", probability), "cat", right=right)
    assert [card["input"] for card in judged.cards] == ["3", "2", "1"]


def test_a_common_folder_stands_once(tmp_path: Path) -> None:
    page = Page("", "")
    page.add(answered("/data/photos/a/1.jpg", "cat", 0.5))
    page.add(answered("/data/photos/b/1.jpg", "cat", 0.5))
    page.add(Record("/data/photos/bad.jpg", "m", error="is empty (0 bytes)"))
    page.write(tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert text.count("/data/photos") == 1
    assert "<td>bad.jpg</td>" in text
    assert '<figcaption title="a/1.jpg">a/1.jpg</figcaption>' in text


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    page = Page("Odd \udce9", "")
    page.add(answered("caf\udce9.jpg", "cat\udce9", 0.5))
    page.write(tmp_path / "odd.html")
    assert (tmp_path / "odd.html").read_text(encoding="utf-8")


def test_the_script_is_valid() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on this machine")
    script = Path(__file__).parents[2] / "resnest_cli" / "report" / "templates" / "page.js"
    subprocess.run([node, "--check", str(script)], check=True)
