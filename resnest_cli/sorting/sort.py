"""A whole run: everything is planned and written down, then it is carried out, or taken back.

Nothing moves before the last photo is predicted, so that a run which goes on finds the inputs as
they were. The journal of an unfinished run keeps its records, which are shown again: what a run
prints is the same, wherever it was killed.
"""

import errno
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, cast

from resnest_cli.errors import ResnestError, UsageError, cannot_write, reason
from resnest_cli.files import check_folder, free_bytes, locked, sync_folder
from resnest_cli.images.sources import Source
from resnest_cli.inference.ranking import Record
from resnest_cli.options import How, SortOptions
from resnest_cli.progress import Progress
from resnest_cli.signals import StopRequest
from resnest_cli.sorting.journal import Journal
from resnest_cli.sorting.plan import Entry, Planner
from resnest_cli.sorting.transfer import KeptError, Step, do, take_back
from resnest_cli.text import count, gigabytes, joined, printable_name

# The class names of a model, and its answers to sources; asked for once they are needed.
Predicted = tuple[Sequence[str], Callable[[Iterator[Source]], Iterator[Record]]]
Predictor = Callable[[], Predicted]

# What would refuse every other file, too.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENODEV, errno.ENXIO}
_DONE = {"copy": "Copied", "link": "Linked", "move": "Moved"}
_STAYS = {
    "sorted before": "in a class folder already",
    "there already": "there already by an earlier run",
    "named twice": "named twice",
    "no file": "no file of its own (an address, a member of an archive, a frame)",
}
_FEW = 10  # files that could not be sorted, named at the end


@dataclass(slots=True)
class Outcome:
    """How a run ended; `lines` are about the first files that `failed`."""

    photos: int = 0  # with at least one file that was sorted, or taken back
    files: int = 0  # all of them, sidecars too
    folders: set[str] = field(default_factory=set)
    stays: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def incomplete(self) -> bool:
        """Whether something that was named is not where it was to be."""
        return self.failed > 0 or self.stays["no file"] > 0

    def text(self, sort: SortOptions) -> str:
        """What was done, or would be, for people."""
        how, folder = sort.how, cast("Path", sort.sort_into)
        assert how is not None
        kept = [f"{self.stays[why]:,} {text}" for why, text in _STAYS.items() if self.stays[why]]
        stay = f"; stayed: {', '.join(kept)}" if kept else ""
        more = f" and {count(self.files - self.photos, 'other file')}"
        what = count(self.photos, "photo") + (more if self.files > self.photos else "")
        into = count(len(self.folders), "folder")
        if sort.dry_run:
            return f"Would {how} {what} into {into} of {folder}{stay}. Nothing was done."
        undo_ = f"\nTake it back with: {undo_command(folder)}" if self.files else ""
        return f"{_DONE[how]} {what} into {into} of {folder}{stay}.{undo_}"

    def failures(self) -> str:
        """The files that are not where they were to be, for people."""
        more = self.failed - len(self.lines)
        first = f"{count(self.failed, 'file')} could not be brought to their places:"
        rest = [f"and {more:,} more"] if more else []
        return "\n  ".join([first, *map(printable_name, self.lines), *rest])

    def add(self, steps: Sequence[Step]) -> None:
        """One photo whose steps, if any, are done."""
        self.photos += bool(steps)
        self.files += len(steps)

    def fail(self, name: str, why: str) -> None:
        """One more file is not where it was to be."""
        self.failed += 1
        self.lines += [f"{name}: {why}"] if self.failed <= _FEW else []


class Sorting:
    """A folder that photos are sorted into, held by this process; see `sorting`."""

    def __init__(
        self, folder: Path, how: How, *, live_photos: bool, journal: Journal | None
    ) -> None:
        """Without a `journal` nothing is written: it is a plan to look at."""
        self._folder, self._how, self._live = folder, how, live_photos
        self._journal = journal
        self._fresh = journal is not None and journal.entries_there == 0
        self._inputs, self._bytes = 0, 0
        self._outcome = Outcome()

    @property
    def finished(self) -> bool:
        """Whether an earlier run has done all."""
        return self._journal is not None and self._journal.state == "finished"

    def planned(self, sources: Iterator[Source], predictor: Predictor) -> Iterator[Record]:
        """A record for each input, with `sorted_to`; what was planned before comes first."""
        journal = self._journal
        if journal is not None and journal.state == "planned":
            yield from map(self._counted, journal.entries())
            return
        names, predict = predictor()
        planner = Planner(self._folder, self._how, names, live_photos=self._live)
        if journal is not None and journal.entries_there:
            before = self._inputs
            for entry, source in zip(journal.entries(), sources, strict=False):
                if entry.record.input != source.name:  # something has come, or gone, in between
                    sources = chain([source], sources)
                    break
                planner.remember(entry)
                yield self._counted(entry)
            journal.cut(self._inputs - before)
        for entry in map(planner.plan, predict(sources)):
            if journal is not None:
                journal.add(entry)
            yield self._counted(entry)
        if journal is not None and self._inputs:
            made = [one for one in self._outcome.folders if not (self._folder / one).exists()]
            journal.mark("planned", made=sorted(made))

    def _counted(self, entry: Entry) -> Record:
        self._inputs += 1
        self._outcome.stays[entry.stays] += 1
        self._outcome.folders.update(step.target.partition("/")[0] for step in entry.steps)
        if self._fresh and self._how != "link":
            self._bytes += sum(map(self._room, entry.steps))
        if self._journal is None:
            self._outcome.add(entry.steps)
        return entry.record

    def _room(self, step: Step) -> int:
        """Bytes that a step needs on the disk of the folder."""
        source = os.path.dirname(step.source)  # noqa: PTH120
        same = self._how == "move" and _disk(source) == _disk(str(self._folder))
        return 0 if same else step.size

    def carry_out(self, progress: Progress, go_on: str) -> Outcome:
        """Does what was planned, or what is left of it; nothing without a journal.

        `go_on` is the command that goes on after an interruption.

        Raises:
            ResnestError: the disk is full, cannot be written or fails.
            StoppedError: a signal has come.
        """
        journal, outcome = self._journal, self._outcome
        if journal is None or not self._inputs:
            return outcome
        free = free_bytes(self._folder)
        if free is not None and self._bytes > free:
            journal.remove()
            raise ResnestError(
                f"{self._folder}: there is no room: the photos need {gigabytes(self._bytes)}, and "
                f"{gigabytes(free)} are free. Nothing was done. Make room, or name another place."
            )
        with StopRequest() as stop:
            for done, entry in enumerate(journal.entries(), 1):
                outcome.add(self._sorted(entry, stop, go_on))
                progress(done, self._inputs, failed=outcome.failed)
        if outcome.folders:
            journal.mark("finished")
        else:
            journal.remove()
        return outcome

    def _sorted(self, entry: Entry, stop: StopRequest, go_on: str) -> list[Step]:
        """Those steps of an input that are done; where one fails, the next ones are not tried."""
        done = list[Step]()
        for step in entry.steps:
            stop.check()
            try:
                self._make_folder(step)
                do(step, self._how, self._folder)
            except KeptError as error:
                self._outcome.fail(step.source, str(error))
                break
            except OSError as error:
                self._outcome.fail(step.source, _refusal(error, step, self._folder, go_on))
                break
            done.append(step)
        return done

    def _make_folder(self, step: Step) -> None:
        folder = (self._folder / step.target).parent
        if not folder.is_dir():
            folder.mkdir()
            sync_folder(self._folder)


@contextmanager
def sorting(sort: SortOptions, asked: dict[str, Any], *, resume: bool) -> Iterator[Sorting]:
    """Holds a folder, which is made, for a run; `asked` is what a run that goes on must repeat.

    Raises:
        ResnestError: it cannot be written, or another process sorts into it.
        UsageError: it holds an unfinished run, or `resume` goes on with one of other options.
    """
    folder, how = cast("Path", sort.sort_into), sort.how
    assert how is not None
    check_folder(folder, "--sort-into")
    if sort.dry_run:
        yield Sorting(folder, how, live_photos=sort.live_photos, journal=None)
        return
    with locked(folder=folder):
        journal = _journal(folder, json.loads(json.dumps(asked)), resume=resume)
        try:
            yield Sorting(folder, how, live_photos=sort.live_photos, journal=journal)
        finally:
            journal.close()


def _journal(folder: Path, asked: dict[str, Any], *, resume: bool) -> Journal:
    last = Journal.last(folder)
    if last is None or last.state == "undone" or (last.state == "finished" and not resume):
        return Journal.begin(folder, asked)
    if last.state == "undoing":
        raise UsageError(
            f"{folder} holds a sorting that is being taken back: --undo {folder} goes on with that."
        )
    if not resume:
        raise UsageError(
            f"{folder} holds an unfinished sorting: --resume goes on with it, --undo {folder} "
            "takes it back."
        )
    if other := [name for name in asked if asked[name] != last.asked.get(name)]:
        raise UsageError(
            f"{folder} holds a sorting that was begun with another {joined(other)}. Go on with the "
            f"same, or take it back with --undo {folder}."
        )
    return last


def undo(folder: Path, progress: Progress) -> Outcome:
    """Takes the last run in a folder back: files that moved return, copies and links go.

    Raises:
        UsageError: nothing was sorted into the folder.
        ResnestError: a disk is full, cannot be written or fails.
        StoppedError: a signal has come.
    """
    if not Journal.numbers(folder):
        raise UsageError(f"{folder}: nothing was sorted into it, or all was taken back.")
    with locked(folder=folder):
        journal, outcome = Journal.last(folder), Outcome()
        assert journal is not None
        how: How = journal.asked["how"]
        if journal.state != "undoing":
            journal.mark("undoing")
        with StopRequest() as stop:
            for done, entry in enumerate(journal.entries(), 1):
                outcome.add(_taken_back(entry, how, folder, outcome, stop))
                progress(done, journal.entries_there, failed=outcome.failed)
        if outcome.failed:
            journal.mark("undone")
        else:
            for name in journal.made:
                with suppress(OSError):  # something else is in it
                    (folder / name).rmdir()
            journal.remove()
    return outcome


def undo_command(folder: Path) -> str:
    """The command that takes back what was sorted into a folder."""
    return shlex.join(("resnest", "predict", "--undo", str(folder)))


def _taken_back(
    entry: Entry, how: How, folder: Path, outcome: Outcome, stop: StopRequest
) -> list[Step]:
    done = list[Step]()
    for step in entry.steps:
        stop.check()
        try:
            if take_back(step, how, folder):
                done.append(step)
        except KeptError as error:
            outcome.fail(str(folder / step.target), str(error))
        except OSError as error:
            outcome.fail(
                str(folder / step.target), _refusal(error, step, folder, undo_command(folder))
            )
    return done


def _refusal(error: OSError, step: Step, folder: Path, go_on: str) -> str:
    """Why one file stays where it is; raises where the next ones would, too."""
    target = folder / step.target
    if error.errno in _FATAL:
        place = step.source if error.filename == step.source else target
        raise ResnestError(
            f"{cannot_write(place, error)} What is done is kept. Go on with:\n  {go_on}"
        ) from error
    known = {None, step.source, str(target)}
    where = "" if error.filename in known else f"{error.filename}: "
    return f"stays: {where}{reason(error)}"


@lru_cache(64)
def _disk(path: str) -> int:
    return os.stat(path).st_dev  # noqa: PTH116
