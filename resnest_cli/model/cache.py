"""What lies on this machine: where a published file may be, its lock, and what may be removed.

Two caches belong to others and are shared: torch.hub's (`$TORCH_HOME/hub/checkpoints`, we add files
under their published names) and Hugging Face's, where timm's downloads lie, too (`net.hub` adds to
it). Layout of the latter: huggingface_hub, "Manage huggingface_hub cache-system".
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resnest_cli import paths
from resnest_cli.model.labels import LABELS_FILE
from resnest_cli.model.names import WEIGHTS_NAMES
from resnest_cli.model.partial import cannot_write
from resnest_cli.model.variants import VARIANTS, HubModel, Variant, WeightsFile

_BUNDLED = Path(__file__).with_name("bundled")
_LEFTOVER = re.compile(r"(?P<name>.+?)\.(part|part\.json|lock|damaged|damaged\.\d+)")


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A whole file of weights that this program may remove; `model` is empty for one from a URL."""

    path: Path
    size: int
    model: str


def torch_path(weights: WeightsFile) -> Path:
    """Where torch.hub and we keep a published file, or where a bundled one lies."""
    if weights.bundled:
        return _BUNDLED / weights.name
    return paths.torch_checkpoints_dir() / weights.name


def find_cached(variant: Variant) -> Path | None:
    """The variant's file, ours or timm's, if there is one. Quick: its content is not looked at."""
    return next(iter(copies(variant)), None)


def copies(variant: Variant, *, hub_first: bool = False) -> dict[Path, str]:
    """Every copy of the variant's weights on this machine, and how its SHA-256 must begin.

    torch.hub's comes first, unless the hub's is wanted. The hash is empty where none is known: a
    file of the hub's cache without the usual link to its blob.
    """
    found: dict[Path, str] = {}
    if variant.weights is None:  # a network of one's own, whatever its id
        return found
    if paths.is_file(path := torch_path(variant.weights)):
        found[path] = variant.weights.hash_prefix
    if variant.hub is None or (entry := _hub_file(variant.hub)) is None:
        return found
    known = variant.hub.sha256 if entry.name == WEIGHTS_NAMES[0] else ""
    copy = {entry: known or blob_hash(entry)}
    return copy | found if hub_first else found | copy


def blob_hash(entry: Path) -> str:
    """The SHA-256 by which the hub's cache names a large file; empty where it does not."""
    blob = entry.resolve().name
    return blob if entry.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob) else ""


def hub_folder(repository: str) -> Path:
    """The folder in which the hub's cache keeps a repository."""
    return paths.huggingface_hub_dir() / f"models--{repository.replace('/', '--')}"


def hub_snapshot(repository: str, revision: str) -> Path | None:
    """The snapshot of a branch, tag or commit in the hub's cache, if it was ever fetched.

    Read by hand: importing huggingface_hub takes a fifth of a second, which a warm start has not.
    """
    folder = hub_folder(repository)
    commit = revision
    with contextlib.suppress(OSError, ValueError):
        commit = (folder / "refs" / revision).read_text("utf-8").strip()
    if not re.fullmatch(r"[\w-]+", commit):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if paths.is_folder(snapshot) else None


def weights_in(folder: Path) -> Path | None:
    """The file of weights that a folder's config.json describes."""
    return next((path for name in WEIGHTS_NAMES if paths.is_file(path := folder / name)), None)


