"""The page of `resnest check`: photos with something wrong, to look at, and a list to copy.

Sections by kind; in each the worst issues, the photo beside its partner. A checkbox puts an issue's
row into a box with the lines of an issues.csv, for `--exclude`. Thumbnails are small: a page of
500 issues has less than 5 MB. What filters and copies is `templates/issues.js`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from resnest_cli.files import write_text
from resnest_cli.report.pages import PageTable, rendered
from resnest_cli.report.thumbnails import Thumbnails
from resnest_cli.text import printable_name

MOST_OF_A_KIND = 60  # issues that are shown
_SIDE, _QUALITY = 144, 60  # pixels and JPEG quality of thumbnails: about 3 kB each


@dataclass(frozen=True, slots=True)
class PhotoTile:
    """A photo in a card: what it is called, below that its class, and where its file lies."""

    name: str
    caption: str
    path: str

    @property
    def thumbnail(self) -> str | None:
        """A data URI; None where the photo cannot be read."""
        return _thumbnail(self.path)


@dataclass(frozen=True, slots=True)
class IssueCard:
    """One issue: its photo and perhaps another, what was seen, and its rows of issues.csv.

    `labels` are the photo's. `row` has no line break at its end; "" where it cannot stand in a
    page.
    """

    photo: PhotoTile
    partner: PhotoTile | None
    labels: Sequence[str]
    side: str
    text: str
    row: str

    @property
    def words(self) -> str:
        """What the search looks through."""
        names = (
            self.photo.name,
            self.partner.name if self.partner else "",
            *self.labels,
            self.text,
        )
        return printable_name(" ".join(names))

    @property
    def classes(self) -> str:
        """The labels as JSON, for the filter."""
        return json.dumps([printable_name(label) for label in self.labels])


@dataclass(frozen=True, slots=True)
class IssueSection:
    """The issues of one kind, worst first; `total` counts those that are not shown, too."""

    kind: str
    title: str
    cards: Sequence[IssueCard]
    total: int


@dataclass(slots=True)
class IssuesPage:
    """All of it; `figures` are (name, value, note), `header` is the first line of issues.csv."""

    title: str
    subtitle: str
    header: str
    figures: Sequence[tuple[str, str, str]]
    sections: list[IssueSection] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)
    notes: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Writes the page, whole or not at all."""
        cards = [card for section in self.sections for card in section.cards]
        _thumbnail.cache_clear()
        text = rendered(
            "issues.html",
            page=self,
            shown=len(cards),
            classes=sorted({printable_name(label) for card in cards for label in card.labels}),
            sides=sorted({card.side for card in cards if card.side}),
        )
        _thumbnail.cache_clear()
        write_text(path, text)


@cache
def _thumbnail(path: str) -> str | None:
    return Thumbnails(side=_SIDE, quality=_QUALITY).of(path)
