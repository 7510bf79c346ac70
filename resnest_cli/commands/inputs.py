"""What commands over many photos share: checks before anything slow begins, and the page."""

import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resnest_cli import output
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import writing
from resnest_cli.images.sources import EXTENSIONS
from resnest_cli.paths import is_file_url, local_path

if TYPE_CHECKING:
    from resnest_cli.inference.records import Record
    from resnest_cli.report.html import Page


T = TypeVar("T")


def picked(kind: type[T], given: Mapping[str, Any], **other: Any) -> T:
    """A dataclass of options, from a command's arguments of the same names, and from `other`.

    What has a default may be an argument or not.
    """
    names = [
        field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.name not in other and (field.name in given or field.default is MISSING)
    ]
    return kind(**{name: given[name] for name in names}, **other)


def check_inputs(inputs: Iterable[str], from_file: str | None) -> None:
    """Whether anything was named.

    Raises:
        UsageError: nothing was.
    """
    if not any((*inputs, from_file)):
        raise UsageError("name at least one PHOTO, or a list of them with --from-file.")


def check_runner(given: Mapping[str, Any]) -> None:
    """Whether options and file systems that are for Ray alone were given to it alone.

    Raises:
        UsageError: they were not.
    """
    if given["runner"] == "ray":
        return
    for name in ("ray_address", "gpus_per_worker", "concurrency", "path_column"):
        if given[name] is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --runner ray.")
    photos = [text for text in given["photos"] or () if not is_file_url(text)]
    for place in map(str, (*photos, given["output_"])):
        if "://" in place:
            from resnest_cli.cluster.filesystems import is_address

            if is_address(place):
                raise UsageError(f"{place}: file systems such as this one need --runner ray.")


def go_on(command: str) -> str:
    """The command line as it was given, to go on with."""
    given = [word for word in sys.argv[2:] if word not in {"--resume", "--overwrite"}]
    return shlex.join(["resnest", command, "--resume", *given])


def check_not_read(path: Path, read: Iterable[str | None], option: str = "-o") -> None:
    """Whether the file that `option` is to write is none of those that are `read`.

    Raises:
        UsageError: it is one of them.
    """
    for name in filter(None, read):
        other = Path(local_path(name))
        if path.exists() and other.exists() and path.samefile(other):
            raise UsageError(f"{path} is read by this command; give {option} another name.")


def check_written(path: Path, read: Iterable[str | None]) -> None:
    """Whether a text file can be written; `read` are the files that the command reads.

    Raises:
        UsageError: it has the name of a photo, or is one of the files that are read.
        ResnestError: it is a folder, or its own does not exist.
    """
    if path.suffix.lower() in EXTENSIONS:
        raise UsageError(f"{path}: records are text; photos are never written to.")
    check_place(path)
    check_not_read(path, read)


def check_place(path: Path) -> None:
    """Whether a file can stand there.

    Raises:
        ResnestError: it is a folder, or its own does not exist.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ResnestError(f"{path}: cannot be written: {what}.")


class HtmlPage:
    """The page of a run over photos; Pillow and Jinja2 are imported with the first record."""

    def __init__(self, path: Path, title: str, max_pixels: int) -> None:
        self._path, self._title, self._max_pixels = path, title, max_pixels
        self._page: Page | None = None

    def add(self, record: "Record") -> None:
        """One record; its photo is read for a thumbnail."""
        if self._page is None:
            from resnest_cli.report.html import Page

            self._page = Page(self._title, "", max_pixels=self._max_pixels)
        self._page.add(record)

    def write(self, subtitle: str) -> None:
        """Writes the page, and says where.

        Raises:
            ResnestError: it cannot be written.
        """
        assert self._page is not None
        self._page.subtitle = subtitle
        write_page(self._page, self._path)


def write_page(page: "Page", path: Path) -> None:
    """Writes a page, and says where.

    Raises:
        ResnestError: it cannot be written.
    """
    with writing(path):
        page.write(path)
    output.message(f"Page written to {path}.")
