"""What was found of photos, kept in a folder between runs.

    chunk-00000.npy ...     photos in the order in which they were looked at, with their features
    photos.npy              KEPT (N,), the photos of the last whole run, in the order of the data
    features-<digest>.npy   float32 (M, D), the features of the readable ones; for a memory map

Chunks appear whole, so that a kill loses the one in hand. When all photos of the data are there,
they are put in order, and the chunks go. The digest is that of `photos.npy`, which is written last.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from resnest_cli.files import atomic_file, atomic_path, remove_leftovers
from resnest_cli.inspection.photo_facts import FACTS, Facts

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

KEY_BYTES = 16
# `key` says which photo it is; `error` and `kind` why it cannot be read, both empty if it can.
KEPT = np.dtype([("key", f"V{KEY_BYTES}"), ("kind", "S24"), ("error", "S256"), ("facts", FACTS)])

_PHOTOS = "photos.npy"
_WHOLE = -1  # in place of the number of a chunk
_ROWS = 1024  # of features that are copied at once


class KeptPhotos:
    """The photos that are known in a folder, which nobody else writes meanwhile."""

    def __init__(self, folder: Path, width: int) -> None:
        """`width` is the number of features, D."""
        self._folder, self._width = folder, width
        self._chunk = np.dtype([("kept", KEPT), ("features", "<f4", (width,))])
        self._where: dict[bytes, tuple[int, int]] = {}  # by key: number of the chunk, row in it
        self._next = 0
        for name in (_PHOTOS, "features-*.npy", "chunk-*.npy"):
            remove_leftovers(folder / name)
        if (kept := self._read_whole()) is not None:
            self._know(_WHOLE, kept)
        for path in sorted(folder.glob("chunk-*.npy")):
            number = int(path.stem.partition("-")[2])
            self._next = number + 1
            if (chunk := _read(path, self._chunk)) is not None:
                self._know(number, chunk["kept"])

    def has(self, key: bytes) -> bool:
        """Whether a photo is known; one that an earlier run could not read is not."""
        return key in self._where

    def add(self, found: Sequence[tuple[Facts, Float32 | None]]) -> None:
        """Keeps photos: KEPT (), and features float32 (D,) or None for one that has none."""
        if not found:
            return
        chunk = np.zeros(len(found), self._chunk)
        for place, (record, row) in enumerate(found):
            chunk["kept"][place] = record
            if row is not None:
                chunk["features"][place] = row
        with atomic_file(self._path(self._next)) as file:
            np.save(file, chunk)
        self._know(self._next, chunk["kept"], bad=True)
        self._next += 1

    def in_order(self, keys: Sequence[bytes]) -> tuple[NDArray[np.void], Float32]:
        """KEPT (N,) of known photos, and the features (M, D) of the readable ones, a memory map."""
        where = np.array([self._where[key] for key in keys], np.int64).reshape(-1, 2)
        whole = self._read_whole()
        as_whole = (
            np.array_equal(where[:, 1], np.arange(len(keys))) and (where[:, 0] == _WHOLE).all()
        )
        if whole is None or len(whole) != len(keys) or not as_whole:
            whole = self._put_in_order(where)
        features = _features_name(whole)
        for path in self._folder.glob("*.npy"):
            if path.name not in {_PHOTOS, features}:
                path.unlink()
        if not (whole["kind"] == b"").any():
            return whole, np.zeros((0, self._width), np.float32)
        return whole, np.load(self._folder / features, mmap_mode="r")

    def _put_in_order(self, where: Int64) -> NDArray[np.void]:
        """Writes the files of a whole run; `where` (N, 2) has the chunk and row of each photo."""
        kept = np.zeros(len(where), KEPT)
        for places, known, _, _ in self._chunks(where):
            kept[places] = known
        whole = self._read_whole()
        if whole is not None and _features_name(whole) == _features_name(kept):
            return kept  # only what cannot be read was looked at again
        good = kept["kind"] == b""
        row_of = np.cumsum(good) - 1
        with atomic_path(self._folder / _features_name(kept)) as path:
            shape = max(1, int(good.sum())), self._width  # no map is empty
            out = open_memmap(path, "w+", np.float32, shape)
            for places, known, rows, features in self._chunks(where):
                well = np.flatnonzero(known["kind"] == b"")
                for some in np.split(well, range(_ROWS, len(well), _ROWS)):
                    out[row_of[places[some]]] = features[rows[some]]
            out.flush()
            del out
        with atomic_file(self._folder / _PHOTOS) as file:
            np.save(file, kept)
        return kept

    def _chunks(self, where: Int64) -> Iterator[tuple[Int64, NDArray[np.void], Int64, Float32]]:
        """Of each chunk that is needed: places in the data, their KEPT, and where their features
        are: rows of a map (a row of one that has none may be any).
        """
        order = np.lexsort((where[:, 1], where[:, 0]))
        for places in np.split(order, np.flatnonzero(np.diff(where[order, 0])) + 1):
            number, rows = int(where[places[0], 0]), where[places, 1]
            if number == _WHOLE:
                kept = np.load(self._folder / _PHOTOS)
                features = np.load(self._folder / _features_name(kept), mmap_mode="r")
                row_of = np.cumsum(kept["kind"] == b"") - 1
                yield places, kept[rows], row_of[rows], features
            else:
                chunk = np.load(self._path(number), mmap_mode="r")
                yield places, chunk["kept"][rows], rows, chunk["features"]

    def _know(self, number: int, kept: NDArray[np.void], *, bad: bool = False) -> None:
        for row, (key, kind) in enumerate(zip(kept["key"], kept["kind"], strict=True)):
            if bad or not kind:
                self._where[key.tobytes()] = number, row

    def _path(self, number: int) -> Path:
        return self._folder / f"chunk-{number:05d}.npy"

    def _read_whole(self) -> NDArray[np.void] | None:
        """The photos of the last whole run, if their features are there, too."""
        kept = _read(self._folder / _PHOTOS, KEPT)
        return np.array(kept) if kept is not None and self._has_features(kept) else None

    def _has_features(self, kept: NDArray[np.void]) -> bool:
        features = _read(self._folder / _features_name(kept), np.dtype(np.float32))
        good = int((kept["kind"] == b"").sum())
        return features is not None and features.shape == (max(1, good), self._width)


def _features_name(kept: NDArray[np.void]) -> str:
    return f"features-{hashlib.sha256(kept.tobytes()).hexdigest()[:16]}.npy"


def _read(path: Path, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """An array of this type, as a map; None where it is missing or damaged."""
    with suppress(OSError, ValueError, EOFError):
        found = np.load(path, mmap_mode="r")
        if found.dtype == dtype:
            return cast("NDArray[Any]", found)
    return None
