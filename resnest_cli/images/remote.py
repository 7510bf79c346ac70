"""Photos by URL: an http(s) address -> its bytes, or an `ImageError` that says why not.

Whatever the server does, a call ends within its total time and holds no more than its limit of
bytes. requests is imported on first use; each thread keeps one session, and with it open
connections.
"""

import threading
import zlib
from io import BytesIO
from typing import TYPE_CHECKING

from resnest_cli.errors import ErrorKind, ImageError
from resnest_cli.net import HEAD, HttpError, Patience, TooLargeError, is_web_page
from resnest_cli.text import one_line

if TYPE_CHECKING:
    from requests import Response

_CHUNK = 64 * 1024  # bytes
_PATIENCE = Patience(total=60.0, attempts=3, pause=0.5)
_MOST_WORDS = 300  # characters of an error
_local = threading.local()


def fetch_photo(
    url: str, *, offline: bool = False, largest: int = 100 * 2**20, patience: Patience = _PATIENCE
) -> bytes:
    """The bytes behind an http(s) address, at least one. Safe to call from several threads.

    They need not be those of an image: `decode` finds out. The content decides, never the announced
    type: a photo served as text/html is a photo, and a web page served as image/jpeg is an error.

    Args:
        url: may carry a user name and a password, which no message shows.
        offline: refuse, without connecting.
        largest: how many bytes it may have.
        patience: how long it may take.

    Raises:
        ImageError: whatever went wrong. The message is one line that goes on after the input's
            name: "cannot be fetched: it answered 404 Not Found: there is no such file".
    """
    if offline:
        raise ImageError("is a URL, and --offline forbids to connect", kind="not fetched")
    try:
        data = fetch(url, largest, patience)
    except HttpError as error:
        where = f" after a redirect to {error.via}" if error.via else ""
        line = one_line(f"cannot be fetched{where}: {error}")
        if len(line) > _MOST_WORDS:
            line = f"{line[: _MOST_WORDS - 3]}..."
        kind: ErrorKind = "too large" if isinstance(error, TooLargeError) else "not fetched"
        raise ImageError(line, kind=kind) from error.__cause__
    if not data:
        raise ImageError("is empty (0 bytes)", kind="empty")
    if is_web_page(data[:HEAD]):
        raise ImageError("is a web page, not an image", kind="not an image")
    return data


def fetch(url: str, largest: int, patience: Patience) -> bytes:
    """The bytes behind an http(s) address, in memory, within a total time.

    Fewer than announced are an error, never half a file; an announced length above the `largest` is
    refused, but the bytes that arrive are counted as well. Each thread keeps its open connections.
    """
    from resnest_cli.net import http

    if not hasattr(_local, "session"):
        _local.session = http.DeadlineSession()
    assert patience.total is not None
    deadline = http.Deadline(patience.total)
    headers = http.HEADERS | {"Accept": "image/*,*/*;q=0.5"}

    def attempt() -> bytes:
        with http.answer(_local.session, url, deadline, patience, headers) as response:
            if response.status_code != 200:
                raise http.refused(response)
            encoding = http.encoding_of(response)
            data = _received(response, largest)
            return _unpacked(data, encoding, largest) if encoding else data

    return http.persevere(attempt, patience, deadline=deadline)


def _received(response: "Response", largest: int) -> bytes:
    """The body as it comes over the wire."""
    from resnest_cli.net.http import length_of

    chunked = "Transfer-Encoding" in response.headers  # which makes the length void
    length = None if chunked else length_of(response)
    if length is not None and length > largest:
        raise TooLargeError(largest, length)
    data = BytesIO()  # gives its bytes away without a copy
    for chunk in response.raw.stream(_CHUNK, decode_content=False):
        data.write(chunk)
        if data.tell() > largest:
            raise TooLargeError(largest)
    return data.getvalue()


def _unpacked(data: bytes, encoding: str, largest: int) -> bytes:
    """What was compressed for the transport; a bomb is not unpacked further than the limit."""
    plain = b""
    while data:  # gzip may have several parts
        inflater = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # of gzip or deflate
        try:
            plain += inflater.decompress(data, largest + 1 - len(plain))
        except zlib.error as error:
            raise HttpError(f"its {encoding} encoding is damaged") from error
        if len(plain) > largest:
            raise TooLargeError(largest)
        if not inflater.eof:
            raise HttpError(f"its {encoding} encoding is cut short")
        data = inflater.unused_data
    return plain
