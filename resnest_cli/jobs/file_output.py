"""An output that is files: feats.npy, with feats.csv, feats.json and feats.stat beside it.

What is there under its name: nothing, an unfinished run's parts, or a finished output, which may be
retried, updated, or only checked.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli import output
from resnest_cli.errors import ResnestError, UsageError, need
from resnest_cli.files import locked
from resnest_cli.images.sources import SourceStats
from resnest_cli.jobs.assemble import (
    FileParts,
    check_others,
    from_parts,
    outputs,
    retried,
    updated,
)
from resnest_cli.jobs.formats import SUFFIXES, EntriesByNumber, read_entries, read_info
from resnest_cli.jobs.job import Job, Report, check_same, refused, without
from resnest_cli.jobs.listing import Input, Mark, side_by_side
from resnest_cli.jobs.parts import Info, Manifest, PartInfo
from resnest_cli.jobs.update import Plan, Prune
from resnest_cli.paths import check_place

if TYPE_CHECKING:
    from resnest_cli.jobs.compute import Result


class FileOutput(FileParts):
    """The files of one output, and the folder of parts beside them; see `run`."""

    def __init__(self, job: Job) -> None:
        super().__init__(Path(job.output))
        self._job = job
        self._done = 0  # inputs of whole parts
        self._published = False  # a killed run had done all but the last renaming
        self._retrying = False
        self.retry_again = False  # inputs had failed before this start, in a run that goes on

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds all files of the output, and the folder of parts, which goes if it has no use."""
        with held(self.target):
            yield

    def look(self, *, resume: bool, overwrite: bool) -> Manifest | None:
        """What there is to go on with; finishes the renaming that a kill has interrupted."""
        begun, whole = None, False
        unread = [ResnestError] if overwrite else []  # what is replaced need not be readable
        with suppress(*unread):
            begun = self.read_manifest()
            whole = begun is not None and self.assembled["whole"]
        if whole and (overwrite or resume):
            if begun and begun.kind == "merge" and not overwrite:
                raise self._unfinished_merge()
            with self.writing(str(self.target)):
                self.rename()
            begun, self._published = None, True
        existing = [path for path in outputs(self.target) if path.exists()]
        if overwrite or (begun is None and not existing):
            check_others(self.target)
            return None
        if not resume:
            raise self._refused(begun, existing)
        if begun is None:
            # Whoever made the output may have been killed while it removed the parts.
            names = self.file_names()
            self._published |= any(name.startswith(("part-", "_assembled")) for name in names)
            return _finished(read_info(self.target))
        if begun.kind == "merge":
            raise self._unfinished_merge()
        return begun

    def _refused(self, begun: Manifest | None, existing: list[Path]) -> UsageError:
        if begun is None:
            return refused(existing[0], unfinished=False)
        if self.assembled["whole"]:
            return refused(self.beside, unfinished=True)
        done = sum(part.inputs for part in self.whole_parts(begun))
        return refused(self.beside, unfinished=True, done=f" ({done:,} inputs are done)")

    def _unfinished_merge(self) -> UsageError:
        return UsageError(f"{self.beside} holds an unfinished merge: run `resnest merge` again.")

    def names(self, manifest: Manifest) -> Iterator[str]:
        """The names of the inputs that it was begun with."""
        if manifest.kind == "run" and not manifest.finished:
            return super().names(manifest)
        info = read_info(self.target)
        if manifest.kind != "update":
            return (line.name for line in read_entries(self.target, info, rows=False))
        return self._names_of_update(info, super().names(manifest))

    def _names_of_update(self, info: Info, computed: Iterator[str]) -> Iterator[str]:
        with EntriesByNumber(self.target, info, None) as old:
            yield from Plan(self.beside).listed(old, computed)

    def retry(
        self, manifest: Manifest, identity: dict[str, Any], inputs: Iterator[Input]
    ) -> Manifest:
        """Begins with the failed ones of a finished output's `inputs`; an unfinished one goes on.

        Raises:
            UsageError: it was made with another engine, or by another version, or the inputs have
                changed by now.
        """
        if not manifest.finished:
            self._retrying = manifest.kind != "retry"
            return manifest
        info = read_info(self.target)
        if not info["counts"]["failed"]:
            return manifest
        check_same(self._job.output, *(without(one, "class_names") for one in
                                       (manifest.identity, identity)))  # fmt: skip
        lines = read_entries(self.target, info, rows=False)
        both = side_by_side(self._job.output, inputs, lines, lambda line: line.name)
        failed = (item for item, line in both if line.error is not None)
        count = self.write_listing(failed, manifest.part_size)
        begun = replace(manifest, identity=identity, inputs=count, finished=False, kind="retry")
        self.begin(begun)
        return begun

    def update(
        self,
        identity: dict[str, Any],
        inputs: Callable[[SourceStats], Iterator[Input]],
        size: int,
        *,
        prune: Prune | None,
    ) -> Manifest:
        """Begins with what is new or changed since an output was finished, and says how much.

        A finished manifest comes back where nothing is to be done.
        """
        info, plan = read_info(self.target), Plan(self.beside)
        self.clear()
        with self.writing(str(self.target)):
            plan.make(
                self.target, info, inputs, lambda found: self.write_inputs(found, size), prune=prune
            )
        if plan.undated:
            output.message(
                f"An earlier version, which noted no sizes and times, made {plan.undated:,} entries"
                f" of {self.target}: such photos count as changed if modified after that."
            )
        output.message(f"{self.target}: {plan}.")
        if plan.changes_nothing:
            return _finished(info)
        begun = Manifest(identity, plan.listing, size, plan.skipped, plan.computed, kind="update")
        self.begin(begun)
        return begun

    def whole_parts(self, manifest: Manifest) -> list[PartInfo]:
        """The parts that are there."""
        found = super().whole_parts(manifest)
        self._done = sum(part.inputs for part in found)
        self.retry_again = self._retrying and any(part.failed for part in found)
        return found

    def commit(self, part: int, results: "Sequence[Result]") -> PartInfo:
        """Writes a part, whole or not at all."""
        done = super().commit(part, results)
        self._done += done.inputs
        return done

    def kept(self) -> str:
        """What is done, and how to go on."""
        if self._manifest is None:
            return ""
        return (
            f"{self._done:,} inputs are done and kept in {self.beside}. Go on with:\n"
            f"  {self._job.go_on}"
        )

    def finish(self, manifest: Manifest, report: Report) -> dict[str, Any]:
        """Makes the files of the output, unless they are there; returns `feats.json`."""
        report.damaged = self.damaged
        if manifest.finished:
            report.finished_before = not self._published
            return read_info(self.target)
        failed = sum(report.failures.values())
        with self.writing(str(self.target)):
            if manifest.kind == "run":
                return from_parts(self, failed)
            if manifest.kind == "retry":
                return retried(self, read_info(self.target), failed)
            return updated(self, read_info(self.target))


