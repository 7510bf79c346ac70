"""Published weights: where they are, which hash they have, and what of them is on this machine.

`ensure` is the one road to a file of weights: the user's own file, else torch.hub's cache, else
the hub's, else a download from the mirror, the published hosts and the hub in turn. The first
digits of the SHA-256 in a published file's name decide whether a file is whole (torch.hub's
convention, torch.hub.load_state_dict_from_url); where it came from they do not prove.

Two caches belong to others and are shared: torch.hub's (`$TORCH_HOME/hub/checkpoints`, where files
are kept under their published names) and Hugging Face's, where timm's downloads lie, too.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from resnest_cli import paths
from resnest_cli.errors import CacheError, DownloadError, OfflineError, WeightsError
from resnest_cli.files import BusyError, distrusted, lock_file, reading
from resnest_cli.model import hashes
from resnest_cli.model.hub_models import MAIN, fetch_published, forbidden, weights_in
from resnest_cli.model.labels import LABELS_FILE, LABELS_SHA256
from resnest_cli.model.names import WEIGHTS_NAMES
from resnest_cli.model.variants import BUNDLED_MODEL, VARIANTS, Variant, WeightsFile, get_variant
from resnest_cli.net import LARGEST, Access, Patience, download, hub
from resnest_cli.net import without_login as shown
from resnest_cli.net.download import Place, lock_of, no_place, writing
from resnest_cli.paths import is_url
from resnest_cli.progress import Notify, hidden, ignore

LABELS_URL = "https://raw.githubusercontent.com/pytorch/hub/master/imagenet_classes.txt"
LABELS_PATIENCE = Patience(connect=3, read=5, window=5, attempts=1)
_LARGEST_LABELS = 100_000  # bytes
_HUB = "hf://"  # begins the origin that stands for the hub
_BUNDLED = Path(__file__).with_name("bundled")
_LEFTOVER = re.compile(r"(?P<name>.+?)\.(part|part\.json|lock|damaged|damaged\.\d+)")


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

    place: Place
    origins: tuple[str, ...]  # URLs and paths, asked in turn
    title: str
    advice: str  # how else to get it
    looked_at: tuple[Path, ...]


def ensure(
    variant: Variant,
    access: Access,
    *,
    hub_first: bool = False,
) -> Path:
    """The verified file of the variant's weights; downloaded when it is not on this machine.

    With `hub_first`, for names of the hub, its copy is preferred to torch.hub's. The hub is asked
    after the published hosts, but before them where it is preferred or HF_ENDPOINT names one.

    Raises:
        OfflineError: it is not on this machine, and `access.offline` forbids to connect.
        DownloadError: no host gave it.
        CacheError: the cache folder cannot be written, or is full.
        WeightsError: the variant has no published weights.
    """
    weights = _published(variant)
    if found := _good_copy(variant, access.notify, hub_first=hub_first):
        return found
    target = torch_path(weights)
    if weights.bundled:
        raise WeightsError(
            f"{target}, which comes with the program, is missing or damaged. Install resnest-cli "
            "again."
        )
    on_hub = (f"{_HUB}{variant.hub.id}",) if variant.hub else ()
    first = hub_first or paths.huggingface_endpoint() != paths.PUBLIC_HUB
    hosts = (*on_hub, *weights.urls) if first else (*weights.urls, *on_hub)
    request = _Request(
        Place(target, weights.hash_prefix, "TORCH_HOME", 8 * (variant.parameters or LARGEST)),
        (*_mirrored(access.mirror, weights.name), *hosts),
        f"{weights.name}, the weights of {variant.id},",
        f"run `resnest download {variant.id}` where there is a network, ",
        (target, *((hub.cached_repository(variant.hub.id),) if variant.hub else ())),
    )
    path, origin = _obtain(
        request,
        access,
        lambda: _good_copy(variant, ignore, hub_first=hub_first),
        lambda: fetch_published(variant, access),
    )
    if origin and not origin.startswith(_HUB):
        fetch_labels(access, public=is_url(origin))
    return path


def verify(variant: Variant) -> VerifyResult:
    """Hashes the variant's file anew, whatever is remembered of it."""
    weights = _published(variant)
    path, expected = next(_copies(variant), (None, weights.hash_prefix))
    if path is None:
        return VerifyResult("missing", torch_path(weights), expected)
    with _read(path):
        actual = hashes.sha256_of(path)
    if not actual.startswith(expected):
        hashes.forget(path)
        return VerifyResult("damaged", path, expected, actual)
    hashes.remember(path, actual)
    return VerifyResult("ok", path, expected, actual)


def fetch_labels(access: Access, *, public: bool = True) -> Path | None:
    """Fetches the published class file into `$RESNEST_HOME`; None, without a word, if that fails.

    One quick attempt per place: the mirror, then the public host unless `public` is false.
    """
    target = paths.resnest_home() / LABELS_FILE
    request = _Request(
        Place(target, LABELS_SHA256, "RESNEST_HOME", _LARGEST_LABELS),
        (*_mirrored(access.mirror, LABELS_FILE), *((LABELS_URL,) if public else ())),
        LABELS_FILE,
        "",
        (target,),
    )

    def look() -> Path | None:
        return target if _is_good(target, LABELS_SHA256) else None

    quick = replace(access, progress=hidden, notify=ignore, patience=LABELS_PATIENCE)
    try:
        return look() or _obtain(request, quick, look)[0]
    except WeightsError:
        return None  # the same labels come with the program


def torch_path(weights: WeightsFile) -> Path:
    """Where torch.hub and we keep a published file, or where a bundled one lies."""
    if weights.bundled:
        return _BUNDLED / weights.name
    return paths.torch_checkpoints_dir() / weights.name


def find_cached(variant: Variant) -> Path | None:
    """The variant's file, ours or timm's, if there is one. Quick: its content is not looked at."""
    return next((path for path, _ in _copies(variant)), None)


def _copies(variant: Variant, *, hub_first: bool = False) -> Iterator[tuple[Path, str]]:
    """Every copy of the variant's weights on this machine, and how its SHA-256 must begin.

    torch.hub's comes first, unless the hub's is wanted. The hash is empty where none is known.
    """
    if variant.weights is None:  # a network of one's own, whatever its id
        return
    own = torch_path(variant.weights)
    if not hub_first and paths.is_file(own):
        yield own, variant.weights.hash_prefix
    if variant.hub is not None and (entry := _timms_file(variant.hub.id)):
        known = variant.hub.sha256 if entry.name == WEIGHTS_NAMES[0] else ""
        yield entry, known or hub.blob_hash(entry)
    if hub_first and paths.is_file(own):
        yield own, variant.weights.hash_prefix


