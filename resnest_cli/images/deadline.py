"""A requests session whose calls end at a deadline, however slowly the server sends.

The timeouts of requests count anew with every packet, so that one byte a second keeps a call busy
for hours: in the status line, the headers, a chunk's length, or the body. Here each read of the
socket waits no longer than the rest of the time.

Not to be cut short: the look-up of a host's name, which ends when the system's resolver gives up.

Imports requests: to be imported where a connection is made.
"""

import io
import socket
import time
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests import Response, Session
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Set by the thread that makes the call, and read in the same thread when an answer arrives.
_DEADLINE: ContextVar["Deadline"] = ContextVar("deadline")


class Deadline:
    """A moment `seconds` from now; `expired` afterwards."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, 0 once it has passed."""
        return max(self._end - time.monotonic(), 0.0)

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.left == 0.0


class DeadlineSession(Session):
    """Gets one address at a time, within a deadline. Follows no redirect and reads none's body.

    requests would read all of a redirect's body, whatever its size, even if it is not to follow.
    """

    def __init__(self) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def fetch(
        self, url: str, deadline: Deadline, timeouts: tuple[float, float], **options: Any
    ) -> Response:
        """The answer to GET, its body still to be read; `timeouts` are those of requests.

        Raises:
            OSError, ValueError, urllib3's HTTPError: as `Session.get` does.
        """
        _DEADLINE.set(deadline)
        left = max(deadline.left, 0.001)  # 0 would mean not to block
        connect, read = (min(seconds, left) for seconds in timeouts)
        return self.get(url, stream=True, timeout=(connect, read), **options)

    def get_redirect_target(self, resp: Response) -> str | None:  # noqa: ARG002
        """Nothing, to requests."""
        return None

    def redirect(self, response: Response) -> str | None:
        """Where an answer sends us, None if it does not."""
        return super().get_redirect_target(response)

    def same_owner(self, old: str, new: str) -> bool:
        """Whether a login for one address may be shown to the other."""
        return not self.should_strip_auth(old, new)  # type: ignore[no-untyped-call]


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


class _Response(HTTPResponse):
    """Reads its socket through `_Raw`."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Raw(self.fp.detach(), sock))


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
