"""Pages that people open: one self-contained file, no network, no external script.

Jinja2 with autoescape on: whatever a file or a class is called stands in the page as text. A
Content-Security-Policy forbids every connection besides. The pages are read in light and dark, on
a phone and by keyboard; sorting and filtering are in `templates/page.js`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli import __version__
from resnest_cli.files import write_text, writing
from resnest_cli.report.thumbnails import Thumbnails, data_uri, jpeg_uri
from resnest_cli.text import percent, printable_name

if TYPE_CHECKING:
    from resnest_cli.inference.ranking import Record

MOST_PHOTOS = 10_000  # in a page; more make it slow to open


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table whose columns can be sorted by; `numbers` are the columns that hold numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a page: what it shows, and all of it as a data URI."""

    title: str
    data: str


@dataclass(slots=True)
class Page:
    """What a page shows; `records` come one by one with `add`.

    `figures` are (name, value, note). At most `most` photos are shown. A `wide` page has room for
    the tiles of a photo.
    """

    title: str
    subtitle: str
    figures: Sequence[tuple[str, str, str]] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[PageTable] = ()
    photos_title: str = "Photos"
    cards: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    left_out: int = 0
    most: int = MOST_PHOTOS
    wide: bool = False
    max_pixels: int | None = None  # of a photo that a thumbnail is made of
    thumbnails: Thumbnails = field(init=False)

    def __post_init__(self) -> None:
        self.thumbnails = Thumbnails(self.max_pixels)

    def add(
        self, record: "Record", truth: str | Sequence[str] | None = None, *, right: bool = False,
        tiles: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """A photo with its ranked classes; or its error. Files are read for a thumbnail.

        `truth` is the name of its true class where that is known, or a list of them where there may
        be several; `right` says whether the answer is the same.
        `tiles` are data URIs of pictures, of the photo and of each of its classes, in place of the
        thumbnail and the bars.
        """
        name = printable_name(record.input)
        error = printable_name(record.error or "")
        if record.error is not None:
            self.errors.append({"input": name, "error": error})
        if len(self.cards) >= self.most:
            self.left_out += 1
            return
        ranked = [
            {"label": printable_name(p.label), "percent": f"{100 * p.probability:.2f}"}
            | {"selected": p.selected}
            for p in record.predictions
        ]
        best = record.predictions[0] if record.predictions else None
        labels = [printable_name(best.label)] if best else []
        if record.several and best:
            labels = [*map(printable_name, record.labels)] or ["no label"]
        true, wrong = "" if truth is None else truth, ""
        if not isinstance(true, str):
            true, wrong = _several(true, record.labels)
        true = printable_name(true)
        no_thumbnail = record.error is not None or tiles
        self.cards.append(
            {
                "input": name,
                "name": name if len(name) <= 60 else "..." + name[-57:],
                "state": _state(record, right if truth is not None else None),
                "labels": labels,
                "several": record.several,
                "truth": true if record.error is None else "",
                "wrong": printable_name(wrong) if record.error is None else "",
                "probability": repr(best.probability) if best else "",
                "text": f"{name} {', '.join(labels)} {true}",
                "ranked": ranked,
                "error": error,
                "thumbnail": None if no_thumbnail else self.thumbnails.of(record.input),
                "tiles": list(tiles),
            }
        )

    def write(self, path: Path) -> None:
        """Writes the page, whole or not at all."""
        self.thumbnails.close()
        # No tool can open a page with half a surrogate; `printable_name` leaves none.
        write_text(path, self._rendered())

    def _rendered(self) -> str:
        more = f"{self.left_out:,} more are left out here, to keep the page quick."
        return rendered(
            "page.html",
            page=self,
            classes=sorted({label for card in self.cards for label in card["labels"]}),
            states=sorted({card["state"] for card in self.cards}),
            left_out=more if self.left_out else "",
        )


def rendered(template: str, **values: Any) -> str:
    """A page of one of our templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("resnest_cli.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True,
    )  # fmt: skip
    environment.filters["printable"] = printable_name
    footer = f"Made by resnest-cli {__version__}."
    return environment.get_template(template).render(**values, footer=footer)


def _several(truth: Sequence[str], given: Sequence[str]) -> tuple[str, str]:
    """The labels of a photo as text, and which are missing in the answer, or too many."""
    parts = [("missing", set(truth) - set(given)), ("too many", set(given) - set(truth))]
    wrong = "; ".join(f"{what}: {', '.join(sorted(which))}" for what, which in parts if which)
    return ", ".join(truth) or "no label", wrong


def _state(record: "Record", right: bool | None) -> str:
    if record.error is not None:
        return "error"
    if right is not None:
        return "right" if right else "wrong"
    return record.verdict or "answered"


def picture_of(title: str, path: Path) -> Picture:
    """A PNG or JPEG file."""
    data = path.read_bytes()
    return Picture(
        title, data_uri("png", data) if path.suffix.lower() == ".png" else jpeg_uri(data)
    )


def rows_of(records: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> list[list[str]]:
    """Cells of these keys, formatted: fractions as percentages, None as a dash."""

    def cell(value: Any) -> str:
        return percent(value) if value is None or isinstance(value, float) else str(value)

    return [[cell(record[key]) for key in keys] for record in records]


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes text files by name into a folder, which is made; each whole or not at all."""
    with writing(folder):
        folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        with writing(folder / name):
            write_text(folder / name, text)
