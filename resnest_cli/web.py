"""What an HTTP answer says, and what an error of requests means, in plain words.

For downloads of weights (`model.fetch`) and of photos (`images.remote`). Source: RFC 9110, section
10.2.3 (Retry-After).
"""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from resnest_cli.errors import one_line

if TYPE_CHECKING:
    import requests

STOPPED = "it stopped sending"
LARGEST = 8 << 30  # bytes; the largest ResNeSt, with all that a training keeps, has 2 GB
MAX_WAIT = 60.0  # seconds; the longest Retry-After that is honoured in full
_MOST_WORDS = 300  # characters of what a server or a library says
TRY_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))  # statuses that may pass

_REFUSED = {
    401: "it asks for a login",
    403: "access is refused",
    404: "there is no such file",
    407: "the proxy asks for a login; set HTTPS_PROXY=http://user:password@proxy:port",
    410: "the file was removed",
    451: "access is blocked for legal reasons",
}


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins with `head` is HTML, whatever it was announced as."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<?xml"):
        return b"<html" in text or b"<!doctype html" in text
    return text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--"))


def without_login(url: str) -> str:
    """The URL without the user name and password that it may carry."""
    try:
        parts = urlsplit(url)
    except ValueError:  # requests will say what is wrong with it
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def length(response: "requests.Response") -> int | None:
    """Size of the body in bytes, None if the server does not say, or no number that there is."""
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,4000}", length) else None


def too_large(limit: int) -> str:
    """Why a file of more bytes than `limit` is not fetched."""
    return f"it is larger than the limit of {limit:,} bytes"


def too_slow(slowest: int) -> str:
    """Why a server of fewer bytes a second than `slowest` is given up."""
    return f"it sends less than {slowest:,} bytes a second"


def retry_after(response: "requests.Response") -> float | None:
    """Seconds to wait as the server asks, at most `MAX_WAIT`; None: it does not say."""
    from email.utils import parsedate_to_datetime  # rarely needed, and slow to import

    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal() and value.isascii():
        return min(float(value), MAX_WAIT)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max((date - datetime.now(UTC)).total_seconds(), 0.0), MAX_WAIT)


def refusal(response: "requests.Response") -> str:
    """The status in words."""
    told = one_line(response.reason or "")[:_MOST_WORDS]
    reason = f"it answered {response.status_code} {told}".rstrip()
    meaning = _REFUSED.get(response.status_code)
    return f"{reason}: {meaning}" if meaning else reason


def plain(error: Exception) -> str:
    """What happened, without the class names that requests and urllib3 put into their messages."""
    from requests import exceptions
    from urllib3.exceptions import NameResolutionError, NewConnectionError

    inner = error.args[0] if error.args else error
    cause = getattr(inner, "reason", inner)
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE" not in str(cause).upper():
        reason = (
            f"it does not speak TLS as expected ({cause}): is http:// meant? Behind a proxy see "
            f"HTTPS_PROXY and REQUESTS_CA_BUNDLE"
        )
    elif isinstance(error, exceptions.InvalidHeader):
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
        reason = STOPPED
    elif isinstance(cause, NameResolutionError):
        reason = "its name cannot be resolved"
    elif isinstance(cause, NewConnectionError):
        reason = f"it cannot be reached: {str(cause).rpartition(': ')[2]}"
    elif isinstance(error, exceptions.ConnectionError | exceptions.ChunkedEncodingError):
        reason = f"the connection broke: {_innermost(cause)}"
    elif isinstance(error, exceptions.ContentDecodingError):
        reason = "its compression is damaged"
    else:
        reason = str(cause)
    return one_line(reason)[:_MOST_WORDS]


def _innermost(cause: object) -> object:
    """The error that a chain of urllib3's is about: `("Connection aborted.", error)`."""
    while isinstance(cause, Exception) and cause.args and isinstance(cause.args[-1], Exception):
        cause = cause.args[-1]
    return cause
