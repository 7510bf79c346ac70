"""The folder of an output: nothing, a run that was begun, or a finished one.

What reads a folder of Parquet passes over names that begin with an underscore.

    OUTPUT/part-*.parquet   rows
           _manifest.json   what decides the content; written when the listing is whole
           _listing/        the inputs
           _attempts/       of workers that are at a part
           _summary.json    written last
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from resnest_cli.cluster.filesystems import joined, names_in, opened, put, read, remove
from resnest_cli.cluster.identity import hash_of
from resnest_cli.cluster.inputs import Input
from resnest_cli.cluster.listing import FOLDER, Listing, parts_of, size_of, write_listing
from resnest_cli.cluster.parts import ATTEMPTS, Parts
from resnest_cli.cluster.rows import PartInfo
from resnest_cli.errors import ResnestError, UsageError, one_line

FORMAT = 1
_OURS = re.compile(
    r"(part-\d{5,}\.(parquet|jsonl)|_manifest\.json|_summary\.json)(\.\w+\.tmp)?|\.lock"
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run was begun with."""

    identity: dict[str, Any]
    listing: Listing
    part_size: int
    skipped: int

    @property
    def hash(self) -> str:
        """What a part must bear to be one of this run."""
        return hash_of(self.identity, self.listing.sha256, self.part_size)


class Target:
    """The folder of one output."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.system, self.folder = opened(output)

    def look(self, *, resume: bool, overwrite: bool) -> Manifest | None:
        """What there is to go on with; None where the run begins.

        Raises:
            UsageError: something is there, and neither `resume` nor `overwrite` says what to do.
            ResnestError: the folder cannot be read, or is of a later version.
        """
        with self._told("read"):
            data = read(self.system, joined(self.folder, "_manifest.json"))
            names = names_in(self.system, self.folder)
        if overwrite or (data is None and not any(n.startswith("part-") for n in names)):
            foreign = [name for name in names if not _OURS.fullmatch(name)]
            if foreign:
                raise UsageError(
                    f"{self.output} holds other files ({foreign[0]}): name a folder of its own."
                )
            return None
        if not resume:
            if "_summary.json" in names:
                raise UsageError(
                    f"{self.output} exists: --overwrite replaces it; give -o another name to keep "
                    "it."
                )
            raise UsageError(
                f"{self.output} holds an unfinished run: --resume goes on with it, --overwrite "
                "starts afresh."
            )
        if data is None:
            raise ResnestError(
                f"{self.output} has parts, but no _manifest.json: --overwrite starts afresh."
            )
        return self._parsed(data)

    def begin(self, manifest: Manifest) -> None:
        """Notes what is begun; the listing is written already.

        Raises:
            ResnestError: it cannot be written.
        """
        told = {"format": FORMAT, **asdict(manifest)}
        with self._told("written"):
            self._put("_manifest.json", told)

    def clear(self) -> None:
        """Makes room for a new run: removes what is ours, what says that it is something first.

        Raises:
            ResnestError: the file system refuses.
        """
        with self._told("written"):
            self.system.create_dir(self.folder, recursive=True)
            names = names_in(self.system, self.folder)
            for name in sorted(names, key=lambda name: name.startswith("part-")):
                if name != ".lock":
                    remove(self.system, joined(self.folder, name))
            for folder in (FOLDER, ATTEMPTS):
                for name in names_in(self.system, joined(self.folder, folder)):
                    remove(self.system, joined(self.folder, folder, name))

    def list_inputs(self, inputs: Iterable[Input], part_size: int) -> Listing:
        """Writes the listing.

        Raises:
            ResnestError: it cannot be written.
        """
        with self._told("written"):
            return write_listing(self.system, self.folder, inputs, part_size)

    def whole_parts(self, manifest: Manifest, suffix: str) -> list[PartInfo]:
        """The parts that are there and whole.

        Raises:
            ResnestError: the folder cannot be read.
        """
        inputs, size = manifest.listing.inputs, manifest.part_size
        sizes = ((n, size_of(n, inputs, size)) for n in range(parts_of(inputs, size)))
        with self._told("read"):
            return list(self._parts(manifest, suffix).whole(sizes))

    def drop(self, parts: Iterable[int], manifest: Manifest, suffix: str) -> None:
        """Removes parts that are to be computed again, and what says that the run is finished.

        Raises:
            ResnestError: the file system refuses.
        """
        found = self._parts(manifest, suffix)
        with self._told("written"):
            for part in parts:
                remove(self.system, joined(self.folder, "_summary.json"))
                remove(self.system, found.path(part))

    def _parts(self, manifest: Manifest, suffix: str) -> Parts:
        return Parts(self.system, self.folder, suffix, manifest.hash)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes `_summary.json`; removes marks of attempts, and files that a kill has cut off.

        Raises:
            ResnestError: it cannot be written.
        """
        with self._told("written"):
            attempts = joined(self.folder, ATTEMPTS)
            for name in names_in(self.system, attempts):
                remove(self.system, joined(attempts, name))
            for name in names_in(self.system, self.folder):
                if name.endswith(".tmp") and _OURS.fullmatch(name):
                    remove(self.system, joined(self.folder, name))
            self._put("_summary.json", summary)

    def summary(self) -> dict[str, Any] | None:
        """What a finished run says."""
        with self._told("read"):
            data = read(self.system, joined(self.folder, "_summary.json"))
        return json.loads(data) if data is not None else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder against another run, where it is on a local file system.

        Raises:
            ResnestError: another run holds it, or it cannot be written.
        """
        with self._told("written"):
            self.system.create_dir(self.folder, recursive=True)
        if self.system.type_name != "local":
            yield
            return
        from filelock import FileLock, Timeout

        lock = FileLock(joined(self.folder, ".lock"), timeout=10.0)
        try:
            lock.acquire()
        except Timeout:
            raise ResnestError(f"{self.output}: another run is writing it.") from None
        try:
            yield
        finally:
            lock.release()

    def _put(self, name: str, content: dict[str, Any]) -> None:
        put(self.system, joined(self.folder, name), json.dumps(content, indent=1).encode() + b"\n")

    def _parsed(self, data: bytes) -> Manifest:
        try:
            told = json.loads(data)
            newer = told.pop("format") > FORMAT
            manifest = Manifest(**(told | {"listing": Listing(**told["listing"])}))
        except (ValueError, KeyError, TypeError) as error:
            raise ResnestError(
                f"{self.output}/_manifest.json cannot be read: {one_line(str(error))}. "
                "--overwrite starts afresh."
            ) from error
        if newer:
            raise ResnestError(f"{self.output} was made by a later version of this program.")
        return manifest

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = one_line(error.strerror or str(error))
            raise ResnestError(f"{self.output}: cannot be {what}: {reason}") from error