def _hub_file(model: HubModel) -> Path | None:
    """timm's file: of the main branch's snapshot, else of the newest that has one."""
    snapshots = [main] if (main := hub_snapshot(model.id, "main")) else []
    with contextlib.suppress(OSError):
        every = [p for p in (hub_folder(model.id) / "snapshots").iterdir() if paths.is_folder(p)]
        snapshots += sorted(every, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return next((path for snapshot in snapshots if (path := weights_in(snapshot))), None)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `<name>.damaged` (numbered if taken), so that it is fetched again.

    Returns the new path. A file that another process has already set aside is no error.

    Raises:
        CacheError: the folder cannot be written.
    """
    aside, number = path.with_name(f"{path.name}.damaged"), 2
    while aside.exists():
        aside, number = path.with_name(f"{path.name}.damaged.{number}"), number + 1
    try:
        path.rename(aside)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise cannot_write(error, path.parent, _variable(path)) from error
    return aside


def _variable(path: Path) -> str:
    folders = {
        "RESNEST_HOME": paths.resnest_home(),
        "HF_HOME": paths.huggingface_hub_dir(),
        "TORCH_HOME": paths.torch_checkpoints_dir(),
    }
    return next((name for name, at in folders.items() if path.is_relative_to(at)), "TORCH_HOME")


@contextmanager
def locked(target: Path, variable: str, notify: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a file to be fetched; wait, and say so once, while another process does.

    Raises:
        CacheError: the folder cannot be written, so that there can be no lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(_lock_of(target))
    try:
        if variable == "RESNEST_HOME":  # one user's; the others are as their owners make them
            paths.make_private(target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            notify(f"another process is downloading {target.name}; waiting for it")
            lock.acquire()
    except OSError as error:  # Timeout is one too, but is handled above
        raise cannot_write(error, target.parent, variable) from error
    try:
        yield
        # Nobody needs the lock of a file that is there: whoever waits looks for the file first.
        # After an error it stays, so that those who wait keep one lock between them.
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            _lock_of(target).unlink()
    finally:
        lock.release()


def _lock_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.lock")


def _is_locked(target: Path) -> bool:
    from filelock import FileLock, Timeout

    if not _lock_of(target).exists():
        return False
    try:
        with FileLock(_lock_of(target), timeout=0):
            return False
    except (Timeout, OSError):
        return True


def cached_files() -> list[CachedFile]:
    """The published files in torch.hub's folder, and those fetched from URLs given by the user.

    Other files in torch.hub's folder and timm's downloads are not ours to remove and not listed.
    """
    published = [
        (path, variant.id)
        for variant in VARIANTS.values()
        if variant.weights
        and not variant.bundled
        and paths.is_file(path := torch_path(variant.weights))
    ]
    given = [(path, "") for path in _url_files() if not _LEFTOVER.fullmatch(path.name)]
    return [CachedFile(path, path.stat().st_size, model) for path, model in published + given]


def leftovers() -> list[Path]:
    """What interrupted downloads and damaged files have left, but for downloads under way now."""
    published = {variant.weights.name for variant in VARIANTS.values() if variant.weights}
    found = [
        path
        for path in _files(paths.torch_checkpoints_dir())
        if (match := _LEFTOVER.fullmatch(path.name)) and match["name"] in published
    ]
    found += [
        path
        for path in _files(paths.resnest_home())
        if ((match := _LEFTOVER.fullmatch(path.name)) and match["name"] == LABELS_FILE)
        or re.fullmatch(r"\.verified\.json\.[0-9a-f]{8}\.tmp", path.name)
    ]
    found += [path for path in _url_files() if _LEFTOVER.fullmatch(path.name)]
    return [path for path in found if not _is_locked(_owner(path))]


def remove(path: Path) -> bool:
    """Remove one of `cached_files` or `leftovers`; False while a download of it is under way.

    Raises:
        CacheError: the file cannot be removed.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(_lock_of(_owner(path)))
    try:
        with lock.acquire(timeout=0):
            path.unlink(missing_ok=True)
            if os.name != "nt":  # elsewhere an unlinked lock is still held until it is released
                _lock_of(_owner(path)).unlink(missing_ok=True)
        if os.name == "nt":  # Windows refuses to remove it while anybody has it open
            with contextlib.suppress(OSError):
                _lock_of(_owner(path)).unlink()
    except Timeout:
        return False
    except OSError as error:
        raise cannot_write(error, path.parent, _variable(path)) from error
    if path.parent.parent == paths.resnest_home() / "weights":
        with contextlib.suppress(OSError):  # not empty yet
            path.parent.rmdir()
    return True


def _owner(path: Path) -> Path:
    """The file that a leftover belongs to."""
    match = _LEFTOVER.fullmatch(path.name)
    return path.with_name(match["name"]) if match else path


def _url_files() -> list[Path]:
    folders = paths.entries(paths.resnest_home() / "weights", "[0-9a-f]*")
    return [path for folder in folders for path in _files(folder)]


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []
