"""The cache of compiled models under `$RESNEST_HOME/compiled`. Knows files; runs nothing.

A compiled model is `<key>.ort`, and `<key>.json` beside it: what it was made of, and a checksum.
The key is a hash of everything that decides the content; see `entry_for`. The architecture is part
of it since two variants can share a file of weights, the features of the CPU since the weights are
laid out for them; not the version of the `onnx` package, which only carries the graph.

A file counts only if its note names the very same origin and its content has the noted checksum,
which is computed on every start: sums of the pages of the mapped file, 4 ms for the 110 MB of
resnest50d (CRC-32 16 ms, SHA-256 56 ms on the same processor). It finds bits that rot, not intent:
against that, the folder and its files are private, and trusted only if nobody else can write them.
So whatever is damaged, foreign or out of date is built anew; what cannot be stored is not. Files
appear by renaming, under a lock, and what was used least recently goes when they fill more than
`LIMIT`.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli import __version__, paths
from resnest_cli.cpu import cpu_features
from resnest_cli.errors import ResnestError
from resnest_cli.files import (
    BusyError,
    atomic_path,
    distrusted,
    lock_file,
    read_trusted,
    write_private,
)
from resnest_cli.model import hashes

if TYPE_CHECKING:
    from resnest_cli.model.loading import Model

GRAPH_VERSION = 2  # grows whenever onnx_graph makes another graph of the same tensors
LIMIT = 4 << 30  # bytes; all published models together take about 1.8 GB
_DAY = 86_400.0
_PAGE = 4096  # bytes
_PATIENCE = 120.0  # seconds to wait for another process that builds the same


@dataclass(frozen=True, slots=True)
class Compiled:
    """One compiled model, there or not: `origin` is all that decides its content."""

    origin: dict[str, Any]
    path: Path

    @property
    def note(self) -> Path:
        """The file beside it that says what it is."""
        return self.path.with_suffix(".json")

    @property
    def bytes(self) -> int:
        """The size of both; OSError where one is not there."""
        return self.path.stat().st_size + self.note.stat().st_size


def folder() -> Path:
    """Where compiled models lie."""
    return paths.resnest_home() / "compiled"


def refusal() -> str:
    """Why compiled models cannot be kept, as far as their folder shows, and what to do."""
    try:
        writable = os.access(paths.private_folder(folder()), os.W_OK)
        why = "the disk may be full" if writable else "it cannot be written"
    except OSError as error:
        why = error.strerror or str(error)
    where = "" if paths.homeless(folder()) else f" in {folder()}"
    return (
        f"Compiled models cannot be kept{where}: {why}. Each run compiles anew; set RESNEST_HOME "
        "to a folder of your own."
    )


def entry_for(
    model: "Model", outputs: tuple[str, ...], runtime: str, size: int | None = None
) -> Compiled:
    """The place of this model's compiled form; reads its weights once if their hash is not known.

    `runtime` is the version of ONNX Runtime, `size` the side of the photos that it is made for;
    None for any. Raises OSError where the weights cannot be read.
    """
    origin = {
        "weights": model.sha256(),
        "trusted": model.trusted,
        "model": model.variant.id,
        "architecture": model.variant.architecture,
        "classes": model.num_classes,
        "in_channels": model.in_channels,
        "outputs": list(outputs),
        "size": size,
        "resnest_cli": __version__,
        "graph": GRAPH_VERSION,
        "onnxruntime": runtime,
        "cpu": cpu_features(),
    }
    text = json.dumps(origin, sort_keys=True)
    return Compiled(origin, folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.ort")


def is_good(entry: Compiled) -> bool:
    """Whether the file is there, ours, made of the same, and whole."""
    try:
        paths.private_folder(entry.path.parent)
        note = json.loads(read_trusted(entry.note))
        if note["origin"] != entry.origin or distrusted(entry.path):
            return False
        if checksum(entry.path) != note["checksum"]:
            return False
        if time.time() - entry.note.stat().st_mtime > _DAY:
            with contextlib.suppress(OSError):  # read-only
                os.utime(entry.note)  # used lately, see _prune
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return True


def checksum(path: Path) -> str:
    """SHA-256 of the sums, as 64-bit numbers, of each 4 KiB of a file, and of what is left over."""
    import numpy as np

    size = path.stat().st_size
    whole = size // _PAGE * _PAGE
    with path.open("rb") as file:
        sums = b""
        if whole:
            words = np.memmap(file, "<u8", "r", shape=(whole // _PAGE, _PAGE // 8))
            sums = words.sum(axis=1, dtype="<u8").tobytes()
        file.seek(whole)
        return hashlib.sha256(sums + file.read()).hexdigest()


def obtain(entry: Compiled, build: Callable[[Path], None], *, rebuild: bool = False) -> bool:
    """Finds the compiled model, waits for it, or builds it; False where it could not be stored.

    `build` writes it to the path that it is given, and raises if what it wrote is of no use.
    `rebuild` replaces one that is there.
    """
    if not rebuild and is_good(entry):
        return True
    try:
        paths.private_folder(entry.path.parent)
        with lock_file(entry.path.with_suffix(".lock"), wait=_PATIENCE, mode=0o600):
            if rebuild or not is_good(entry):
                _store(entry, build)
    except (OSError, BusyError):
        return False
    return True


def _store(entry: Compiled, build: Callable[[Path], None]) -> None:
    """Builds beside the place and renames; OSError whatever went wrong."""
    try:
        with atomic_path(entry.path) as temporary:
            # Fails before the work where the folder cannot be written; the runtime keeps the mode.
            temporary.touch(mode=0o600, exist_ok=False)
            build(temporary)
            note = {"origin": entry.origin, "checksum": checksum(temporary)}
        write_private(entry.note, json.dumps(note, indent=1).encode())
    except ResnestError:
        raise
    except Exception as error:
        # The runtime has exceptions of its own for a full disk and whatever else.
        raise OSError(f"{entry.path} could not be made: {error}") from error
    _prune(entry)


def _prune(keep: Compiled) -> None:
    """Removes what was used least recently while all together exceed `LIMIT`."""
    with contextlib.suppress(OSError):
        sizes = {entry.path: entry.bytes for entry in compiled_files()}
        total = sum(sizes.values())
        for path in sorted(sizes, key=lambda path: path.with_suffix(".json").stat().st_mtime):
            if total > LIMIT and path != keep.path and remove(path):
                total -= sizes[path]


def compiled_files() -> list[Compiled]:
    """All compiled models with a readable note, in the order of their names."""
    found = []
    for note in paths.entries(folder(), "*.json"):
        path = note.with_suffix(".ort")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            origin = json.loads(note.read_text("utf-8"))["origin"]
            if isinstance(origin, dict) and path.exists():
                found.append(Compiled(origin, path))
    return found


def compiled_from(weights: Path, architecture: dict[str, Any]) -> list[Compiled]:
    """The compiled models that this version of the program made of these weights."""
    files = compiled_files()
    if not files:
        return []
    wanted = {
        "weights": hashes.known_sha256(weights),
        "architecture": architecture,
        "resnest_cli": __version__,
    }
    return [file for file in files if all(file.origin.get(k) == v for k, v in wanted.items())]


def everything() -> list[Path]:
    """Every file that this module has made: models, notes, locks and what a crash left."""
    suffixes = {".ort", ".json", ".lock", ".tmp"}
    return [path for path in paths.entries(folder(), "*") if path.suffix in suffixes]


def remove(path: Path) -> bool:
    """Removes one of `everything`, a model with its note; False where the system refuses."""
    try:
        if path.suffix == ".ort":
            path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError:  # Windows keeps a file that a running process has open
        return False
    return True
