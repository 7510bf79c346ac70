"""What goes over the network. Here is what needs no connection, and costs nothing to import.

http.py       one address: session, deadline, retries, answers in words; photos into memory
download.py   a file from one of several origins onto the disk
hub.py        Hugging Face's hub
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from resnest_cli.errors import DownloadError
from resnest_cli.progress import Display, Notify, hidden, ignore

LARGEST = 8 << 30  # bytes; the largest ResNeSt, with all that a training keeps, has 2 GB
HEAD = 512  # bytes of a file that `misfit` wants to see


class HttpError(DownloadError):
    """A server does not give what it is asked for; the message is the reason alone.

    `status` is that of its answer, if there was one, and `via` the address that redirects led to.
    `again`: another attempt may succeed, after `wait` seconds; None: after the usual pause.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        again: bool = False,
        wait: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.status, self.again, self.wait, self.via = status, again, wait, ""


class TooLargeError(HttpError):
    """What comes has more bytes than it may; `size`, where it was announced."""

    def __init__(self, largest: int, size: int | None = None) -> None:
        announced = "" if size is None else f" ({size:,})"
        super().__init__(f"it is larger than the limit of {largest:,} bytes{announced}")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, and how often to ask it.

    `connect` and `read` are seconds without any answer. Every `window` seconds must bring `slowest`
    bytes a second, the first window an answer; or, with `total`, everything, pauses and further
    attempts included, has so many seconds. `attempts` is how many in a row may fail without
    bringing a file further; the first is followed by a `pause` of so many seconds, each further one
    by twice as many. `sleep` waits a number of seconds.
    """

    connect: float = 10.0
    read: float = 30.0
    window: float = 60.0
    slowest: int = 1000
    total: float | None = None
    attempts: int = 4
    pause: float = 1.0
    sleep: Callable[[float], None] = time.sleep


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class Access:
    """How files of models may be had.

    `mirror` is a private URL prefix or a folder, asked first; `offline` forbids every connection;
    `progress` shows downloads, `notify` takes what the user should know while it waits.
    """

    mirror: str | None = None
    offline: bool = False
    progress: Display = hidden
    notify: Notify = ignore
    patience: Patience = PATIENCE


def without_login(url: str) -> str:
    """The URL without the user name and password that it may carry."""
    try:
        parts = urlsplit(url)
    except ValueError:  # whoever asks for it will say what is wrong with it
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def misfit(head: bytes) -> str:
    """Why a file that begins with `head` cannot be weights; empty if it may be."""
    text = _text(head)
    if is_web_page(head) or text.startswith(b"<?xml"):
        return (
            "it is a web page, not the file: probably the login page of a network, proxy or mirror"
        )
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "it is a Git LFS pointer, not the file: the mirror must hold the file itself "
            "(git lfs pull)"
        )
    return "" if head else "it is empty"


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins with `head` is HTML, whatever it was announced as."""
    text = _text(head)
    if text.startswith(b"<?xml"):
        return b"<html" in text or b"<!doctype html" in text
    return text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--"))


def _text(head: bytes) -> bytes:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def check_content(path: Path) -> None:
    """Whether a file may be weights."""
    with path.open("rb") as file:
        if reason := misfit(file.read(HEAD)):
            raise DownloadError(reason)