def _timms_file(repository: str) -> Path | None:
    """The file of the main branch's snapshot, else of the newest that has one."""
    snapshots = [main] if (main := hub.cached_snapshot(repository, MAIN)) else []
    with contextlib.suppress(OSError):
        folder = hub.cached_repository(repository) / "snapshots"
        every = [path for path in folder.iterdir() if paths.is_folder(path)]
        snapshots += sorted(every, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return next(filter(None, map(weights_in, snapshots)), None)


def _published(variant: Variant) -> WeightsFile:
    if variant.weights is None:
        raise WeightsError(
            f"{variant.id} has no published weights: give a checkpoint of it, for example "
            f"--model best.safetensors, or --weights with bare ones."
        )
    return variant.weights


def _good_copy(variant: Variant, notify: Notify, *, hub_first: bool = False) -> Path | None:
    """The first copy on this machine whose hash is right."""
    for path, expected in _copies(variant, hub_first=hub_first):
        if _is_good(path, expected):
            return path
        if variant.weights and path != torch_path(variant.weights):
            notify(f"{path} is damaged: its SHA-256 is not {expected}. It is not used")
    return None


def _is_good(path: Path, expected: str) -> bool:
    with _read(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return (
            hashes.known_sha256(path).startswith(expected) if expected else path.stat().st_size > 0
        )
    return False


def _read(path: Path) -> contextlib.AbstractContextManager[None]:
    then = "Make it readable, or remove it so that it is fetched again."
    return reading(path, CacheError, then=then)


def _obtain(
    request: _Request,
    access: Access,
    look: Callable[[], Path | None],
    from_hub: Callable[[], Path] | None = None,
) -> tuple[Path, str]:
    """The file that `look` finds once the lock is held, else what an origin gives, asked in turn.

    Returns its path and the origin, which is empty for a file that another process has fetched.
    What `from_hub` fetches lies in the hub's own cache.
    """
    place, target = request.place, request.place.target
    if missing := no_place(target.parent, place.variable):
        raise CacheError(
            f"{request.title} is not on this machine, and {missing}{_instead(request)}"
        )

    def fetch(origin: str) -> Path:
        if origin.startswith(_HUB):
            assert from_hub is not None
            return from_hub()
        if is_url(origin):
            sha256 = download.download(origin, place, access)
        else:
            sha256 = download.copy(Path(origin), place, access.progress)
        hashes.remember(target, sha256)
        return target

    def allowed(origin: str) -> bool:
        if origin.startswith(_HUB):
            return from_hub is not None and not forbidden(access)
        return not (access.offline and is_url(origin))

    origins = list(filter(allowed, request.origins))
    reasons: list[str] = []
    if not origins:
        raise _not_available(request, access, reasons)
    with download.locked(target, place.variable, access.notify):
        if found := look():
            return found, ""
        if target.is_file():
            aside = download.set_aside(target, place.variable)
            access.notify(f"{target} is damaged: set aside as {aside.name}, fetching it again")
        for origin in origins:
            try:
                return fetch(origin), origin
            except DownloadError as error:
                reasons.append(f"{shown(origin)}: {error}")
        raise _not_available(request, access, reasons)


def _not_available(request: _Request, access: Access, reasons: list[str]) -> WeightsError:
    """The error after every origin was asked in vain, or none may be asked."""
    target = request.place.target
    urls = [shown(url) for url in request.origins if is_url(url) and not url.startswith(_HUB)]
    by_hand = f"and save it as\n{_listed([str(target)])}{_instead(request)}"
    if access.offline:
        looked = [
            f"{path}: {'damaged' if path.is_file() else 'not there'}"
            for path in request.looked_at
            if not paths.homeless(path)
        ]
        return OfflineError(
            f"{request.title} is not on this machine, and --offline (RESNEST_OFFLINE) forbids to "
            f"connect. Looked at\n{_listed([*looked, *reasons])}\n"
            f"To get it, {request.advice}or download it elsewhere from\n{_listed(urls)}\n{by_hand}"
        )
    return DownloadError(
        f"{request.title} could not be downloaded. Tried\n{_listed(reasons)}\n"
        f"Behind a proxy, set HTTPS_PROXY to its address and, if it inspects TLS, "
        f"REQUESTS_CA_BUNDLE to its certificate; --mirror names a private copy. Or by hand: open "
        f"one of these addresses in a browser\n{_listed(urls)}\n{by_hand}"
    )


def _instead(request: _Request) -> str:
    """What serves without a network, where the weights of a published variant are missing."""
    if not request.advice:
        return ""
    small = get_variant(BUNDLED_MODEL)
    return (
        f"\nWithout a connection there is --model {BUNDLED_MODEL}: a small network that comes with "
        f"the program, right about {small.top1:.0f}% of {small.dataset}."
    )


def _listed(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _mirrored(mirror: str | None, name: str) -> tuple[str, ...]:
    """Where the mirror, a URL prefix or a folder, keeps a file."""
    if not mirror:
        return ()
    return (
        f"{mirror.rstrip('/')}/{name}" if is_url(mirror) else str(paths.expanded(mirror) / name),
    )


def fetched(url: str, access: Access) -> Path:
    """The file behind a URL, from `$RESNEST_HOME/weights` if it was fetched before.

    Follows torch.hub: hex digits at the end of the name are the beginning of the SHA-256. Raises as
    `ensure`.
    """
    if not is_url(url):
        raise WeightsError(
            f"cannot use weights {url}: there is no such file. Give a file or an http(s) URL."
        )
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
                f"{target}, the file of {shown(url)}, is not used: it {why}. Remove it, or set "
                "RESNEST_HOME to a folder of your own."
            )
        return target

    place = Place(target, expected, "RESNEST_HOME")
    request = _Request(place, (url,), shown(url), "", (target,))
    return look() or _obtain(request, access, look)[0]


def set_aside(path: Path) -> Path:
    """Renames a damaged file, so that it is fetched again; see `net.download`."""
    return download.set_aside(path, _variable(path))


def cached_files() -> list[Path]:
    """What can be removed: whole files first, then what interrupted downloads have left.

    These are published files in torch.hub's folder and those of URLs given by the user, but not
    what belongs to a download that is under way. Other files in torch.hub's folder and timm's
    downloads are not ours to remove and not listed.
    """
    published = {variant.weights.name for variant in VARIANTS.values() if variant.weights}
    found = [p for p in _files(paths.torch_checkpoints_dir()) if _owner(p).name in published]
    for folder in paths.entries(paths.resnest_home() / "weights", "[0-9a-f]*"):
        found += _files(folder)
    left = [path for path in found if path != _owner(path)]
    left += [
        path
        for path in _files(paths.resnest_home())
        if (path != _owner(path) and _owner(path).name == LABELS_FILE)
        or re.fullmatch(r"\.verified\.json\.[0-9a-f]{8}\.tmp", path.name)
    ]
    idle = [path for path in left if not _under_way(_owner(path)) and path.exists()]
    return [*(path for path in found if path == _owner(path)), *idle]


def _under_way(target: Path) -> bool:
    """Whether somebody downloads the file; a lock that a kill has left goes when it is tried."""
    lock = lock_of(target)
    try:
        with lock_file(lock, wait=0) if lock.exists() else contextlib.nullcontext():
            return False
    except (BusyError, OSError):
        return True


def _owner(path: Path) -> Path:
    """The file that a leftover belongs to; any other file is its own."""
    match = _LEFTOVER.fullmatch(path.name)
    return path.with_name(match["name"]) if match else path


def remove(path: Path) -> bool:
    """Removes one of `cached_files`; False while a download of it is under way."""
    try:
        with writing(path.parent, _variable(path)), lock_file(lock_of(_owner(path)), wait=0):
            path.unlink(missing_ok=True)
    except BusyError:
        return False
    if path.parent.parent == paths.resnest_home() / "weights":
        with contextlib.suppress(OSError):  # not empty yet
            path.parent.rmdir()
    return True


def _variable(path: Path) -> str:
    folders = {"RESNEST_HOME": paths.resnest_home(), "HF_HOME": paths.huggingface_hub_dir()}
    return next((name for name, at in folders.items() if path.is_relative_to(at)), "TORCH_HOME")


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []
