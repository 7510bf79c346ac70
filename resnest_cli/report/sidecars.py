"""Records -> keywords in XMP sidecars beside the photos; see `images.xmp`.

A sidecar is written whole, and only if something in it changes. One that cannot be understood or
written is left as it is; the run goes on and ends with the list of those.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import atomic_file, reading, writing
from resnest_cli.images.archives import split
from resnest_cli.images.xmp import (
    DAMAGE,
    Keywords,
    SidecarName,
    begun,
    merged,
    packet_in,
    photo_of,
    sidecar,
)
from resnest_cli.inference.ranking import Record
from resnest_cli.options import XmpOptions
from resnest_cli.paths import is_http
from resnest_cli.text import count, one_line, printable_name

LEAST = 0.5  # more than all other classes together
_MOST_BYTES = 2**27  # of a sidecar: darktable's, with many masks, have a few MB
_KEPT = "It is left as it is: repair it, or move it away."


@dataclass(slots=True)
class Sidecars:
    """Writes the sidecar of each photo; counts those that changed, and those that failed.

    `failures` are messages about the first `most` of these. Keywords are classes that are at least
    as probable as `least`; where there may be several, those that are selected.
    """

    name: SidecarName
    parent: str
    least: float
    most: int = 10
    changed: int = 0
    failed: int = 0
    shadowed: int = 0  # photos with a sidecar of the other name, too
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, options: XmpOptions, inputs: Iterable[str], *, all_shown: bool) -> Self:
        """Where the sidecars of these inputs go, and what is written into them.

        With `all_shown` every class of a record; else those that are likely.

        Raises:
            UsageError: the options do not go together, or an input lies in no folder.
        """
        if not options.xmp:
            raise UsageError("--xmp-name and --xmp-parent go with --xmp.")
        for name in inputs:
            if name == "-" or is_http(name):
                raise UsageError(f"{name}: --xmp writes files beside photos; save this one first.")
            if split(name) is not None:
                raise UsageError(f"{name}: --xmp writes files beside photos; unpack these first.")
        parents = [one_line(name) for name in (options.xmp_parent or "").split("|")]
        if options.xmp_parent is not None and not all(parents):
            raise UsageError(
                f'--xmp-parent {options.xmp_parent}: give keywords, such as AI or "AI|animals".'
            )
        least = 0.0 if all_shown else LEAST
        return cls(options.xmp_name or "x.jpg.xmp", "|".join(parents), least)

    def written(self, records: Iterable[Record]) -> Iterator[Record]:
        """Passes records on, each once the sidecar of its photo is written."""
        for record in records:
            self.add(record)
            yield record

    def add(self, record: Record) -> None:
        """Takes one answer; of a photo that could not be read the sidecar stays as it is."""
        if record.error is not None:
            return
        try:
            self._add(record)
        except ResnestError as error:
            self.failed += 1
            self.failures += [str(error)] if self.failed <= self.most else []

    def _add(self, record: Record) -> None:
        if not os.path.isfile(record.input):  # noqa: PTH113 - never raises
            raise ResnestError(
                f"{record.input}: is no file of its own on this machine; an XMP file lies beside "
                "one. Save the photo in a folder first."
            )
        path = sidecar(record.input, self.name)
        keywords = self._keywords(record)
        old = _read(path)
        with reading(record.input, damage=(ValueError,)):  # it is empty by now
            new = old or (begun(packet_in(record.input)) if keywords.labels else b"")
        with reading(path, damage=DAMAGE, then=_KEPT):
            if old and keywords.photo:
                _check_owner(path, old, Path(record.input))
            new = merged(new, keywords) if new else b""
        if new != old:
            _write(path, new, replaces=old != b"")
            self.changed += 1
        other = sidecar(record.input, "x.xmp" if self.name == "x.jpg.xmp" else "x.jpg.xmp")
        self.shadowed += new != b"" and other.is_file()

    def _keywords(self, record: Record) -> Keywords:
        shown = () if record.verdict else record.predictions
        kept = [
            one for one in shown
            if (one.selected if record.several else one.probability >= self.least)
        ]  # fmt: skip
        photo = Path(record.input).name if self.name == "x.xmp" else ""
        labels, shares = [one.label for one in kept], [one.probability for one in kept]
        model = Path(record.model).name
        return Keywords(tuple(labels), tuple(shares), model, self.parent, photo)

    def summary(self) -> list[str]:
        """What was done: a line each."""
        lines = [f"Keywords: {count(self.changed, 'XMP file')} written or changed."]
        if self.shadowed:
            other = "x.xmp" if self.name == "x.jpg.xmp" else "x.jpg.xmp"
            photos = count(self.shadowed, "photo has", "photos have")
            lines.append(
                f"{photos} an XMP file of the other name, too, and programs read one of them: "
                f"--xmp-name {other} writes into that one."
            )
        return lines

    def complaint(self) -> str:
        """Which sidecars could not be written, and why."""
        more = self.failed - len(self.failures)
        about = [*map(printable_name, self.failures), *([f"and {more:,} more"] if more else [])]
        return "\n  ".join([f"{count(self.failed, 'XMP file')} could not be written:", *about])


def _read(path: Path) -> bytes:
    """The bytes of a sidecar; none where there is no such file."""
    if not os.path.lexists(path):
        return b""
    with reading(path, then=_KEPT):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _MOST_BYTES:
            what = "it is empty" if status.st_size == 0 else "it is no file of a sidecar's size"
            raise OSError(what)
        return path.read_bytes()


def _check_owner(path: Path, data: bytes, photo: Path) -> None:
    """Raises ResnestError where dog.xmp holds what was said of another dog that is still there."""
    other = photo.with_name(Path(photo_of(data)).name or photo.name)
    if other.is_file() and not other.samefile(photo):
        raise ResnestError(
            f"{path}: holds the keywords of {other.name}, and cannot hold those of {photo.name}, "
            "too. --xmp-name x.jpg.xmp gives each photo a file of its own."
        )


def _write(path: Path, data: bytes, *, replaces: bool) -> None:
    """Puts a sidecar into its place, whole; a link stays one, and the file's mode stays."""
    real = Path(os.path.realpath(path))
    with writing(path), atomic_file(real) as file:
        file.write(data)
        if replaces:
            with suppress(OSError):  # a file system without modes
                Path(file.name).chmod(stat.S_IMODE(real.stat().st_mode))
