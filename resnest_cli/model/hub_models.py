"""Models of the hub as folders on this machine: the mirror's, the cached, else a fetched one.

What lies in the cache is used without asking the hub: a branch that has moved is fetched by
`resnest download`. A warm start imports no huggingface_hub.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from resnest_cli import paths
from resnest_cli.errors import CheckpointError, DownloadError, OfflineError
from resnest_cli.model import hashes
from resnest_cli.model.names import CONFIG_FILE, WEIGHTS_NAMES, Repository, known_near
from resnest_cli.model.variants import Variant
from resnest_cli.net import Access, check_content, hub
from resnest_cli.text import some

MAIN = "main"


def ensure_folder(
    repository: Repository,
    access: Access,
    check: Callable[[Path], object],
    *,
    refresh: bool = False,
) -> Path:
    """A folder with the repository's config.json and weights; fetched where there is none.

    `check` raises where the config.json is none that can be used: then no gigabytes are fetched.
    With `refresh` the hub is asked, if it may be, for a newer version than the cached one.

    Raises:
        OfflineError: it is not on this machine, and connecting is forbidden.
        DownloadError: no hub gives it, or it holds no weights.
        CacheError: the cache cannot be written.
    """
    if found := mirrored_folder(repository, access.mirror):
        return found
    if (forbidden(access) or not refresh) and (cached := _cached(repository, access)):
        return cached
    _check_online(repository, access, [CONFIG_FILE, WEIGHTS_NAMES[0]])

    path = _in_full(repository, access, lambda there: _fetch(there, repository, check=check))
    if sha256 := hub.blob_hash(path):
        hashes.remember(path, sha256)  # found right when it had arrived
    return path.parent


def ensure_file(repository: Repository, access: Access, *, refresh: bool = False) -> Path:
    """The one file that a repository's address names, with the config.json beside it, if any.

    It may lie in a folder of the repository. `refresh` as in `ensure_folder`.
    """
    assert repository.file
    file, revision = repository.file, repository.revision or MAIN
    snapshot = hub.cached_snapshot(repository.id, revision)
    if (forbidden(access) or not refresh) and snapshot and paths.is_file(snapshot / file):
        return snapshot / file
    _check_online(repository, access, [file])

    folder, slash, name = file.rpartition("/")
    return _in_full(
        repository, access, lambda there: _fetch(there, repository, (name,), folder + slash)
    )


def fetch_published(variant: Variant, access: Access) -> Path:
    """timm's copy of the variant's weights, with the config.json beside it, verified."""
    assert variant.hub
    repository, known = Repository(variant.hub.id), variant.hub.sha256

    def fetch(there: hub.Hub) -> Path:
        path = _fetch(there, repository)
        try:
            check_content(path)
            sha256 = hashes.known_sha256(path)
            if known and path.name == WEIGHTS_NAMES[0] and sha256 != known:
                raise DownloadError(f"wrong file: its SHA-256 is to be {known}, but is {sha256}")  # noqa: TRY301
        except DownloadError:
            hub.discard(path)  # or it would be taken for a copy of the weights
            raise
        if not known and not hub.blob_hash(path):
            access.notify(f"{path}: the hub gives no SHA-256 of it; it is taken as it is")
        return path

    return _ask_hubs(access, fetch)


def mirrored_folder(repository: Repository, mirror: str | None) -> Path | None:
    """`MIRROR/USER/NAME`, where the mirror is a folder: as `hf download --local-dir` leaves it."""
    if not mirror or paths.is_url(mirror) or repository.revision not in {None, MAIN}:
        return None
    folder = paths.expanded(mirror) / repository.id
    return folder if paths.is_file(folder / CONFIG_FILE) and weights_in(folder) else None


def weights_in(folder: Path) -> Path | None:
    """The file of weights that a folder's config.json describes."""
    return next((path for name in WEIGHTS_NAMES if paths.is_file(path := folder / name)), None)


def check_folder(folder: Path) -> Path:
    """The file of weights in a folder with a config.json."""
    found, config = weights_in(folder), paths.is_file(folder / CONFIG_FILE)
    if found and config:
        try:
            check_content(found)
        except DownloadError as error:
            raise CheckpointError(f"{found}: {error}.") from error
        return found
    missing = [] if config else [CONFIG_FILE]
    missing += [] if found else [" or ".join(WEIGHTS_NAMES)]
    raise CheckpointError(
        f"{folder} is no folder of a model: it holds no {' and '.join(missing)}.{_inside(folder)}"
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


def _cached(repository: Repository, access: Access) -> Path | None:
    """The snapshot in the cache, if it is whole."""
    snapshot = hub.cached_snapshot(repository.id, repository.revision or MAIN)
    path = weights_in(snapshot) if snapshot else None
    if path is None or not paths.is_file(path.with_name(CONFIG_FILE)):
        return None
    expected = hub.blob_hash(path)
    if not expected or hashes.known_sha256(path) == expected:
        return snapshot
    damaged = f"{path} is damaged: its SHA-256 is not {expected}"
    if forbidden(access):
        raise CheckpointError(f"{damaged}. Where a connection is allowed it is fetched again.")
    access.notify(f"{damaged}; fetching it again")
    hub.discard(path)
    return None


def forbidden(access: Access) -> str:
    """What forbids to ask the hub; empty where nothing does."""
    if access.offline:
        return "--offline (RESNEST_OFFLINE)"
    return "HF_HUB_OFFLINE" if paths.huggingface_offline() else ""


def _check_online(repository: Repository, access: Access, files: list[str]) -> None:
    if not (why := forbidden(access)):
        return
    revision = f" --revision {repository.revision}" if repository.revision else ""
    here = f"There is no path {repository} here, and the" if repository.plain else "The"
    raise OfflineError(
        f"{here} hub's {repository} is not on this machine; {why} forbids to connect. Where there "
        f"is a network run\n  resnest download {repository}\nor\n"
        f"  hf download {repository.id} {' '.join(files)}{revision}\n"
        f"and copy the folder {hub.cached_repository(repository.id).name} from its cache to\n"
        f"  {paths.huggingface_hub_dir()}"
    )


def _in_full(repository: Repository, access: Access, fetch: Callable[[hub.Hub], Path]) -> Path:
    """As `_ask_hubs`, with errors that say which repository, and what else was meant."""
    try:
        return _ask_hubs(access, fetch)
    except DownloadError as error:
        here = f" There is no path {repository} here, either." if repository.plain else ""
        raise DownloadError(
            f"{repository} could not be had from the hub: {error}.{here}{known_near(repository)}"
        ) from error


def _ask_hubs(access: Access, fetch: Callable[[hub.Hub], Path]) -> Path:
    """What the first gives that has it: a mirror that is an address, without a login; the hub."""
    own = hub.Hub(paths.huggingface_endpoint(), access)
    mirror = (access.mirror or "").rstrip("/")
    if paths.is_url(mirror) and mirror != own.endpoint:
        once = replace(access, patience=replace(access.patience, attempts=1))
        with contextlib.suppress(DownloadError):
            return fetch(hub.Hub(mirror, once, login=False))
    return fetch(own)


def _fetch(
    there: hub.Hub,
    repository: Repository,
    names: Sequence[str] = WEIGHTS_NAMES,
    folder: str = "",
    check: Callable[[Path], object] | None = None,
) -> Path:
    """The first of these files of a folder, with the config.json beside it, all of one commit.

    With a `check` there must be a config.json; it is looked at before any weights are fetched.
    """
    commit = repository.revision or MAIN
    try:
        config = hub.download(there, repository.id, f"{folder}{CONFIG_FILE}", commit)
    except hub.NoSuchEntryError as error:
        if check is not None:
            raise _lacks(there, repository, CONFIG_FILE, str(error)) from error
    else:
        commit = config.parents[folder.count("/")].name
        if check is not None:
            check(config)
    for name in names:
        with contextlib.suppress(hub.NoSuchEntryError):
            return hub.download(there, repository.id, f"{folder}{name}", commit)
    raise _lacks(there, repository, " and no ".join(folder + name for name in names))


def _lacks(there: hub.Hub, repository: Repository, names: str, unknown: str = "") -> DownloadError:
    """The error of a repository without these files; `unknown` where the hub does not list any."""
    files = hub.files_of(there, repository.id, repository.revision or MAIN)
    if unknown and not files:
        return DownloadError(unknown)
    return DownloadError(f"it holds no {names}; it has {some(files, 8) or 'nothing else'}")