def _finished(info: dict[str, Any]) -> Manifest:
    """What a finished output was begun with, as far as that matters."""
    identity, inputs = without(info, "list", "counts"), info["counts"]["inputs"]
    return Manifest(identity, Mark(**info["list"]), 0, 0, inputs, finished=True)


def check_name(target: Path) -> None:
    """Whether an output can have this name, before the work begins.

    Raises:
        UsageError: another extension than those of SUFFIXES.
        ResnestError: it is a folder, there is no folder for it, or its library is missing.
    """
    if target.suffix not in SUFFIXES:
        raise UsageError(f"{target}: the extension says the format: use {', '.join(SUFFIXES)}.")
    for path in (target, *outputs(target)):
        check_place(path)
    if target.suffix == ".parquet":
        need("pyarrow", str(target))


@contextmanager
def held(target: Path) -> Iterator[None]:
    """Holds all files of an output, and makes its folder of parts, which goes if it has no use."""
    parts = FileParts(target)
    with locked(*outputs(target)):
        with parts.writing(str(target)):
            parts.beside.mkdir(exist_ok=True)
        try:
            yield
        finally:
            begun = ("_manifest.json", "state.json")
            if not any((parts.beside / name).exists() for name in begun):
                with suppress(OSError, ResnestError):
                    parts.clear()
                    parts.beside.rmdir()
