"""What an HTTP answer says of a file of weights: is it one, and does it continue what is here.

Source: RFC 9110, sections 8.8 (validators) and 14.4 (Content-Range).
"""

import re
from typing import TYPE_CHECKING

from resnest_cli import web
from resnest_cli.model.partial import Note

if TYPE_CHECKING:
    import requests


def misfit(head: bytes) -> str:
    """Why a file that begins with `head` cannot be weights; empty if it may be."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if web.is_web_page(head) or text.startswith(b"<?xml"):
        return (
            "it is a web page, not the file: probably the login page of a network, proxy or mirror"
        )
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "it is a Git LFS pointer, not the file: the mirror must hold the file itself "
            "(git lfs pull)"
        )
    return "" if head else "it is empty"


def continues(response: "requests.Response", note: Note, have: int) -> bool:
    """Whether a 206 is the rest of the very file whose first `have` bytes are here."""
    found = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)",
        response.headers.get("Content-Range", "").strip(),
    )
    if not found or int(found[1]) != have or "Content-Encoding" in response.headers:
        return False
    same_size = note.total is None or found[3] == "*" or int(found[3]) == note.total
    return same_size and validator(response) == note.validator


def validator(response: "requests.Response") -> str:
    """A strong ETag, else the date of last change, else empty: what If-Range may carry."""
    etag = response.headers.get("ETag", "").strip()
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "").strip()
