"""HTTP: one session whose calls end at a deadline, one loop of attempts, answers in words.

The timeouts of requests count anew with every packet, so that one byte a second keeps a call busy
for hours: in the status line, `100 Continue` without end, the headers, a chunk's length, the body,
or the trailers after it. Here each read of the socket waits no longer than the rest of the time,
and no line is read further than its longest, no body to its end at once. Not to be cut short: the
look-up of a host's name, which ends when the system's resolver gives up.

Source: RFC 9110. Imports requests: to be imported where a connection is made.
"""

import contextlib
import io
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from requests import Response, Session, exceptions
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)
from urllib3.util import Retry

from resnest_cli import __version__
from resnest_cli.net import HttpError, Patience
from resnest_cli.progress import Notify, ignore
from resnest_cli.text import one_line

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_WAIT = 60.0  # seconds; the longest Retry-After that is honoured in full
TRY_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))  # statuses that may pass
HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"resnest-cli/{__version__}"}
_MAX_CONNECTIONS = 50  # per address, even if each of them brings a few bytes
_REDIRECTS = 10
_LONGEST_LINE = 64 * 1024  # bytes; of a chunk's length or a trailer
_MOST_WORDS = 300  # characters of what a server or a library says
_STOPPED = "it stopped sending"
_CONTRADICTION = exceptions.InvalidHeader
_BROKEN = exceptions.ConnectionError | exceptions.ChunkedEncodingError | ProtocolError
_NO_URL = "it redirects to no valid URL"
_REFUSED = {
    401: "it asks for a login",
    403: "access is refused",
    404: "there is no such file",
    407: "the proxy asks for a login; set HTTPS_PROXY=http://user:password@proxy:port",
    410: "the file was removed",
    451: "access is blocked for legal reasons",
}
_T = TypeVar("_T")
_Login = tuple[str, str] | None


class Deadline:
    """The moment at which a call ends, `seconds` from now.

    With a `slowest` speed, in bytes a second, it is put off whenever as many have arrived as are
    due in that time.
    """

    def __init__(self, seconds: float, slowest: int = 0) -> None:
        self.seconds, self.least = seconds, slowest * seconds
        self._arrived, self._end = 0, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, 0 once it has passed."""
        return max(self._end - time.monotonic(), 0.0)

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.left == 0.0

    def advance(self, n: int) -> None:
        """`n` more bytes have arrived."""
        self._arrived += n
        if self.least and self._arrived >= self.least:
            self._arrived, self._end = 0, time.monotonic() + self.seconds


# Set by the thread that makes the call, and read in the same thread when an answer arrives.
_DEADLINE: ContextVar[Deadline] = ContextVar("deadline")


class DeadlineSession(Session):
    """Gets one address at a time, within a deadline.

    Follows redirects itself: requests would read all of a redirect's body, whatever its size, even
    if it is not to follow. `via` is the address that the last ones led to.
    """

    via = ""

    def __init__(self) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def follow(
        self, url: str, deadline: Deadline, patience: Patience, headers: Mapping[str, str]
    ) -> Response:
        """The first answer to GET that is not a redirect, its body still to be read.

        A login in an address goes along to the same owner's, and to no other.

        Raises:
            HttpError: too many redirects, or to something else than http(s).
            OSError, ValueError, urllib3's HTTPError: as `Session.get` does.
        """
        self.via = ""
        address, login = _split(url)
        self.cookies.clear()  # those of another call must not change this one
        for hop in range(_REDIRECTS + 1):
            _DEADLINE.set(deadline)
            left = max(deadline.left, 0.001)  # 0 would mean not to block
            timeouts = min(patience.connect, left), min(patience.read, left)
            try:
                response = self.get(
                    address, stream=True, timeout=timeouts, headers=headers, auth=login
                )
            except _CONTRADICTION:  # it is the answer's
                raise
            except ValueError as error:
                raise (HttpError(_NO_URL) if hop else error) from error
            try:
                target = super().get_redirect_target(response)
                if target is None:
                    return response
                response.close()
                address, login = self._next(address, login, target)
            except ValueError as error:
                raise HttpError(_NO_URL) from error
            self.via = address
        raise HttpError(f"it redirects more than {_REDIRECTS} times")

    def _next(self, before: str, login: _Login, target: str) -> tuple[str, _Login]:
        """The address that an answer leads to, and the login that it may get."""
        target = urljoin(before, target)
        scheme = urlsplit(target).scheme
        if scheme not in {"http", "https"}:
            raise HttpError(f"it redirects to {scheme}:, which is not followed")
        address, new = _split(target)
        if new is None and not self.should_strip_auth(before, address):  # type: ignore[no-untyped-call]
            new = login
        return address, new

    def get_redirect_target(self, resp: Response) -> str | None:  # noqa: ARG002
        """Nothing, to requests."""
        return None


def _split(url: str) -> tuple[str, _Login]:
    """An address without its login, and the login: so requests' errors cannot show a password."""
    parts = urlsplit(url)
    if not (parts.hostname and parts.port != 0):  # what is no number is a ValueError
        raise exceptions.InvalidURL
    login = None
    if parts.username is not None:
        login = unquote(parts.username), unquote(parts.password or "")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, fragment="")), login


