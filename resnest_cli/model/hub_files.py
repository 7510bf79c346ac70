"""Repositories of the hub as folders on this machine: the mirror's, the cached, else a fetched one.

What lies in the cache is used without asking the hub: a branch that has moved is fetched by
`resnest download`. A warm start imports no huggingface_hub.
"""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli import paths
from resnest_cli.errors import CheckpointError, DownloadError, OfflineError
from resnest_cli.model import answers, hashes
from resnest_cli.model.cache import blob_hash, hub_folder, hub_snapshot, weights_in
from resnest_cli.model.names import CONFIG_FILE, WEIGHTS_NAMES, Repository, known_near

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnest_cli.model.variants import Variant
    from resnest_cli.model.weights import Access
    from resnest_cli.net.hub import Hub

MAIN = "main"
_HEAD = 512  # bytes; enough to recognise a web page or a Git LFS pointer


def ensure_folder(repository: Repository, access: "Access", *, refresh: bool = False) -> Path:
    """A folder with the repository's config.json and weights; fetched where there is none.

    With `refresh` the hub is asked, if it may be, for a newer version than the cached one.

    Raises:
        OfflineError: it is not on this machine, and connecting is forbidden.
        DownloadError: no hub gives it, or it holds no weights.
        CacheError: the cache cannot be written.
    """
    if found := mirrored_folder(repository, access.mirror):
        return found
    cached = None if refresh and not _forbidden(access) else _cached(repository, access)
    return cached or _fetched(repository, access)


def ensure_file(repository: Repository, access: "Access", *, refresh: bool = False) -> Path:
    """The one file that a repository's address names, with the config.json beside it, if any.

    It may lie in a folder of the repository. `refresh` as in `ensure_folder`.

    Raises:
        OfflineError, DownloadError, CacheError: as `ensure_folder`.
    """
    assert repository.file
    file, revision = repository.file, repository.revision or MAIN
    snapshot = hub_snapshot(repository.id, revision)
    if refresh and not _forbidden(access):
        snapshot = None
    if snapshot and paths.is_file(snapshot / file):
        return snapshot / file
    _check_online(repository, access, [file])

    def fetch(hub: "Hub") -> Path:
        from resnest_cli.net.hub import NoSuchEntryError, download

        folder, slash, _ = file.rpartition("/")
        commit = revision
        with contextlib.suppress(NoSuchEntryError):
            config = download(hub, repository.id, f"{folder}{slash}{CONFIG_FILE}", revision)
            commit = config.parents[file.count("/")].name  # what follows is of the same commit
        return download(hub, repository.id, file, commit)

    return _in_full(repository, access, fetch)


def fetch_published(variant: "Variant", access: "Access") -> Path:
    """timm's copy of the variant's weights, fetched from the hub and verified.

    Raises:
        DownloadError: no hub gives it, or it is another file; the message is the reason.
        CacheError: the cache cannot be written.
    """
    assert variant.hub
    repository = Repository(variant.hub.id)

    def fetch(hub: "Hub") -> Path:
        folder = _from_hub(hub, repository, with_config=False)
        path = weights_in(folder)
        assert path
        known = variant.hub.sha256 if variant.hub else ""
        try:
            _check_content(path)
            sha256 = hashes.known_sha256(path)
            if known and path.name == WEIGHTS_NAMES[0] and sha256 != known:
                raise DownloadError(f"wrong file: its SHA-256 is to be {known}, but is {sha256}")  # noqa: TRY301
        except DownloadError:
            _remove(path)  # or it would be taken for a copy of the weights
            raise
        if not known and not blob_hash(path):
            access.notify(f"{path}: the hub gives no SHA-256 of it; it is taken as it is")
        return path

    return _asked_in_turn(access, fetch)


def mirrored_folder(repository: Repository, mirror: str | None) -> Path | None:
    """`MIRROR/USER/NAME`, where the mirror is a folder: as `hf download --local-dir` leaves it."""
    if not mirror or paths.is_url(mirror) or repository.revision not in {None, MAIN}:
        return None
    folder = paths.expanded(mirror) / repository.id
    return folder if paths.is_file(folder / CONFIG_FILE) and weights_in(folder) else None


def check_folder(folder: Path) -> Path:
    """The file of weights in a folder with a config.json.

    Raises:
        CheckpointError: one of the two is missing, or the weights are a Git LFS pointer.
    """
    found = weights_in(folder)
    if found and paths.is_file(folder / CONFIG_FILE):
        try:
            _check_content(found)
        except DownloadError as error:
            raise CheckpointError(f"{found}: {error}.") from error
        return found
    lacks = " and ".join(
        name
        for name, there in (
            (CONFIG_FILE, paths.is_file(folder / CONFIG_FILE)),
            (" or ".join(WEIGHTS_NAMES), found is not None),
        )
        if not there
    )
    raise CheckpointError(
        f"{folder} is no folder of a model: it holds no {lacks}.{_inside(folder)}"
    )


def _inside(folder: Path) -> str:
    """What to give in the place of a folder that is none of a model."""
    best = folder / "weights" / "best.safetensors"
    if paths.is_file(best):
        return f" Give the run's checkpoint: --model {best}"
    snapshots = sorted(folder.glob("snapshots/*/config.json"))
    if snapshots:
        return f" Give a snapshot of it: --model {snapshots[-1].parent}"
    with contextlib.suppress(OSError):
        files = (p for p in sorted(folder.iterdir()) if p.suffix in {".safetensors", ".pth", ".pt"})
        if path := next(files, None):
            return f" Give the file itself: --model {path}"
    return ""


def _check_content(path: Path) -> None:
    with path.open("rb") as file:
        if reason := answers.misfit(file.read(_HEAD)):
            raise DownloadError(reason)


def _cached(repository: Repository, access: "Access") -> Path | None:
    """The snapshot in the cache, if it is whole."""
    snapshot = hub_snapshot(repository.id, repository.revision or MAIN)
    if snapshot is None or not paths.is_file(snapshot / CONFIG_FILE):
        return None
    path = weights_in(snapshot)
    if path is None:
        return None
    expected = blob_hash(path)
    if not expected or hashes.known_sha256(path) == expected:
        return snapshot
    if _forbidden(access):
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is not {expected}. Where a connection is allowed it "
            "is fetched again."
        )
    access.notify(f"{path} is damaged: its SHA-256 is not {expected}; fetching it again")
    _remove(path)
    return None


def _remove(path: Path) -> None:
    """Removes a file of the cache and what it links to."""
    for damaged in (path.resolve(), path):
        with contextlib.suppress(OSError):
            damaged.unlink()


def _forbidden(access: "Access") -> str:
    """What forbids to ask the hub; empty where nothing does."""
    if access.offline:
        return "--offline (RESNEST_OFFLINE)"
    return "HF_HUB_OFFLINE" if paths.huggingface_offline() else ""


def _check_online(repository: Repository, access: "Access", files: list[str]) -> None:
    if not (why := _forbidden(access)):
        return
    revision = f" --revision {repository.revision}" if repository.revision else ""
    here = f"There is no path {repository} here, and the" if repository.plain else "The"
    raise OfflineError(
        f"{here} hub's {repository} is not on this machine; {why} forbids to connect. Where there "
        f"is a network run\n  resnest download {repository}\nor\n"
        f"  hf download {repository.id} {' '.join(files)}{revision}\n"
        f"and copy the folder {hub_folder(repository.id).name} from its cache to\n"
        f"  {paths.huggingface_hub_dir()}"
    )


def _fetched(repository: Repository, access: "Access") -> Path:
    _check_online(repository, access, [CONFIG_FILE, WEIGHTS_NAMES[0]])
    folder = _in_full(repository, access, lambda hub: _from_hub(hub, repository, with_config=True))
    if (path := weights_in(folder)) and (sha256 := blob_hash(path)):
        hashes.remember(path, sha256)  # found right when it had arrived
    return folder


def _hubs(access: "Access") -> "list[Hub]":
    """The hubs to ask, in turn: a mirror that is an address, without a login; then the hub."""
    from resnest_cli.net.hub import Hub

    hub = Hub(
        paths.huggingface_endpoint(),
        paths.huggingface_hub_dir(),
        timeout=access.patience.connect,
        window=access.patience.window,
        slowest=access.patience.slowest,
        attempts=access.patience.attempts,
        progress=access.progress,
        notify=access.notify,
        sleep=access.patience.sleep,
    )
    mirror = (access.mirror or "").rstrip("/")
    if not paths.is_url(mirror) or mirror == hub.endpoint:
        return [hub]
    return [replace(hub, endpoint=mirror, login=False, attempts=1), hub]


def _asked_in_turn(access: "Access", fetch: "Callable[[Hub], Path]") -> Path:
    """What the first hub gives that has it.

    Raises:
        DownloadError: none has; the message is the last one's reason, which is the hub's own.
    """
    hubs = _hubs(access)
    for hub in hubs[:-1]:
        with contextlib.suppress(DownloadError):
            return fetch(hub)
    return fetch(hubs[-1])


def _in_full(repository: Repository, access: "Access", fetch: "Callable[[Hub], Path]") -> Path:
    """As `_asked_in_turn`, with errors that say which repository, and what else was meant."""
    try:
        return _asked_in_turn(access, fetch)
    except DownloadError as error:
        here = f"There is no path {repository} here, either." if repository.plain else ""
        hint = f"{here}{known_near(repository)}".strip()
        raise DownloadError(
            f"{repository} could not be had from the hub: {error}.{' ' if hint else ''}{hint}"
        ) from error


def _from_hub(hub: "Hub", repository: Repository, *, with_config: bool) -> Path:
    """Fetches config.json and weights of one commit; the snapshot's folder.

    Raises:
        CheckpointError: its config.json is no ResNeSt's; no weights are fetched.
        DownloadError: the hub does not give it.
    """
    from resnest_cli.model.hub_config import read_config
    from resnest_cli.net.hub import NoSuchEntryError, download

    revision = repository.revision or MAIN
    try:
        config = download(hub, repository.id, CONFIG_FILE, revision)
        revision = config.parent.name  # what follows is of the same commit
        if with_config:
            read_config(config)  # or gigabytes come that are no ResNeSt's
    except NoSuchEntryError as error:
        if with_config:
            raise _without(hub, repository, CONFIG_FILE, error) from error
    for name in WEIGHTS_NAMES:
        with contextlib.suppress(NoSuchEntryError):
            return download(hub, repository.id, name, revision).parent
    raise _without(hub, repository, " and no ".join(WEIGHTS_NAMES))


def _without(
    hub: "Hub", repository: Repository, names: str, error: DownloadError | None = None
) -> DownloadError:
    from resnest_cli.net.hub import files_of

    there = files_of(hub, repository.id, repository.revision or MAIN)
    if not there and error is not None:
        return DownloadError(str(error))
    shown = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    return DownloadError(f"it holds no {names}; it has {shown or 'nothing else'}")
