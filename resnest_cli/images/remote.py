"""An http(s) address -> the bytes of a photo, or an `ImageError` that says why not.

Whatever the server does, a call ends within its total time and holds no more than its limit of
bytes: an announced length is looked at first, but the bytes that arrive are counted.

The content decides, never the announced type: a photo served as text/html is a photo, and a web
page served as image/jpeg is an error. Fewer bytes than announced are an error, never half a photo.

requests is imported on first use; each thread keeps one session, and with it open connections.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from resnest_cli import __version__, web
from resnest_cli.errors import ImageError, one_line

if TYPE_CHECKING:
    from requests import Response

    from resnest_cli.net.deadline import DeadlineSession

_CHUNK = 64 * 1024  # bytes
_HEAD = 512  # bytes; enough to recognise a web page
_MAX_MESSAGE = 300  # characters of what a server or a library says
_HEADERS = {
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "identity",  # photos are compressed already
    "User-Agent": f"resnest-cli/{__version__}",
}
_local = threading.local()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a photo's server may ask of us.

    `max_bytes` is for the file; `connect` and `read` are seconds without any answer, `total`
    seconds for everything, pauses and further attempts included. `attempts` is how often an
    overloaded server or a broken connection is tried, `redirects` how many of them are followed.
    `sleep` waits a number of seconds.
    """

    max_bytes: int = 100 * 2**20
    connect: float = 10.0
    read: float = 30.0
    total: float = 60.0
    attempts: int = 3
    redirects: int = 10
    sleep: Callable[[float], None] = time.sleep


class _TryAgainError(Exception):
    """This attempt failed; the next one may not. `wait`: seconds, None: the usual pause."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch_photo(url: str, *, offline: bool = False, limits: Limits = Limits()) -> bytes:
    """The bytes behind an http(s) address, at least one. Safe to call from several threads.

    They need not be those of an image: `decode` finds out.

    Args:
        url: may carry a user name and a password, which no message shows.
        offline: refuse, without connecting.
        limits: on size and time.

    Raises:
        ImageError: whatever went wrong. The message is one line that goes on after the input's
            name: "cannot be fetched: it answered 404 Not Found: there is no such file".
    """
    if offline:
        raise ImageError("is a URL, and --offline forbids to connect")
    try:
        return _Fetch(url, limits).run()
    except ImageError as error:
        line = one_line(str(error))
        if len(line) > _MAX_MESSAGE:
            line = f"{line[: _MAX_MESSAGE - 3]}..."
        raise ImageError(line) from error.__cause__


class _Fetch:
    """One photo: as many redirects and attempts as it takes, within the limits."""

    def __init__(self, url: str, limits: Limits) -> None:
        from resnest_cli.net.deadline import Deadline

        self.url, self.limits = url, limits
        self.session = _session()
        self.deadline = Deadline(limits.total)
        self.via = ""  # the address that redirects led to

    def run(self) -> bytes:
        """Attempt until the photo is here, while there is time."""
        for attempt in range(self.limits.attempts):
            try:
                return self.attempt()
            except _TryAgainError as error:
                reason = str(error)
                wait = 0.5 * 2**attempt if error.wait is None else error.wait
            if attempt + 1 == self.limits.attempts or wait >= self.deadline.left:
                break
            self.limits.sleep(wait)
        raise self.error(reason)

    def attempt(self) -> bytes:
        """Follow redirects to the photo, and receive it."""
        from urllib3.exceptions import HTTPError

        from resnest_cli.net.deadline import RedirectError

        self.via = ""
        try:
            with self.session.follow(
                self.url,
                self.deadline,
                (self.limits.connect, self.limits.read),
                _HEADERS,
                self.limits.redirects,
                moved=self.move,
            ) as response:
                return self.body(response)
        except RedirectError as error:
            raise ImageError(str(error)) from error
        except (OSError, ValueError, HTTPError) as error:  # requests' errors are OSErrors
            raise self.failure(error) from error

    def move(self, address: str) -> None:
        """Notes where a redirect leads."""
        self.via = address

    def body(self, response: "Response") -> bytes:
        """The photo's bytes, whole, and not above the limit."""
        status = response.status_code
        if status in web.TRY_AGAIN:
            raise _TryAgainError(web.refusal(response), web.retry_after(response))
        if status != 200:
            raise self.error(web.refusal(response))
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise self.error(f"it answered with content encoding {encoding}, unasked")
        data = self.receive(response)
        if encoding not in {"", "identity"}:
            data = self.unpacked(data, encoding)
        if not data:
            raise ImageError("is empty (0 bytes)")
        if web.is_web_page(data[:_HEAD]):
            raise ImageError("is a web page, not an image")
        return data

    def receive(self, response: "Response") -> bytes:
        """The body as it comes over the wire."""
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        chunked = "Transfer-Encoding" in response.headers  # which makes the length void
        length = None if chunked else web.length(response)
        if length is not None and length > self.limits.max_bytes:
            raise self.too_large(f" ({length:,})")
        data = BytesIO()  # gives its bytes away without a copy
        try:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                data.write(chunk)
                if data.tell() > self.limits.max_bytes:
                    raise self.too_large()
        except (ReadTimeoutError, TimeoutError):
            raise
        except (HTTPError, OSError) as error:
            raise _TryAgainError(_broken(data.tell(), length)) from error
        if length is not None and data.tell() != length:  # urllib3 1 does not tell
            raise _TryAgainError(_broken(data.tell(), length))
        return data.getvalue()

    def unpacked(self, data: bytes, encoding: str) -> bytes:
        """What was compressed for the transport; a bomb is not unpacked further than the limit."""
        import gzip
        import zlib

        most = self.limits.max_bytes + 1
        whole = True
        try:
            if encoding == "deflate":
                inflater = zlib.decompressobj()
                plain = inflater.decompress(data, most)
                whole = inflater.eof
            else:
                with gzip.open(BytesIO(data)) as stream:
                    plain = stream.read(most)
        except (OSError, EOFError, zlib.error) as error:
            raise self.error(f"its {encoding} encoding is damaged") from error
        if not whole and len(plain) < most:
            raise self.error(f"its {encoding} encoding is cut short")
        if len(plain) == most:
            raise self.too_large()
        return plain

    def too_large(self, size: str = "") -> ImageError:
        return ImageError(f"is larger than the limit of {self.limits.max_bytes:,} bytes{size}")

    def error(self, reason: str) -> ImageError:
        where = f" after a redirect to {self.via}" if self.via else ""
        return ImageError(f"cannot be fetched{where}: {reason}")

    def failure(self, error: Exception) -> Exception:
        """The error to raise: can trying again help, and what happened, in plain words."""
        from requests import exceptions
        from urllib3.exceptions import MaxRetryError, ReadTimeoutError

        timeout = isinstance(error, exceptions.Timeout | ReadTimeoutError | TimeoutError)
        if timeout and self.deadline.expired:
            return self.error(f"it took longer than {self.limits.total:g} s")
        if isinstance(error, ReadTimeoutError | TimeoutError):
            return self.error(web.STOPPED)
        if isinstance(error, ValueError) and not isinstance(error, exceptions.InvalidHeader):
            return ImageError("is no valid URL")  # requests' InvalidURL is one of them
        reason = web.plain(error)
        final = exceptions.SSLError, exceptions.ProxyError, exceptions.Timeout
        unreachable = bool(error.args) and isinstance(error.args[0], MaxRetryError)
        if isinstance(error, exceptions.ConnectionError) and not (
            unreachable or isinstance(error, final)
        ):
            return _TryAgainError(reason)
        return self.error(reason)


def _broken(received: int, length: int | None) -> str:
    if length is None:
        return f"the connection broke after {received:,} bytes"
    return f"it sent {received:,} of {length:,} bytes"


def _session() -> "DeadlineSession":
    """This thread's session."""
    from resnest_cli.net.deadline import DeadlineSession

    session: DeadlineSession | None = getattr(_local, "session", None)
    if session is None:
        session = _local.session = DeadlineSession()
    return session