class _Raw(io.RawIOBase):
    """What a socket receives, up to the deadline."""

    def __init__(self, inner: io.RawIOBase, sock: socket.socket) -> None:
        self._inner, self._sock = inner, sock
        self._deadline, self._timeout = _DEADLINE.get(), sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        left = self._deadline.left
        if not left:
            raise TimeoutError("timed out")
        self._sock.settimeout(left if self._timeout is None else min(left, self._timeout))
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()


class _Reader(io.BufferedReader):
    """Reads so many bytes, never all there are; a negative length is what a hostile chunk has."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            raise HTTPException("it sent a length that is none")
        return super().read(size)

    def readline(self, size: int | None = -1) -> bytes:
        if size is not None and size >= 0:
            return super().readline(size)
        line = super().readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            raise HTTPException("it sent a line without end")
        return line


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = _Reader(_Raw(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


_WITH_DEADLINES = {HTTPConnection: _Connection, HTTPSConnection: _SecureConnection}


class _Adapter(HTTPAdapter):
    """Connects, directly or through a proxy, with the classes above."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _WITH_DEADLINES.get(pool.ConnectionCls, pool.ConnectionCls)
        return pool


def persevere(
    attempt: Callable[[], _T],
    patience: Patience,
    *,
    furthered: Callable[[], bool] = lambda: False,
    deadline: Deadline | None = None,
    notify: Notify = ignore,
) -> _T:
    """What `attempt` returns, which is called again where that may help, after growing pauses.

    `furthered` says whether an attempt that failed brought the file further all the same: it does
    not count as a failure then. No pause lasts beyond the `deadline`. `notify` takes the reason.
    """
    failures, connections = 0, 1
    while True:
        try:
            return attempt()
        except HttpError as error:
            failures = 0 if furthered() else failures + 1
            pause = min(patience.pause * 2.0 ** max(failures - 1, 0), MAX_WAIT)
            pause = pause if error.wait is None else error.wait
            last = failures >= patience.attempts or connections >= _MAX_CONNECTIONS
            if last or not error.again or (deadline is not None and pause >= deadline.left):
                raise
            notify(f"{error}; trying again in {pause:.0f} s")
        patience.sleep(pause)
        connections += 1


@contextlib.contextmanager
def answer(
    session: DeadlineSession,
    url: str,
    deadline: Deadline,
    patience: Patience,
    headers: Mapping[str, str],
    *,
    answered: bool = False,
) -> Iterator[Response]:
    """The answer to GET, its body still to be read; whatever goes wrong is an HttpError.

    `answered`: the server has answered before; one that cannot be reached now is asked again.
    """
    begun = False
    try:
        with session.follow(url, deadline, patience, headers) as response:
            begun = True
            yield response
    except HttpError as error:
        error.via = session.via
        raise
    except (OSError, ValueError, HTTPError) as error:  # requests' errors are OSErrors
        if not begun and isinstance(error, ValueError) and not isinstance(error, _CONTRADICTION):
            raise HttpError("it is no valid URL") from error
        failure = _failure(error, deadline, patience, answered=answered or begun)
        failure.via = session.via
        raise failure from error


def _failure(
    error: Exception, deadline: Deadline, patience: Patience, *, answered: bool
) -> HttpError:
    """What an exception means, and whether another attempt may help."""
    reason = _plain(error)
    silent = reason == _STOPPED or isinstance(error, exceptions.Timeout)
    if silent and deadline.expired and deadline.least:
        reason = too_slow(patience)
    elif silent and deadline.expired:
        reason = f"it took longer than {deadline.seconds:g} s"
    again = isinstance(error, _BROKEN | exceptions.Timeout)
    if isinstance(error, exceptions.SSLError | exceptions.ProxyError):
        again = False
    elif error.args and isinstance(error.args[0], MaxRetryError):  # it cannot be reached
        again = again and answered
    elif silent and patience.total is not None:  # most of that time has gone by
        again = False
    return HttpError(reason, again=again)


def _plain(error: Exception) -> str:
    """What happened, without the class names that requests and urllib3 put into their messages."""
    inner = error.args[0] if error.args else error
    cause = getattr(inner, "reason", inner)
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE" not in str(cause).upper():
        reason = (
            f"it does not speak TLS as expected ({cause}): is http:// meant? Behind a proxy see "
            f"HTTPS_PROXY and REQUESTS_CA_BUNDLE"
        )
    elif isinstance(error, _CONTRADICTION):
        reason = "its answer contradicts itself"
    elif isinstance(error, exceptions.SSLError):
        reason = (
            f"its TLS certificate was not accepted ({cause}); behind a proxy that inspects TLS "
            f"set REQUESTS_CA_BUNDLE to the proxy's certificate"
        )
    elif isinstance(error, exceptions.ProxyError):
        reason = f"the proxy could not be reached or refused ({cause}); see HTTPS_PROXY"
    elif isinstance(error, exceptions.ConnectTimeout):
        reason = "it cannot be reached: no answer to the connection"
    elif isinstance(error, exceptions.Timeout) or "timed out" in str(cause).lower():
        reason = _STOPPED
    elif isinstance(cause, NameResolutionError):
        reason = "its name cannot be resolved"
    elif isinstance(cause, NewConnectionError):
        reason = f"it cannot be reached: {str(cause).rpartition(': ')[2]}"
    elif isinstance(error, _BROKEN):
        while isinstance(cause, Exception) and cause.args and isinstance(cause.args[-1], Exception):
            cause = cause.args[-1]  # urllib3 chains them: ("Connection aborted.", error)
        reason = f"the connection broke: {cause}"
    elif isinstance(error, exceptions.ContentDecodingError):
        reason = "its compression is damaged"
    else:
        reason = str(cause)
    return one_line(reason)[:_MOST_WORDS]


def too_slow(patience: Patience) -> str:
    """Why a body of fewer bytes a second than the slowest is given up."""
    return f"it sends less than {patience.slowest:,} bytes a second"


def refused(response: Response) -> HttpError:
    """What a status other than success means."""
    status = response.status_code
    said = one_line(response.reason or "")[:_MOST_WORDS]
    reason = f"it answered {status} {said}".rstrip()
    meaning = _REFUSED.get(status)
    wait = None
    with contextlib.suppress(InvalidHeader, ValueError):
        if value := response.headers.get("Retry-After"):
            wait = min(Retry().parse_retry_after(value), MAX_WAIT)
    return HttpError(
        f"{reason}: {meaning}" if meaning else reason,
        status=status,
        again=status in TRY_AGAIN,
        wait=wait,
    )


def length_of(response: Response) -> int | None:
    """Size of the body in bytes, None if the server does not say, or no number that there is."""
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,4000}", length) else None


def encoding_of(response: Response) -> str:
    """gzip, x-gzip or deflate, of a body that is compressed all the same; else empty."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
        raise HttpError(f"it answered with content encoding {encoding}, unasked")
    return "" if encoding == "identity" else encoding


def continues(response: Response, have: int, total: int | None, validator: str) -> bool:
    """Whether a 206 is the rest of the very file whose first `have` bytes are here."""
    found = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)",
        response.headers.get("Content-Range", "").strip(),
    )
    if not found or int(found[1]) != have or "Content-Encoding" in response.headers:
        return False
    same_size = total is None or found[3] == "*" or int(found[3]) == total
    return same_size and validator_of(response) == validator


def validator_of(response: Response) -> str:
    """A strong ETag, else the date of last change, else empty: what If-Range may carry."""
    etag = response.headers.get("ETag", "").strip()
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "").strip()
