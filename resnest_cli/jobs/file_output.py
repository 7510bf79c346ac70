"""An output that is files: feats.npy, with feats.csv, feats.json and feats.stat beside it.

What is there under its name: nothing, an unfinished run's parts, or a finished output, which may be
retried, updated, or only checked.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resnest_cli import output
from resnest_cli.errors import ResnestError, UsageError, cannot_write
from resnest_cli.files import locked, reading, writing
from resnest_cli.images.sources import SourceStats
from resnest_cli.jobs.assemble import from_parts, retried, updated
from resnest_cli.jobs.formats import SUFFIXES, read_info, read_lines, read_stats
from resnest_cli.jobs.job import Item, Job, Report, check_same, refused, without
from resnest_cli.jobs.listing import Input, Listing, Mark
from resnest_cli.jobs.parts import Store, check_others, discard, outputs, publish
from resnest_cli.jobs.run import Manifest, PartInfo
from resnest_cli.jobs.update import Plan
from resnest_cli.paths import check_place


class FileOutput:
    """The files of one output, and the folder of parts beside them; see `run.Output`."""

    def __init__(self, job: Job) -> None:
        self._job, self.target = job, Path(job.output)
        self._store: Store | None = None
        self._published = False  # a killed run had done all but the last renaming
        self._damaged = 0  # inputs that are computed again
        self.retry_again = False  # inputs had failed before this start, in a run that goes on

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds all files of the output, and the folder of parts, which goes if it has no use."""
        with held(self.target):
            yield

    def look(self, *, resume: bool, overwrite: bool) -> Manifest | None:
        """What there is to go on with; finishes the renaming that a kill has interrupted."""
        target = self.target
        self._store = self._left() if overwrite else Store.load(target)
        if self._store is not None and self._store.published and (overwrite or resume):
            if self._store.kind == "merge" and not overwrite:
                raise _unfinished_merge(self._store)
            with writing(target):
                publish(self._store, target)
            self._store, self._published = None, True
        store = self._store
        existing = [path for path in outputs(target) if path.exists()]
        if overwrite or (store is None and not existing):
            check_others(target)
            return None
        if not resume and store is not None:
            done = f" ({store.inputs:,} inputs are done)"
            raise refused(store.folder, unfinished=True, done=done)
        if not resume:
            raise refused(existing[0], unfinished=False)
        if store is None:
            # Whoever made the output may have been killed while it removed the parts.
            self._published |= any(Store.folder_of(target).glob("[0-9]*"))
            return _finished(read_info(target))
        if store.kind == "merge":
            raise _unfinished_merge(store)
        with writing(store.folder):
            self._damaged = store.repair()
            store.tidy()
        return store.manifest

    def _left(self) -> Store | None:
        """What is replaced: only what its renaming has to be finished of."""
        with suppress(ResnestError):
            return Store.load(self.target)
        return None

    def names(self, manifest: Manifest) -> Iterator[str]:  # noqa: ARG002 - of the protocol
        """The names of the inputs that it was begun with."""
        store = self._store
        if store is not None and store.kind == "run":
            return (item.name for item in store.listing)
        known = read_lines(self.target.with_suffix(".csv"), header=True)
        if store is not None and store.kind == "update":
            return Plan(store.folder).listed(known, store.listing)
        return (line.name for line in known)

    def write_listing(self, inputs: Iterator[Input], part_size: int) -> int:
        """Makes room for a new run, and writes its inputs down."""
        folder = Store.folder_of(self.target)
        with self._writing():
            discard(folder)
            folder.mkdir(exist_ok=True)
            return Listing(folder).write(inputs, part_size)

    def clear(self) -> None:
        """Removes the listing."""
        discard(Store.folder_of(self.target))

    def begin(self, manifest: Manifest) -> None:
        """Notes what is begun."""
        with self._writing():
            self._store = Store.create(self.target, "run", manifest)

    def retry(
        self, manifest: Manifest, identity: dict[str, Any], inputs: Iterator[Input]
    ) -> Manifest:
        """Begins with the failed ones of a finished output's `inputs`; an unfinished one goes on.

        Raises:
            UsageError: it was made with another engine, or by another version.
        """
        if not manifest.finished:
            store = self._store
            assert store is not None
            self.retry_again = store.kind != "retry" and store.inputs > store.rows
            return manifest
        info = read_info(self.target)
        if not info["counts"]["failed"]:
            return manifest
        check_same(self._job.output, *(without(one, "class_names") for one in
                                       (manifest.identity, identity)))  # fmt: skip
        lines = read_lines(self.target.with_suffix(".csv"), header=True)
        failed = (i for i, line in zip(inputs, lines, strict=True) if line.error is not None)
        count = self.write_listing(failed, manifest.part_size)
        begun = replace(manifest, identity=identity, inputs=count, finished=False)
        with self._writing():
            self._store = Store.create(self.target, "retry", begun)
        return begun

    def update(
        self,
        manifest: Manifest,
        identity: dict[str, Any],
        inputs: Callable[[SourceStats], Iterator[Input]],
        *,
        prune: bool,
    ) -> Manifest:
        """Begins with what is new or changed since an output was finished, and says how much.

        The same manifest comes back where nothing is to be done.
        """
        info, folder = read_info(self.target), Store.folder_of(self.target)
        plan = Plan(folder)
        with self._writing():
            discard(folder)
            folder.mkdir(exist_ok=True)
            try:
                plan.make(self.target, info, inputs, manifest.part_size, prune=prune)
            except ResnestError:
                discard(folder)
                raise
        if next(read_stats(self.target, info["counts"]["inputs"]), None) is None:
            output.message(
                f"{self.target} was made by an earlier version, which noted no sizes and times: "
                f"photos count as changed if they were modified after it was written."
            )
        output.message(f"{self.target}: {plan}.")
        if plan.changes_nothing:
            discard(folder)
            return manifest
        begun = Manifest(identity, plan.listing, manifest.part_size, plan.skipped, plan.computed)
        with self._writing():
            self._store = Store.create(self.target, "update", begun, plan.final)
        return begun

    def whole_parts(self, manifest: Manifest) -> list[PartInfo]:  # noqa: ARG002 - of the protocol
        """The parts that are there."""
        assert self._store is not None
        return [PartInfo(p.number, p.inputs, p.failures) for p in self._store.in_order]

    def inputs_of(self, part: int) -> list[Input]:
        """The inputs of a part."""
        assert self._store is not None
        with reading(self._store.folder, damage=(ValueError, IndexError)):
            return self._store.listing.part(part)

    def commit(self, part: int, items: list[Item]) -> PartInfo:
        """Writes a part, whole or not at all."""
        assert self._store is not None
        with self._writing():
            done = self._store.commit(part, items)
        return PartInfo(part, done.inputs, done.failures)

    def finish(self, manifest: Manifest, report: Report) -> dict[str, Any]:
        """Makes the files of the output, unless they are there; returns `feats.json`."""
        report.damaged = self._damaged
        if manifest.finished:
            report.finished_before = not self._published
            return read_info(self.target)
        store = self._store
        assert store is not None
        with self._writing():
            if store.kind == "run":
                return from_parts(store, self.target)
            if store.kind == "retry":
                return retried(store, self.target, read_info(self.target))
            return updated(store, self.target, read_info(self.target))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says what is kept where the disk is full or fails."""
        try:
            yield
        except OSError as error:
            text = cannot_write(self.target, error)
            if self._store is not None:
                done, folder = self._store.inputs, self._store.folder
                text += f" {done:,} inputs are done and kept in {folder}. "
                text += f"Go on with:\n  {self._job.go_on}"
            raise ResnestError(text) from error


def _finished(info: dict[str, Any]) -> Manifest:
    """What a finished output was begun with, as far as that matters."""
    identity, inputs = without(info, "list", "counts"), info["counts"]["inputs"]
    return Manifest(identity, Mark.of(info["list"]), 0, 0, inputs, finished=True)


def _unfinished_merge(store: Store) -> UsageError:
    return UsageError(f"{store.folder} holds an unfinished merge: run `resnest merge` again.")


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
    if target.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ResnestError('.parquet needs pyarrow. Run: pip install "resnest-cli[parquet]"')


@contextmanager
def held(target: Path) -> Iterator[None]:
    """Holds all files of an output, and makes its folder of parts, which goes if it has no use."""
    folder = Store.folder_of(target)
    with locked(*outputs(target)):
        with writing(target):
            folder.mkdir(exist_ok=True)
        try:
            yield
        finally:
            if not (folder / "state.json").exists():
                with suppress(OSError):
                    discard(folder)
