"""Sorts, kills itself at every single step that changes a file, goes on, and looks at the files.

    python -m tests.sorting.killed WORK copy|link|move|far

WORK is an empty folder; `far` moves as if the folder of classes lay on another disk. A
child of this process kills itself with SIGKILL at the n-th change, for each n until it is not
killed any more: before the n-th file is opened for writing, linked, renamed, removed ... A second
one goes on. Prints how many kills there were.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from resnest_cli.images.sources import Source
from resnest_cli.inference.ranking import Prediction, Record
from resnest_cli.options import How, SortOptions
from resnest_cli.progress import silent
from resnest_cli.sorting.sort import sorting, undo

NAMES = ("cat", "dog")
_CHANGES = {
    "os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.truncate",
    "os.utime", "os.chmod", "os.chown",
}  # fmt: skip
Tree = dict[str, tuple[object, ...]]


def make_photos(work: Path) -> list[str]:
    """Names in two folders, one of them twice; a sidecar, a link, modes and times."""
    for index, name in enumerate(("1.jpg", "2.jpg", "2.jpg.xmp", "b/1.jpg", "other")):
        path = work / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{index}".encode() * 1000 * index)
        path.chmod(0o640 - 0o40 * (index % 2))
        os.utime(path, ns=(10**18, 10**18 + index * 10**10 + 123_456_789))
    (work / "in" / "3.jpg").symlink_to("other")
    return [str(work / "in" / name) for name in ("1.jpg", "2.jpg", "3.jpg", "b/1.jpg")]


def tree(*folders: Path) -> Tree:
    """All files: content, mode and time; or what a link says."""
    found: Tree = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_symlink():
                found[str(path)] = (str(path.readlink()),)
            elif path.is_file() and not path.name.endswith(".lock"):
                status = path.stat()
                found[str(path)] = path.read_bytes(), status.st_mode, status.st_mtime_ns
    return found


def sort(photos: list[str], target: Path, how: How) -> None:
    def predictor():  # type: ignore[no-untyped-def]
        return NAMES, answers

    def answers(sources: Iterator[Source]) -> Iterator[Record]:
        for place, source in enumerate(sources):
            yield Record(source.name, "m", None, (Prediction(1, place // 9, "cat", 0.9),))

    options = SortOptions(sort_into=target, **{how: True})
    with sorting(options, {"how": how}, resume=True) as work:
        if not work.finished:
            assert len(list(work.planned((Source(one, one) for one in photos), predictor))) == 4
            assert not work.carry_out(silent, "").lines


def killed(action: Callable[[], object], change: int) -> bool:
    """Whether a child was killed before its n-th change; raises where it fails otherwise."""
    child = os.fork()
    if child == 0:
        left = change

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
            if writes or event in _CHANGES:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            action()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status not in {0, signal.SIGKILL}:
        sys.exit(f"failed at change {change}")
    return status != 0


def make_far(folder: Path) -> None:
    """From now on the folder is on another disk."""
    link = os.link

    def refused(old: Path, new: Path, **how: bool) -> None:
        if Path(old).is_relative_to(folder) != Path(new).is_relative_to(folder):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(old, new, **how)

    os.link = refused  # type: ignore[assignment]


def journals(folder: Path) -> list[Path]:
    return list(folder.glob(".resnest-sort*")) if folder.exists() else []


def photos_of(*folders: Path) -> Tree:
    return {name: value for name, value in tree(*folders).items() if ".resnest-sort" not in name}


def main() -> None:
    work, how = Path(sys.argv[1]), sys.argv[2]
    target = work / "out"
    if how == "far":
        how = "move"
        make_far(target)
    photos = make_photos(work)
    before = tree(work)

    def sorted_(change: int = 0) -> bool:
        return killed(lambda: sort(photos, target, how), change)  # type: ignore[arg-type]

    def undone(change: int = 0) -> bool:
        def whole() -> None:
            assert not undo(target, silent).lines

        return killed(whole, change)

    sorted_()
    after = photos_of(work)
    undone()
    assert tree(work) == before
    kills = 0
    for action in (sorted_, undone):
        for change in range(1, 1000):
            if action is undone:
                sorted_()
            if not action(change):
                break
            kills += 1
            if action is sorted_:
                sorted_()
                assert photos_of(work) == after, change
            if journals(target):
                undone()
            assert tree(work) == before, (change, tree(work).keys() ^ before.keys())
        sorted_()
        undone()
    print(kills)


if __name__ == "__main__":
    main()
