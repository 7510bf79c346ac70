"""A requests session whose calls end at a deadline, however slowly the server sends.

The timeouts of requests count anew with every packet, so that one byte a second keeps a call busy
for hours: in the status line, `100 Continue` without end, the headers, a chunk's length, the body,
or the trailers after it. Here each read of the socket waits no longer than the rest of the time.
Whoever receives a long body puts the deadline off while enough of it arrives.

No line is read further than its longest, and no body to its end at once, whatever its length.

Not to be cut short: the look-up of a host's name, which ends when the system's resolver gives up.

Imports requests: to be imported where a connection is made.
"""

import io
import socket
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from requests import Response, Session
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidHeader, InvalidURL
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Set by the thread that makes the call, and read in the same thread when an answer arrives.
_DEADLINE: ContextVar["Deadline"] = ContextVar("deadline")
_NO_URL = "redirects to no valid URL"
_LONGEST_LINE = 64 * 1024  # bytes; of a chunk's length or a trailer

Login = tuple[str, str] | None


class RedirectError(Exception):
    """A redirect that is not followed; the message, "redirects ...", says why."""


class Deadline:
    """A moment `seconds` from now; `expired` afterwards."""

    def __init__(self, seconds: float) -> None:
        self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """Puts it off until `seconds` from now."""
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, 0 once it has passed."""
        return max(self._end - time.monotonic(), 0.0)

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.left == 0.0


class Pace:
    """The least speed of a body: its deadline is put off when a window's bytes arrive in time.

    `window` is in seconds, `slowest` in bytes a second.
    """

    def __init__(self, window: float, slowest: int) -> None:
        self.window, self.least = window, slowest * window
        self.arrived = 0
        self.deadline = Deadline(window)

    def advance(self, n: int) -> None:
        """`n` more bytes."""
        self.arrived += n
        if self.arrived >= self.least:
            self.arrived = 0
            self.deadline.restart(self.window)


class DeadlineSession(Session):
    """Gets one address at a time, within a deadline. Follows no redirect and reads none's body.

    requests would read all of a redirect's body, whatever its size, even if it is not to follow.
    """

    def __init__(self) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def follow(
        self,
        url: str,
        deadline: Deadline,
        timeouts: tuple[float, float],
        headers: Mapping[str, str],
        redirects: int = 10,
        moved: Callable[[str], None] = lambda _: None,
    ) -> Response:
        """The first answer to GET that is not a redirect, its body still to be read.

        `timeouts` are those of requests. `moved` is told every address that it is sent to. A login
        in an address goes along to the same owner's, and to no other.

        Raises:
            RedirectError: too many redirects, or to something else than http(s).
            OSError, ValueError, urllib3's HTTPError: as `Session.get` does.
        """
        address, login = _split(url)
        self.cookies.clear()  # those of another call must not change this one
        for hop in range(redirects + 1):
            try:
                response = self._ask(address, login, deadline, timeouts, headers)
            except InvalidHeader:  # an answer's
                raise
            except ValueError as error:
                raise (RedirectError(_NO_URL) if hop else error) from error
            try:
                target = super().get_redirect_target(response)
                if target is None:
                    return response
                response.close()
                address, login = self._next(address, login, target)
            except ValueError as error:
                raise RedirectError(_NO_URL) from error
            moved(address)
        raise RedirectError(f"redirects more than {redirects} times")

    def _next(self, before: str, login: Login, target: str) -> tuple[str, Login]:
        """The address that an answer leads to, and the login that it may get."""
        target = urljoin(before, target)
        scheme = urlsplit(target).scheme
        if scheme not in {"http", "https"}:
            raise RedirectError(f"redirects to {scheme}:, which is not followed")
        address, new = _split(target)
        if new is None and not self.should_strip_auth(before, address):  # type: ignore[no-untyped-call]
            new = login
        return address, new

    def _ask(
        self,
        address: str,
        login: Login,
        deadline: Deadline,
        timeouts: tuple[float, float],
        headers: Mapping[str, str],
    ) -> Response:
        _DEADLINE.set(deadline)
        left = max(deadline.left, 0.001)  # 0 would mean not to block
        connect, read = (min(seconds, left) for seconds in timeouts)
        return self.get(address, stream=True, timeout=(connect, read), headers=headers, auth=login)

    def get_redirect_target(self, resp: Response) -> str | None:  # noqa: ARG002
        """Nothing, to requests."""
        return None


def _split(url: str) -> tuple[str, Login]:
    """An address without its login, and the login.

    requests gets them apart, so that its errors cannot show a password.
    """
    parts = urlsplit(url)
    if not (parts.hostname and parts.port != 0):  # what is no number is a ValueError
        raise InvalidURL("it is no valid URL")
    login = None
    if parts.username is not None:
        login = unquote(parts.username), unquote(parts.password or "")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, fragment="")), login


class _Raw(io.RawIOBase):
    """What a socket receives, up to the deadline."""

    def __init__(self, inner: io.RawIOBase, sock: socket.socket) -> None:
        self._inner, self._sock = inner, sock
        self._deadline = _DEADLINE.get()
        self._timeout = sock.gettimeout()

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
    """Reads its socket through `_Raw`."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = _Reader(_Raw(self.fp.detach(), sock))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    """Connects, directly or through a proxy, with the classes above."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager
