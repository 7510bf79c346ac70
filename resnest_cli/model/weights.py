"""Published weights: locate, download, verify.

`ensure` is the one road to a file of weights: the user's own file, else torch.hub's cache, else
the hub's, else a download from the mirror, the published hosts and the hub in turn. The first
digits of the SHA-256 in a published file's name decide whether a file is whole (torch.hub's
convention, torch.hub.load_state_dict_from_url); where it came from they do not prove.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from resnest_cli import paths
from resnest_cli.errors import CacheError, DownloadError, OfflineError, WeightsError
from resnest_cli.files import distrusted
from resnest_cli.model import hashes, hub_files
from resnest_cli.model.cache import (
    CachedFile,
    cached_files,
    copies,
    find_cached,
    hub_folder,
    leftovers,
    locked,
    remove,
    set_aside,
    torch_path,
)
from resnest_cli.model.fetch import Patience, copy, fetch
from resnest_cli.model.labels import LABELS_FILE, LABELS_SHA256
from resnest_cli.model.partial import Partial, no_place
from resnest_cli.model.variants import BUNDLED_MODEL, Variant, WeightsFile, get_variant
from resnest_cli.net.progress import Progress
from resnest_cli.paths import is_url
from resnest_cli.web import LARGEST, without_login

__all__ = [
    "Access",
    "CachedFile",
    "Progress",
    "VerifyResult",
    "cached_files",
    "ensure",
    "fetch_labels",
    "find_cached",
    "is_url",
    "leftovers",
    "remove",
    "set_aside",
    "verify",
]

LABELS_URL = "https://raw.githubusercontent.com/pytorch/hub/master/imagenet_classes.txt"
PATIENCE = Patience()
LABELS_PATIENCE = Patience(connect=3, read=5, window=5, attempts=1)
_LARGEST_LABELS = 100_000  # bytes
_HUB = "hf://"  # begins the origin that stands for the hub


def ignore(_message: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Access:
    """How weights may be had.

    `mirror` is a private URL prefix or a folder, asked first; `offline` forbids every connection;
    `progress` shows a download, `notify` tells what the user should know while it waits.
    """

    mirror: str | None = None
    offline: bool = False
    progress: Progress | None = None
    notify: Callable[[str], None] = ignore
    patience: Patience = PATIENCE


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What `verify` found.

    `expected` is the published SHA-256 or its first digits, empty where none is known: then `ok`
    only means that the file is there. `actual` is empty when the file is missing.
    """

    status: Literal["ok", "damaged", "missing"]
    path: Path
    expected: str
    actual: str = ""


@dataclass(frozen=True, slots=True)
class _Request:
    """A file to be had: where it belongs, where it may come from, and how to speak of it."""

    place: Partial
    origins: tuple[str, ...]  # URLs and paths, asked in turn
    title: str
    advice: str  # how else to get it
    looked_at: tuple[Path, ...]


def ensure(
    variant: Variant,
    access: Access = Access(),
    source: str | None = None,
    *,
    hub_first: bool = False,
) -> Path:
    """The verified file of the variant's weights; downloaded when it is not on this machine.

    `source` is a path or URL that replaces the published weights. A path is returned as it is.
    With `hub_first`, for names of the hub, its copy is preferred to torch.hub's. The hub is asked
    after the published hosts, but before them where it is preferred or HF_ENDPOINT names one.

    Raises:
        OfflineError: it is not on this machine, and `access.offline` forbids to connect.
        DownloadError: no host gave it.
        CacheError: the cache folder cannot be written, or is full.
        WeightsError: the variant has no published weights, or `source` does not exist.
    """
    if source is not None:
        return _from_source(source, access)
    weights = _published(variant)
    if found := _good_copy(variant, access.notify, hub_first=hub_first):
        return found
    if weights.bundled:
        raise WeightsError(
            f"{torch_path(weights)}, which comes with the program, is missing or damaged. Install "
            "resnest-cli again."
        )
    target = torch_path(weights)
    hub = (f"{_HUB}{variant.hub.id}",) if variant.hub else ()
    first = hub_first or paths.huggingface_endpoint() != paths.PUBLIC_HUB
    hosts = (*hub, *weights.urls) if first else (*weights.urls, *hub)
    request = _Request(
        Partial(target, weights.hash_prefix, "TORCH_HOME", 8 * (variant.parameters or LARGEST)),
        (*_mirrored(access.mirror, weights.name), *hosts),
        f"{weights.name}, the weights of {variant.id},",
        f"run `resnest download {variant.id}` where there is a network, ",
        (target, *((hub_folder(variant.hub.id),) if variant.hub else ())),
    )
    path, origin = _obtain(
        request,
        access,
        lambda: _good_copy(variant, ignore, hub_first=hub_first),
        lambda: hub_files.fetch_published(variant, access),
    )
    if origin and not origin.startswith(_HUB):
        fetch_labels(access, public=is_url(origin))
    return path


