"""What an HTTP answer says, and what an error of requests means, in plain words.

Source: RFC 9110, sections 8.8 (validators), 10.2.3 (Retry-After) and 14.4 (Content-Range).
"""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from resnest_cli.model.partial import Note

if TYPE_CHECKING:
    import requests

MAX_WAIT = 60.0  # seconds; the longest Retry-After that is honoured in full
_REFUSED = {
    401: "it asks for a login",
    403: "access is refused",
    404: "there is no such file",
    407: "the proxy asks for a login; set HTTPS_PROXY=http://user:password@proxy:port",
    410: "the file was removed",
    451: "access is blocked for legal reasons",
}


def misfit(head: bytes) -> str:
    """Why a file that begins with `head` cannot be weights; empty if it may be."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"<!--")):
        return (
            "it is a web page, not the file: probably the login page of a network, proxy or mirror"
        )
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "it is a Git LFS pointer, not the file: the mirror must hold the file itself "
            "(git lfs pull)"
        )
    return "" if head else "it is empty"


def without_login(url: str) -> str:
    """The URL without the user name and password that it may carry."""
    try:
        parts = urlsplit(url)
    except ValueError:  # requests will say what is wrong with it
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def continues(response: "requests.Response", note: Note, have: int) -> bool:
    """Whether a 206 is the rest of the very file whose first `have` bytes are here."""
    found = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    if not found or int(found[1]) != have or "Content-Encoding" in response.headers:
        return False
    same_size = note.total is None or found[3] == "*" or int(found[3]) == note.total
    return same_size and validator(response) == note.validator


def validator(response: "requests.Response") -> str:
    """A strong ETag, else the date of last change, else empty: what If-Range may carry."""
    etag = response.headers.get("ETag", "").strip()
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "").strip()


def length(response: "requests.Response") -> int | None:
    """Size of the body in bytes, None if the server does not say."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and length.isascii() else None


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
    reason = f"it answered {response.status_code} {response.reason or ''}".rstrip()
    meaning = _REFUSED.get(response.status_code)
    return f"{reason}: {meaning}" if meaning else reason


def plain(error: Exception) -> str:
    """What happened, without the class names that requests and urllib3 put into their messages."""
    from requests import exceptions
    from urllib3.exceptions import NameResolutionError, NewConnectionError

    inner = error.args[0] if error.args else error
    cause = getattr(inner, "reason", inner)
    if isinstance(error, exceptions.SSLError):
        reason = (
            f"its TLS certificate was not accepted ({cause}); behind a proxy that inspects TLS "
            f"set REQUESTS_CA_BUNDLE to the proxy's certificate"
        )
    elif isinstance(error, exceptions.ProxyError):
        reason = f"the proxy could not be reached or refused ({cause}); see HTTPS_PROXY"
    elif isinstance(error, exceptions.TooManyRedirects):
        reason = "it redirects in circles"
    elif isinstance(error, exceptions.ConnectTimeout):
        reason = "it cannot be reached: no answer to the connection"
    elif isinstance(error, exceptions.Timeout) or "timed out" in str(cause).lower():
        reason = "it stopped sending"
    elif isinstance(cause, NameResolutionError):
        reason = "its name cannot be resolved"
    elif isinstance(cause, NewConnectionError):
        reason = f"it cannot be reached: {str(cause).rpartition(': ')[2]}"
    elif isinstance(error, exceptions.ConnectionError | exceptions.ChunkedEncodingError):
        reason = f"the connection broke: {cause}"
    else:
        reason = str(cause)
    return reason
