"""What is there under the name of an output: nothing, an unfinished run, or a finished one."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.features.assemble import outputs, publish
from resnest_cli.features.formats import SUFFIXES
from resnest_cli.features.readers import read_info
from resnest_cli.features.store import Store, discard

_PATIENCE = 10.0  # seconds; the processes of a run that was killed may hold the lock for an instant


@dataclass(frozen=True, slots=True)
class State:
    """An unfinished run's `store`, a finished output's `info`; both where failed rows are retried.

    Neither: there is nothing, or nothing that counts.
    """

    store: Store | None = None
    info: dict[str, Any] | None = None

    @property
    def identity(self) -> dict[str, Any] | None:
        """What an unfinished or finished run says of itself."""
        return self.store.identity if self.store else self.info


def check_name(target: Path) -> None:
    """Tells a name that no output can have.

    Raises:
        UsageError: another extension than those of SUFFIXES.
        ResnestError: it is a folder, or there is no folder for it.
    """
    if target.suffix not in SUFFIXES:
        raise UsageError(f"{target}: the extension says the format: use {', '.join(SUFFIXES)}.")
    for path in outputs(target):
        if path.is_dir():
            raise ResnestError(f"{path}: cannot be written: is a folder.")
    if not target.parent.is_dir():
        raise ResnestError(f"{target}: cannot be written: there is no folder {target.parent}.")


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Holds the folder of parts, which is created; removes it where nothing of use is left in it.

    Raises:
        ResnestError: the folder cannot be written, or another run holds it.
    """
    from filelock import FileLock, Timeout

    folder = Store.folder_of(target)
    lock = FileLock(folder / "lock", timeout=_PATIENCE)
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ResnestError(f"{target}: another run is writing it.") from None
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        raise ResnestError(f"{target}: cannot be written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        if not (folder / "state.json").exists():
            with suppress(OSError):
                discard(folder)
                (folder / "lock").unlink(missing_ok=True)
                folder.rmdir()
        lock.release()


def look(target: Path, *, resume: bool, overwrite: bool) -> State:
    """What there is to go on with; finishes the renaming that a kill has interrupted.

    Raises:
        UsageError: something is there, and neither `resume` nor `overwrite` says what to do.
        ResnestError: what is there is damaged.
    """
    if overwrite:
        return State()
    store = Store.load(target)
    existing = [path for path in outputs(target) if path.exists()]
    if not resume:
        if store is not None:
            raise UsageError(
                f"{store.folder} holds an unfinished run ({store.inputs:,} inputs are done): "
                "--resume goes on with it, --overwrite starts afresh."
            )
        if existing:
            raise UsageError(
                f"{existing[0]} exists: --overwrite replaces it; give -o another name to keep it."
            )
        return State()
    if store is not None and store.kind == "merge":
        raise UsageError(f"{store.folder} holds an unfinished merge: run `resnest merge` again.")
    if store is not None and store.published:
        publish(store, target)
        store = None
    if store is None and not any(path.exists() for path in outputs(target)):
        return State()
    if store is None:
        return State(info=read_info(target))
    store.check()
    store.tidy()
    return State(store, read_info(target) if store.kind == "retry" else None)
