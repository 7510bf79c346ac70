"""SHA-256 of files, remembered, so that a warm start does not read 110 MB to learn nothing new.

The memory is `$RESNEST_HOME/verified.json`: path -> size, mtime_ns, ctime_ns, inode and hash. A
file is hashed again if one of these has changed; nobody can set back its ctime. Losing the memory
costs time, never correctness: it is written atomically, one that is damaged or that another user
could have written counts as empty, and where it cannot be written it is skipped.
"""

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from resnest_cli import paths
from resnest_cli.files import read_trusted, write_private

_MEMORY = "verified.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in 64 hex digits; OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """As `sha256_of`, but the remembered one while the file is unchanged."""
    before = _entry(path, "")
    remembered = _load().get(os.path.abspath(path))  # noqa: PTH100 - a link keeps its own name
    if isinstance(remembered, dict):
        sha256 = str(remembered.get("sha256"))
        if _SHA256.fullmatch(sha256) and remembered == before | {"sha256": sha256}:
            return sha256
    sha256 = sha256_of(path)
    if _entry(path, "") == before:  # not written to while it was read
        remember(path, sha256)
    return sha256


def files_with(sha256: str) -> list[Path]:
    """The files that were of this hash when they were hashed, and are unchanged."""
    found = []
    for path, entry in _load().items():
        with contextlib.suppress(OSError):
            if isinstance(entry, dict) and entry == _entry(Path(path), sha256):
                found.append(Path(path))
    return found


def remember(path: Path, sha256: str) -> None:
    """Note a file's hash in the memory; silently nothing where that cannot be written."""
    with contextlib.suppress(OSError):
        _update(path, _entry(path, sha256))


def forget(path: Path) -> None:
    """Remove a file from the memory, so that its next use hashes it again."""
    with contextlib.suppress(OSError):
        _update(path, None)


def _entry(path: Path, sha256: str) -> dict[str, Any]:
    stat = path.stat()
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
        "sha256": sha256,
    }


def _load() -> dict[str, Any]:
    try:
        entries = json.loads(read_trusted(paths.resnest_home() / _MEMORY))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _update(path: Path, entry: dict[str, Any] | None) -> None:
    """Write the memory anew. Of two processes at once one may lose its entry: it hashes again."""
    old, key = _load(), os.path.abspath(path)  # noqa: PTH100
    new = {k: v for k, v in old.items() if k != key and os.path.exists(k)}  # noqa: PTH110 - no error
    if entry is not None:
        new[key] = entry
    if new != old:
        paths.make_private(paths.resnest_home())
        write_private(paths.resnest_home() / _MEMORY, json.dumps(new, indent=1).encode())
