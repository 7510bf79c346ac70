"""Hugging Face's hub: files fetched into its cache, and folders sent to it.

The only importer of `huggingface_hub`, which is imported when the hub is asked, and not before. The
library does the work: its cache is timm's and transformers', too; it finds tokens and proxies.
Four things are added. Its messages and bars are ours. A file whose name in the cache is a SHA-256
is hashed when it has arrived, since the library compares sizes only. The token goes to the hub
alone: the library would send it to the public hub as well, where a private one redirects. A body
has a least speed and a largest size.
"""

import contextlib
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from resnest_cli import __version__, paths
from resnest_cli.errors import CacheError, DownloadError, ResnestError
from resnest_cli.net import LARGEST, Access, HttpError, TooLargeError, without_login
from resnest_cli.progress import Display, hidden
from resnest_cli.text import count, megabytes, one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOGIN = "set HF_TOKEN to a token that may, or run `hf auth login`"
_T = TypeVar("_T")
_CHUNK = 1 << 18  # bytes that a broken connection loses; the library's 10 MB are a coarse bar, too
_NAMED: dict[str, Any] = {"library_name": "resnest-cli", "library_version": __version__}


class NoSuchEntryError(HttpError):
    """The repository is there, the file is not."""


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub at an address, and how to ask it. Without `login` no token is sent."""

    endpoint: str
    access: Access
    login: bool = True

    @property
    def token(self) -> bool | None:
        """What the library takes: None, its own search for a token; False, no token."""
        return None if self.login else False

    @property
    def host(self) -> str:
        """Its name in messages."""
        return urlsplit(without_login(self.endpoint)).netloc or self.endpoint


def cached_repository(repository: str) -> Path:
    """The folder in which the hub's cache keeps a repository."""
    return paths.huggingface_hub_dir() / f"models--{repository.replace('/', '--')}"


def cached_snapshot(repository: str, revision: str) -> Path | None:
    """The snapshot of a branch, tag or commit in the hub's cache, if it was ever fetched.

    Read by hand: importing huggingface_hub takes a fifth of a second, which a warm start has not.
    """
    folder = cached_repository(repository)
    commit = revision
    with contextlib.suppress(OSError, ValueError):
        commit = (folder / "refs" / revision).read_text("utf-8").strip()
    if not re.fullmatch(r"[\w-]+", commit):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if paths.is_folder(snapshot) else None


def blob_hash(path: Path) -> str:
    """The SHA-256 by which the hub's cache names a large file; empty where it does not."""
    name = path.resolve().name
    return name if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", name) else ""


def discard(path: Path) -> None:
    """Removes a file of the cache and what it links to."""
    for one in (path.resolve(), path):
        with contextlib.suppress(OSError):
            one.unlink()


def download(hub: Hub, repository: str, file: str, revision: str) -> Path:
    """A file of a repository, in the cache: fetched unless its newest version lies there.

    The path is below `snapshots/COMMIT/`; a branch's commit is noted in `refs/` by the library.

    Raises:
        NoSuchEntryError: there is no such file.
        DownloadError: the hub does not give it; the message is the reason alone.
        CacheError: the cache cannot be written, or is full.
    """
    with _at_work(hub):
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        def ask() -> Any:
            url = hf_hub_url(repository, file, revision=revision, endpoint=hub.endpoint)
            timeout, token = hub.access.patience.connect, hub.token
            return get_hf_file_metadata(
                url, token=token, timeout=timeout, endpoint=hub.endpoint, **_NAMED
            )

        def fetch() -> Any:
            return hf_hub_download(
                repository,
                file,
                revision=revision,
                cache_dir=paths.huggingface_hub_dir(),
                endpoint=hub.endpoint,
                token=hub.token,
                tqdm_class=_bar(hub.access.progress, file),
                **_NAMED,
            )

        # The metadata first: their errors are plain, where those of a download are not.
        found = _patiently(hub, repository, revision, ask)
        if found.commit_hash is None or found.etag is None:
            raise DownloadError(
                f"{hub.host} does not answer as a hub of Hugging Face does; see HF_ENDPOINT"
            )
        if (found.size or 0) > LARGEST:
            raise TooLargeError(LARGEST)
        for again in (False, True):
            path = Path(_patiently(hub, repository, revision, fetch))
            expected = blob_hash(path)
            with path.open("rb") as arrived:
                if not expected or hashlib.file_digest(arrived, "sha256").hexdigest() == expected:
                    return path
            discard(path)
            # Resumed bytes can be those of another version: the library asks for a range without
            # a condition.
            if not again:
                hub.access.notify(
                    f"{file} of {repository}: what arrived has another SHA-256; once more"
                )
        raise DownloadError(f"what arrives as {file} has another SHA-256 than the hub says")


