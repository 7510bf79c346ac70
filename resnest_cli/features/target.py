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
from resnest_cli.files import locked, writing


@dataclass(frozen=True, slots=True)
class State:
    """An unfinished run's `store`, a finished output's `info`; both where failed rows are retried.

    Neither: there is nothing, or nothing that counts. `published`: a killed run had done all but
    the last renaming, so that it ends only now. `damaged` counts inputs to be computed again.
    """

    store: Store | None = None
    info: dict[str, Any] | None = None
    published: bool = False
    damaged: int = 0

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
def held(target: Path) -> Iterator[None]:
    """Holds all files of an output, and makes its folder of parts, which goes if it is of no use.

    Raises:
        ResnestError: the folder cannot be written, or another command holds one of the files.
    """
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


def look(target: Path, *, resume: bool, overwrite: bool) -> State:
    """What there is to go on with; finishes the renaming that a kill has interrupted.

    Raises:
        UsageError: something is there, and neither `resume` nor `overwrite` says what to do.
        ResnestError: what is there is damaged.
    """
    if overwrite:
        check_others(target)
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
        check_others(target)
        return State()
    if store is not None and store.kind == "merge":
        raise UsageError(f"{store.folder} holds an unfinished merge: run `resnest merge` again.")
    if store is not None and store.published:
        with writing(target):
            publish(store, target)
        return State(info=read_info(target), published=True)
    if store is None and not any(path.exists() for path in outputs(target)):
        check_others(target)
        return State()
    if store is None:
        # Whoever made the output was killed while it removed the parts.
        left = any(Store.folder_of(target).glob("[0-9]*"))
        return State(info=read_info(target), published=left)
    with writing(store.folder):
        damaged = store.repair()
        store.tidy()
    return State(store, read_info(target) if store.kind == "retry" else None, damaged=damaged)


def check_others(target: Path) -> None:
    """Whether nothing of another format has, or will have, files of the same names.

    Raises:
        UsageError: an unfinished run, or an output whose .csv and .json would be replaced.
    """
    for suffix in SUFFIXES:
        other = target.with_suffix(suffix)
        if other.exists() and other not in outputs(target) and target.with_suffix(".json").exists():
            raise UsageError(
                f"{other} is there: its {target.with_suffix('.csv').name} and "
                f"{target.with_suffix('.json').name} would be replaced. Remove it, or give -o "
                "another name."
            )
        if other != target and (Store.folder_of(other) / "state.json").exists():
            raise UsageError(
                f"{Store.folder_of(other)} holds an unfinished run, which writes "
                f"{target.with_suffix('.json')}, too: finish that with -o {other} --resume, remove "
                "the folder, or give -o another name."
            )