def verify(variant: Variant) -> VerifyResult:
    """Hash the variant's file anew, whatever is remembered of it.

    Raises:
        CacheError: the file cannot be read.
        WeightsError: the variant has no published weights.
    """
    weights = _published(variant)
    for path, expected in copies(variant).items():
        try:
            actual = hashes.sha256_of(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not actual.startswith(expected):
            hashes.forget(path)
            return VerifyResult("damaged", path, expected, actual)
        hashes.remember(path, actual)
        return VerifyResult("ok", path, expected, actual)
    return VerifyResult("missing", torch_path(weights), weights.hash_prefix)


def fetch_labels(access: Access = Access(), *, public: bool = True) -> Path | None:
    """Fetch the published class file into `$RESNEST_HOME`; None, without a word, if that fails.

    One quick attempt per place: the mirror, then the public host unless `public` is false.
    """
    target = paths.resnest_home() / LABELS_FILE
    request = _Request(
        Partial(target, LABELS_SHA256, "RESNEST_HOME", _LARGEST_LABELS),
        (*_mirrored(access.mirror, LABELS_FILE), *((LABELS_URL,) if public else ())),
        LABELS_FILE,
        "",
        (target,),
    )

    def look() -> Path | None:
        return target if _is_good(target, LABELS_SHA256) else None

    quick = replace(access, progress=None, notify=ignore, patience=LABELS_PATIENCE)
    try:
        return look() or _obtain(request, quick, look)[0]
    except WeightsError:
        return None  # the same labels come with the program


def _published(variant: Variant) -> WeightsFile:
    if variant.weights is None:
        raise WeightsError(
            f"{variant.id} has no published weights: give a checkpoint, for example "
            f"--weights best.safetensors"
        )
    return variant.weights


def _good_copy(
    variant: Variant, notify: Callable[[str], None], *, hub_first: bool = False
) -> Path | None:
    """The first copy on this machine whose hash is right."""
    for path, expected in copies(variant, hub_first=hub_first).items():
        if _is_good(path, expected):
            return path
        if variant.weights and path != torch_path(variant.weights):
            notify(f"{path} is damaged: its SHA-256 is not {expected}. It is not used")
    return None


def _is_good(path: Path, expected: str) -> bool:
    try:
        if not expected:
            return path.stat().st_size > 0
        return hashes.known_sha256(path).startswith(expected)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> CacheError:
    return CacheError(
        f"cannot read {path}: {error.strerror or error}. Make it readable, or remove it so that "
        f"it is fetched again."
    )


def _obtain(
    request: _Request,
    access: Access,
    look: Callable[[], Path | None],
    from_hub: Callable[[], Path] | None = None,
) -> tuple[Path, str]:
    """The file that `look` finds once the lock is held, else the file fetched from an origin.

    Returns its path and the origin, which is empty for a file that another process has fetched.
    What `from_hub` fetches lies in the hub's own cache.
    """
    place, reasons = request.place, []
    if missing := no_place(place.target.parent, place.variable):
        raise CacheError(
            f"{request.title} is not on this machine, and {missing}{_instead(request)}"
        )
    offline = paths.huggingface_offline()
    origins = [
        origin
        for origin in request.origins
        if not (access.offline and is_url(origin)) and not (offline and origin.startswith(_HUB))
    ]
    if not origins:
        raise _not_available(request, access, [])
    with locked(place.target, place.variable, access.notify):
        if found := look():
            return found, ""
        if place.target.is_file():
            aside = set_aside(place.target)
            access.notify(
                f"{place.target} is damaged: set aside as {aside.name}, fetching it again"
            )
        for origin in origins:
            try:
                if from_hub and origin.startswith(_HUB):
                    return from_hub(), origin
                if is_url(origin):
                    sha256 = fetch(origin, place, access.patience, access.progress, access.notify)
                else:
                    sha256 = copy(Path(origin), place, access.progress)
            except DownloadError as error:
                reasons.append(f"{without_login(origin)}: {error}")
            else:
                hashes.remember(place.target, sha256)
                return place.target, origin
        raise _not_available(request, access, reasons)


def _not_available(request: _Request, access: Access, reasons: list[str]) -> WeightsError:
    """The error after every origin was asked in vain, or none may be asked."""
    target = request.place.target
    origins = [origin for origin in request.origins if not origin.startswith(_HUB)]
    urls = [without_login(origin) for origin in origins if is_url(origin)]
    if access.offline:
        looked = [
            f"{p}: {'damaged' if p.is_file() else 'not there'}"
            for p in request.looked_at
            if not paths.homeless(p)
        ]
        return OfflineError(
            f"{request.title} is not on this machine, and --offline (RESNEST_OFFLINE) forbids to "
            f"connect. Looked at\n{_listed([*looked, *reasons])}\n"
            f"To get it, {request.advice}or download it elsewhere from\n{_listed(urls)}\n"
            f"and save it as\n{_listed([str(target)])}{_instead(request)}"
        )
    return DownloadError(
        f"{request.title} could not be downloaded. Tried\n{_listed(reasons)}\n"
        f"Behind a proxy, set HTTPS_PROXY to its address and, if it inspects TLS, "
        f"REQUESTS_CA_BUNDLE to its certificate; --mirror names a private copy. Or by hand: open "
        f"one of these addresses in a browser\n{_listed(urls)}\n"
        f"and save the file as\n{_listed([str(target)])}{_instead(request)}"
    )


def _instead(request: _Request) -> str:
    """What serves without a network, where the weights of a published variant are missing."""
    if not request.advice:
        return ""
    small = get_variant(BUNDLED_MODEL)
    return (
        f"\nWithout a connection there is --model {BUNDLED_MODEL}: a small network that comes with "
        f"the program, for {small.num_classes} classes ({small.dataset})."
    )


def _listed(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _from_source(source: str, access: Access) -> Path:
    """What `--weights` names: a path as it is, or a URL's file."""
    if is_url(source):
        return _from_url(source, access)
    path = paths.expanded(source)
    if path.is_file():
        return path
    problem = "it is a folder" if path.is_dir() else "there is no such file"
    raise WeightsError(f"cannot use weights {source}: {problem}. Give a file or an http(s) URL.")


def _from_url(url: str, access: Access) -> Path:
    """The file behind a URL, from `$RESNEST_HOME/weights` if it was fetched before.

    Follows torch.hub: hex digits at the end of the name are the beginning of the SHA-256.
    """
    if not re.match(r"https?://[^/]", url, re.IGNORECASE):
        raise WeightsError(f"cannot use weights {url}: only http(s) URLs and files are known.")
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    name = re.sub(r"[^\w.+-]", "_", last)[-100:].lstrip(".") or "weights"
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]
    target = paths.resnest_home() / "weights" / folder / name
    digits = re.search(r"-([0-9a-f]{8,64})\.(?:pth|safetensors)$", name)
    expected = digits[1] if digits else ""

    def look() -> Path | None:
        if not _is_good(target, expected):
            return None
        if not expected and (why := distrusted(target)):  # nothing but its owner vouches for it
            raise CacheError(
                f"{target}, the file of {without_login(url)}, is not used: it {why}. Remove it, or "
                "set RESNEST_HOME to a folder of your own."
            )
        return target

    place = Partial(target, expected, "RESNEST_HOME")
    request = _Request(place, (url,), without_login(url), "", (target,))
    return look() or _obtain(request, access, look)[0]


def _mirrored(mirror: str | None, name: str) -> tuple[str, ...]:
    """Where the mirror, a URL prefix or a folder, keeps a file."""
    if not mirror:
        return ()
    if is_url(mirror):
        return (f"{mirror.rstrip('/')}/{name}",)
    return (str(paths.expanded(mirror) / name),)
