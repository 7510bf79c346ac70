"""A page of photos beside those that are like them: for `resnest search`.

Self-contained like all pages, see `pages`; the thumbnails are of the local files that are there.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnest_cli.files import write_text
from resnest_cli.report.pages import MOST_PHOTOS, rendered
from resnest_cli.report.thumbnails import Thumbnails
from resnest_cli.text import common_folder, printable_name, score


@dataclass(frozen=True, slots=True)
class Tile:
    """One photo: its name, what is said of it, and its thumbnail if there is one."""

    name: str
    caption: str
    picture: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """A query with its neighbours, or a group; or an error in place of the tiles."""

    title: str
    tiles: tuple[Tile, ...]
    error: str = ""


@dataclass(slots=True)
class NeighboursPage:
    """Rows of photos, which come one by one; `noun` says what a row is about.

    At most `most` pictures are shown.
    """

    title: str
    noun: str
    subtitle: str = ""
    max_pixels: int | None = None  # of a photo that a thumbnail is made of
    most: int = MOST_PHOTOS
    rows: list[Row] = field(default_factory=list)
    left_out: int = 0
    _pictures: int = 0
    _made: dict[str, str | None] = field(default_factory=dict)
    _thumbnails: Thumbnails = field(init=False)

    def __post_init__(self) -> None:
        self._thumbnails = Thumbnails(self.max_pixels)

    def add(self, record: Any) -> None:
        """A query with its neighbours, or a group; local files are read for thumbnails."""
        photos = [(one.input, score(record.metric, one.score)) for one in record.neighbours]
        if self.noun == "queries" and record.error is None:
            photos.insert(0, (record.input, "the query"))
        if self._pictures + len(photos) > self.most:
            self.left_out += 1
            return
        self._pictures += max(1, len(photos))
        tiles = tuple(
            Tile(printable_name(name), caption, self._thumbnail(name)) for name, caption in photos
        )
        error = printable_name(record.error or "")
        self.rows.append(Row(printable_name(record.input), tiles, error))

    def _thumbnail(self, name: str) -> str | None:
        if name not in self._made:
            self._made[name] = self._thumbnails.of(name)
        return self._made[name]

    def write(self, path: Path) -> None:
        """Writes the page, whole or not at all."""
        self._thumbnails.close()
        more = f"{self.left_out:,} more are left out here, to keep the page quick."
        folder = common_folder([tile.name for row in self.rows for tile in row.tiles])
        text = rendered(
            "neighbours.html", page=self, folder=folder, left_out=more if self.left_out else ""
        )
        write_text(path, text)
