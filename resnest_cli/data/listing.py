"""The photos of a data set as they were listed, before any is opened, and how to read it."""

from dataclasses import dataclass, field
from typing import Literal

from resnest_cli.errors import UsageError
from resnest_cli.options import setting

Side = Literal["train", "val", "test"]
SIDES: tuple[Side, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Listed:
    """A photo as it was listed: where it lies, its name in the data, its label, its side if any."""

    path: str
    name: str
    label: str
    side: Side | None


@dataclass(slots=True)
class Listing:
    """All photos, and what was seen on the way. `own_split`: the data say which side validates."""

    photos: list[Listed]
    own_split: bool
    empty: list[str] = field(default_factory=list)  # class folders without a photo
    notes: list[str] = field(default_factory=list)

    def side(self, side: Side) -> list[Listed]:
        """The photos of one side."""
        return [photo for photo in self.photos if photo.side == side]


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a data set, where it cannot say so itself; None is found out.

    `split_names` are the data's own names of train, val and test, with commas between them, or
    "none": no split. Of a table: the columns of paths, labels and splits, the folder that its paths
    are relative to, and the extension of names that have none.
    """

    split_names: str | None = setting(
        None,
        "Unusual names of the splits, as folders or in a column; none: all folders are classes.",
        "TRAIN,VAL[,TEST]",
    )
    path_column: str | None = setting(
        None, "Of a table: the column of paths, where its name is not a usual one.", "NAME"
    )
    label_column: str | None = setting(None, "Of a table: the column of labels, likewise.", "NAME")
    split_column: str | None = setting(
        None, "Of a table: the column of train, val and test, likewise.", "NAME"
    )
    base_folder: str | None = setting(
        None, "Of a table: the folder with the photos; the table's own, unless said.", "DIR"
    )
    extension: str | None = setting(
        None, "Of a table: what paths without an extension lack, such as .jpg.", "EXT"
    )

    def check_no_table(self, data: str, what: str) -> None:
        """Tells settings of tables that go with data of another kind, such as "a folder".

        Raises:
            UsageError: names the first.
        """
        for name in ("path_column", "label_column", "split_column", "base_folder", "extension"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for a table of photos (CSV, JSON lines, "
                    f"Parquet), and {data} is {what}."
                )


AS_FOUND = Reading()