def files_of(hub: Hub, repository: str, revision: str) -> list[str]:
    """The names of a repository's files; empty where the hub does not say."""
    with _at_work(hub):
        from huggingface_hub.errors import HfHubHTTPError

        with contextlib.suppress(HfHubHTTPError, OSError, ValueError):
            return _api(hub).list_repo_files(repository, revision=revision)
    return []


def push(
    hub: Hub, folder: Path, files: list[str], repository: str, *, private: bool, message: str
) -> str:
    """Uploads files of a folder in one commit, and returns the address of the repository.

    The repository is made where there is none. A README.md that is there is kept, as timm does.

    Raises:
        ResnestError: the hub refuses, or cannot be reached; the message says what to do.
    """
    try:
        with _at_work(hub), _in_words(hub, repository, "main"):
            api = _api(hub)
            address = str(api.create_repo(repository, private=private or None, exist_ok=True))
            if private and not api.model_info(repository).private:
                raise ResnestError(
                    f"{repository} exists and is public; nothing was sent. Make it private on its "
                    "page, or leave --private out."
                )
            if api.file_exists(repository, "README.md"):
                hub.access.notify(f"{repository} has a README.md, which is kept")
                files = [name for name in files if name != "README.md"]
            size = megabytes(sum((folder / name).stat().st_size for name in files))
            hub.access.notify(f"Sending {count(len(files), 'file')}, {size}, to {address}")
            api.upload_folder(
                repo_id=repository, folder_path=folder, allow_patterns=files, commit_message=message
            )
            return address
    except DownloadError as error:
        said = str(getattr(error.__cause__, "server_message", None) or "")
        more = f" ({one_line(said)})" if said else ""
        raise ResnestError(
            f"{repository} was not sent: {error}{more}. The token needs the right to write."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise ResnestError(f"{repository} was not sent: {one_line(str(error))}") from error


def _api(hub: Hub) -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.endpoint, token=hub.token, **_NAMED)


def _patiently(hub: Hub, repository: str, revision: str, ask: Callable[[], _T]) -> _T:
    """What `ask` returns, which is called again where the hub is busy or the connection breaks."""
    from resnest_cli.net.http import persevere

    def attempt() -> _T:
        with _in_words(hub, repository, revision):
            return ask()

    return persevere(
        attempt, hub.access.patience, notify=lambda text: hub.access.notify(f"{repository}: {text}")
    )


@contextmanager
def _in_words(hub: Hub, repository: str, revision: str) -> Iterator[None]:
    """Turns what the library raises into an HttpError or CacheError in plain words."""
    import httpx2
    from huggingface_hub import errors

    page = f"{hub.endpoint}/{repository}"
    known: dict[type[Exception], str] = {
        errors.GatedRepoError: f"access to it is granted on request: ask on {page}, then {_LOGIN}",
        errors.RepositoryNotFoundError: (
            f"{hub.host} has no such repository, or it is private: then {_LOGIN}"
        ),
        errors.RevisionNotFoundError: f"it has no revision {revision}",
        errors.LocalTokenNotFoundError: f"there is no token: {_LOGIN}",
        errors.LocalEntryNotFoundError: f"{hub.host} stopped answering",
    }
    try:
        yield
    except errors.RemoteEntryNotFoundError as error:
        raise NoSuchEntryError("it has no such file") from error
    except tuple(known) as error:
        words = next(words for kind, words in known.items() if isinstance(error, kind))
        raise HttpError(words) from error
    except errors.HfHubHTTPError as error:
        raise _refused(hub, error) from error
    except httpx2.HTTPError as error:
        raise _broken(hub, error) from error
    except RuntimeError as error:  # of hf_xet, which fetches from the public hub's storage
        raise HttpError(one_line(str(error))) from error
    except OSError as error:
        if error.errno is None:  # the library's words, such as a wrong size
            words = str(error).partition("\n")[0].partition(" Please")[0]
            raise HttpError(one_line(words).rstrip(".")) from error
        raise CacheError(
            f"cannot write to {paths.huggingface_hub_dir()}: {error.strerror}. Free some space, "
            "make it writable, or set HF_HOME to another folder."
        ) from error


def _broken(hub: Hub, error: Exception) -> HttpError:
    """What happened to the connection."""
    import httpx2

    words = one_line(str(error))
    if isinstance(error, httpx2.ProxyError):
        return HttpError(f"the proxy refused ({words}); see HTTPS_PROXY")
    if isinstance(error, httpx2.TimeoutException):
        return HttpError(f"{hub.host} does not answer in time", again=True)
    if isinstance(error, httpx2.ConnectError):
        hint = "; see SSL_CERT_FILE" if "CERTIFICATE" in words.upper() else ""
        return HttpError(f"{hub.host} cannot be reached: {words}{hint}")
    again = isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError)
    return HttpError(f"the connection broke: {words}", again=again)


def _refused(hub: Hub, error: Any) -> HttpError:
    """What a status means; the hub is asked again where it may pass within a minute."""
    from resnest_cli.net.http import MAX_WAIT, TRY_AGAIN

    status, value = error.response.status_code, error.response.headers.get("Retry-After", "")
    if status == 404:
        return NoSuchEntryError(f"{hub.host} has no such file (404)")
    wait = float(value) if value.strip().isdecimal() and value.isascii() else None
    if status == 401:
        reason = f"does not accept the token (401): {_LOGIN}"
    elif status == 403:
        reason = f"refuses access (403): {_LOGIN}"
    elif status == 429:
        when = "later" if wait is None else f"in {wait:.0f} s"
        reason = (
            f"is asked too often from here (429): try again {when}. With a token (HF_TOKEN) more "
            "is allowed"
        )
    else:
        reason = f"answered {status} {one_line(error.response.reason_phrase or '')}".rstrip()
    again = status in TRY_AGAIN and (wait is None or wait <= MAX_WAIT)
    return HttpError(f"{hub.host} {reason}", status=status, again=again, wait=wait)


@contextmanager
def _at_work(hub: Hub) -> Iterator[None]:
    """Keeps the library silent, and the token with the hub, until the block ends."""
    import logging

    # Before the library is imported: it asks the public hub which programs it may be run by.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    log = logging.getLogger("huggingface_hub")
    level, session = log.level, get_session()
    hooks, chunk = session.event_hooks, constants.DOWNLOAD_CHUNK_SIZE
    without_xet, with_bars = constants.HF_HUB_DISABLE_XET, not are_progress_bars_disabled()
    log.setLevel(logging.CRITICAL)
    try:
        session.event_hooks = hooks | {
            "request": [*hooks["request"], _token_stays_with(hub)],
            "response": [*hooks["response"], _body_ends(hub)],
        }
        constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
        # Xet is the public hub's storage; every hub has the protocol of Git LFS.
        constants.HF_HUB_DISABLE_XET = without_xet or hub.endpoint != paths.PUBLIC_HUB
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            disable_progress_bars()  # an upload takes no class of ours for them
            yield
    finally:
        session.event_hooks, constants.DOWNLOAD_CHUNK_SIZE = hooks, chunk
        constants.HF_HUB_DISABLE_XET = without_xet
        log.setLevel(level)
        if with_bars:
            enable_progress_bars()


def _token_stays_with(hub: Hub) -> Callable[[Any], None]:
    """A hook for requests that takes the login away from any that goes to another origin."""
    import httpx2

    own = httpx2.URL(hub.endpoint)

    def check(request: Any) -> None:
        there = request.url
        if (there.scheme, there.host, there.port) != (own.scheme, own.host, own.port):
            request.headers.pop("Authorization", None)

    return check


def _body_ends(hub: Hub) -> Callable[[Any], None]:
    """A hook for answers whose body is given up where it is too slow or too large."""
    import httpx2

    from resnest_cli.net.http import Deadline, too_slow

    class Body(httpx2.SyncByteStream):
        def __init__(self, body: Any) -> None:
            self.body = body

        def __iter__(self) -> Iterator[bytes]:
            deadline, size = Deadline(hub.access.patience.window, hub.access.patience.slowest), 0
            for data in self.body:
                deadline.advance(len(data))
                size += len(data)
                if deadline.expired:
                    raise HttpError(too_slow(hub.access.patience))
                if size > LARGEST:
                    raise TooLargeError(LARGEST)
                yield data

        def close(self) -> None:
            self.body.close()

    def wrap(response: Any) -> None:
        response.stream = Body(response.stream)

    return wrap


def _bar(display: Display, name: str) -> type:
    """A class in the place of tqdm's that shows the first bar of a download in our display.

    It sees a body unpacked, and gives up one that becomes larger than the hub said.
    """
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        taken = False

        def __init__(self, *_: object, **given: Any) -> None:
            super().__init__(
                disable=True, total=given.get("total"), initial=given.get("initial", 0)
            )
            self.first = not Bar.taken
            self.done: int = given.get("initial", 0)
            self.left = (given.get("total") or LARGEST) - self.done
            self.shown = ExitStack()
            # A second bar counts the same bytes once more.
            self.progress = self.shown.enter_context(display(name) if self.first else hidden(name))
            Bar.taken = True
            self.progress(self.done, self.total)

        def update(self, n: float | None = 1) -> None:
            self.left -= n or 0
            if self.left < 0:
                raise HttpError("it sends more than the whole file")
            self.done += int(n or 0)
            self.progress(self.done, self.total)

        def close(self) -> None:
            self.shown.close()
            if self.first:
                self.first = Bar.taken = False

    return Bar
