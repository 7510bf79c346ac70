"""Pages that people open: one self-contained file, no network, no external script.

Jinja2 with autoescape on: whatever a file or a class is called stands in the page as text. A
Content-Security-Policy forbids every connection besides. The pages are read in light and dark, on
a phone and by keyboard; sorting and filtering are in `templates/page.js`.
"""

import heapq
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli import __version__
from resnest_cli.files import write_text, writing
from resnest_cli.report.thumbnails import Thumbnails, data_uri, jpeg_uri
from resnest_cli.text import common_folder, count, joined, printable_name, short_name

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.inference.ranking import Record

MOST_PHOTOS = 2_000  # in a page: 14 MB
_NAMED = 5  # classes in the summary
_WIDE = 1500  # pixels of a picture that has a row of the page for itself: else nobody can read it
# What a person looks for first. What could not be read has a table of its own.
_LOOKED_AT = ("wrong", "unknown", "unsure", "answered", "right", "error")


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table whose columns can be sorted by; `numbers` are the columns that hold numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a page: what it shows, and all of it as a data URI; `wide`: in a row alone."""

    title: str
    data: str
    wide: bool = False


@dataclass(slots=True)
class Page:
    """What a page shows; `records` come one by one with `add`.

    `figures` are (name, value, note), `model` is the network and its settings in a line. At most
    `most` photos are shown, those that a person looks for first: mistakes, the surest first, then
    what is unknown, unsure, or least sure. A `wide` page has room for the tiles of a photo.
    """

    title: str
    subtitle: str
    figures: Sequence[tuple[str, str, str]] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[PageTable] = ()
    photos_title: str = "Photos"
    model: str = ""
    errors: list[dict[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # of all photos, by state
    labels: Counter[str] = field(default_factory=Counter)  # of all answers
    most: int = MOST_PHOTOS
    wide: bool = False
    max_pixels: int | None = None  # of a photo that a thumbnail is made of
    sorted_into: Path | None = None  # where photos are that an earlier run has moved
    _cards: list[tuple[tuple[float, ...], dict[str, Any]]] = field(default_factory=list)  # a heap
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
        state = _state(record, right if truth is not None else None)
        place = self.counts.total()
        self.counts[state] += 1
        if state not in {"unknown", "unsure"}:  # those have no answer
            self.labels.update(_labels(record))
        if state == "error" and len(self.errors) < self.most:
            error = printable_name(record.error or "")
            self.errors.append({"input": printable_name(record.input), "error": error})
        probability = record.predictions[0].probability if record.predictions else 0.0
        sureness = -probability if state == "wrong" else probability
        # The smallest key, which is the first to go, belongs to what is looked at last.
        key = (-_LOOKED_AT.index(state), -sureness, -place)
        if len(self._cards) < self.most:
            heapq.heappush(self._cards, (key, self._card(record, state, truth, place, tiles)))
        elif key > self._cards[0][0]:
            heapq.heapreplace(self._cards, (key, self._card(record, state, truth, place, tiles)))

    def _card(
        self,
        record: "Record",
        state: str,
        truth: str | Sequence[str] | None,
        place: int,
        tiles: Sequence[str],
    ) -> dict[str, Any]:
        true, wrong = "" if truth is None else truth, ""
        if not isinstance(true, str):
            true, wrong = _several(true, record.labels)
        no_thumbnail = record.error is not None or tiles
        return {
            "input": printable_name(record.input),
            "state": state,
            "place": place,
            "labels": _labels(record),
            "several": record.several,
            "truth": printable_name(true) if record.error is None else "",
            "wrong": printable_name(wrong) if record.error is None else "",
            "probability": repr(record.predictions[0].probability) if record.predictions else "",
            "ranked": [
                {"label": printable_name(p.label), "percent": f"{100 * p.probability:.2f}"}
                | {"selected": p.selected}
                for p in record.predictions
            ],
            "error": printable_name(record.error or ""),
            "thumbnail": None if no_thumbnail else self.thumbnails.of(self._place(record)),
            "tiles": list(tiles),
        }

    def _place(self, record: "Record") -> str:
        """Where the photo of a record is now."""
        if not record.sorted_to or self.sorted_into is None or os.path.lexists(record.input):
            return record.input
        return str(self.sorted_into / record.sorted_to[0])

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The photos that are shown, in order."""
        return [card for _, card in sorted(self._cards, key=lambda pair: pair[0], reverse=True)]

    def summary(self) -> str:
        """How many photos there are of which classes, how many are unsure or failed."""
        photos = count(self.counts.total(), "photo")
        named = [f"{number:,} {label}" for label, number in self.labels.most_common(_NAMED)]
        if rest := max(0, len(self.labels) - _NAMED):
            named.append(count(rest, "other class", "other classes"))
        doubts = [
            f"{self.counts[state]:,} {word}"
            for state, word in (
                ("unknown", "unknown"), ("unsure", "unsure"), ("error", "could not be read")
            )
            if self.counts[state]
        ]  # fmt: skip
        return "; ".join([f"{photos}: {joined(named)}" if named else photos, *doubts]) + "."

    def write(self, path: Path) -> None:
        """Writes the page, whole or not at all."""
        self.thumbnails.close()
        # No tool can open a page with half a surrogate; `printable_name` leaves none.
        write_text(path, self._rendered())

    def _rendered(self) -> str:
        cards, total = self.cards, self.counts.total()
        folder = common_folder([one["input"] for one in (*cards, *self.errors)])
        for card in cards:
            card["short"] = name = card["input"][len(folder) :]
            card["name"] = name if len(name) <= 60 else f"...{name[-57:]}"
            card["text"] = f"{name} {', '.join(card['labels'])} {card['truth']}"
        more = ""
        if len(cards) < total:
            more = (
                f"Of {total:,} photos the {len(cards):,} are shown that need a look most; the "
                "records have all of them."
            )
        return rendered(
            "page.html",
            page=self,
            tables=[
                replace(one, rows=[[cell.removeprefix(folder) for cell in row] for row in one.rows])
                for one in self.tables
            ],
            cards=cards,
            folder=folder,
            classes=sorted(Counter(label for card in cards for label in card["labels"]).items()),
            states=sorted({card["state"] for card in cards}),
            left_out=more,
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


def _labels(record: "Record") -> list[str]:
    """What a photo is said to be: one class, or those of several that are selected."""
    if not record.predictions:
        return []
    chosen = record.labels if record.several else (record.predictions[0].label,)
    return [*map(printable_name, chosen)] or ["no label"]


def model_line(classifier: "Classifier") -> str:
    """A network and how photos are fed to it: resnest50d, 1,000 classes; 224 x 224 pixels, ..."""
    model, fed, how = classifier.model, classifier.preprocessing, classifier.preparation
    warmed = f", temperature {model.temperature:.3g}" if model.temperature != 1 else ""
    return (
        f"{short_name(model.name)}, {count(model.num_classes, 'class', 'classes')}{warmed}; "
        f"{fed.size} x {fed.size} pixels, crop {fed.crop_pct:g} ({how.crop_mode}), "
        f"{fed.interpolation}"
    )


def _state(record: "Record", right: bool | None) -> str:
    if record.error is not None:
        return "error"
    if right is not None:
        return "right" if right else "wrong"
    return record.verdict or "answered"


def picture_of(title: str, path: Path) -> Picture:
    """A PNG or JPEG file."""
    from PIL import Image

    data = path.read_bytes()
    with Image.open(path) as image:
        wide = image.width > _WIDE
    png = path.suffix.lower() == ".png"
    return Picture(title, data_uri("png", data) if png else jpeg_uri(data), wide)


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes text files by name into a folder, which is made; each whole or not at all."""
    with writing(folder):
        folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        with writing(folder / name):
            write_text(folder / name, text)
