"""A teacher's answers to a few crops of each photo, on disk: see `teacher_crops` for who asks.

Of each answer the `TOP` most probable classes are kept with the logarithms of their probabilities,
float16, and the logarithm of what is left, which is spread evenly over the other classes when it is
read: 202 bytes a crop.

    runs/teacher/<key>/     beside the folders of runs, for all of them
        answers             records: of the first photo its crops 0 .. K - 1, of the second, ...
        chunks              a line for each finished chunk: its number, and a digest of its records

A chunk gets its line once its records are on the disk, so that a kill loses one chunk at most. What
does not fit its digest is computed again, and so is a chunk with a photo that could not be read,
whose records are marked until then: the loader leaves such a photo out. Reading goes through a
memory map, so that the answers to any number of photos take no memory of a process.
"""

import hashlib
import math
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnest_cli.errors import ResnestError
from resnest_cli.files import append
from resnest_cli.training.order import FixedCrops
from resnest_cli.training.state import saving

Float32 = NDArray[np.float32]
Records = NDArray[Any]

TOP = 50  # classes whose probabilities are kept
CHUNK, _CHUNK_CROPS = 64, 1024  # photos at most, a power of two; crops, about
_LEAST = -6e4  # of a logarithm; float16 ends a little below
_LINE = re.compile(rb"(\d{1,12}) ([0-9a-f]{32})")


def record_type(classes: int) -> np.dtype[Any]:
    """A crop's record: the classes kept, their log-probabilities, and that of all others.

    `rest` is NaN where there is no answer, and of no meaning where all classes are kept.
    """
    top = min(TOP, classes)
    index = "<u2" if classes <= 2**16 else "<u4"
    return np.dtype([("index", index, (top,)), ("logs", "<f2", (top,)), ("rest", "<f2")])


def packed(logits: Float32) -> Records:
    """Finite logits (N, classes) -> records (N,)."""
    classes = logits.shape[1]
    records = np.zeros(len(logits), record_type(classes))
    top = records["index"].shape[1]
    logs = logits.astype(np.float64)
    logs -= _log_sum(logs)
    chosen = np.broadcast_to(np.arange(classes), logs.shape)
    if classes > top:
        chosen = np.sort(np.argpartition(-logs, top - 1, axis=1)[:, :top], axis=1)
    records["index"] = chosen
    records["logs"] = np.maximum(np.take_along_axis(logs, chosen, axis=1), _LEAST)
    if classes > top:
        np.put_along_axis(logs, chosen, -np.inf, axis=1)
        records["rest"] = np.maximum(_log_sum(logs)[:, 0], _LEAST)
    return records


def unpacked(record: Records, classes: int) -> Float32 | None:
    """The log-probabilities float32 (classes,) of a record; None where there is no answer."""
    rest, others = float(record["rest"]), classes - record["index"].shape[0]
    if math.isnan(rest):
        return None
    logs = np.full(classes, rest - math.log(max(1, others)), np.float32)
    logs[record["index"]] = record["logs"]
    return logs


def _log_sum(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of the sum of the exponentials of each row, (N, 1)."""
    most = logs.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = most + np.log(np.exp(logs - most).sum(axis=1, keepdims=True))
    return found


@dataclass(frozen=True)
class TeacherAnswers:
    """The answers to `photos` photos in a folder, which need not be there yet; picklable.

    `classes` are those of an answer, `crops` draws the crops of a photo.
    """

    folder: Path
    photos: int
    classes: int
    crops: FixedCrops

    @property
    def chunk(self) -> int:
        """Photos of a chunk, a power of two, so that it has whole groups; the last may have fewer.

        Of many crops fewer photos, so that no more is lost when a pass is stopped.
        """
        fitting = max(1, _CHUNK_CROPS // self.crops.count)
        return min(CHUNK, 1 << fitting.bit_length() - 1)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.photos * self._each

    @property
    def _each(self) -> int:
        """Bytes of a photo's records."""
        return self.crops.count * record_type(self.classes).itemsize

    def photos_of(self, chunk: int) -> int:
        """How many a chunk has: the last one may have fewer."""
        return min(self.chunk, self.photos - self.chunk * chunk)

    def of(self, place: int, crop: int) -> Tensor | None:
        """The teacher's log-probabilities, float32 (classes,), of a crop of the photo there.

        None where the photo could not be read when the teacher was asked.
        """
        logs = unpacked(self._records[place * self.crops.count + crop], self.classes)
        return None if logs is None else torch.from_numpy(logs)

    @cached_property
    def _records(self) -> Records:
        path, shape = self.folder / "answers", (self.photos * self.crops.count,)
        try:
            return np.memmap(path, record_type(self.classes), "r", shape=shape)
        except (OSError, ValueError) as error:
            raise ResnestError(
                f"{path}: the teacher's answers cannot be read: {error}. Processes on several "
                "machines need an --output that all of them see."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Without the map, which would travel as a copy of the whole file."""
        return {name: value for name, value in self.__dict__.items() if name != "_records"}

    def missing(self, *, looked_into: bool = True) -> list[int]:
        """The chunks that are not there, or not whole; the latter only where they are looked into.

        Of all chunks that are there the bytes are read for that.
        """
        digests = self._digests()
        every = range(-(-self.photos // self.chunk))
        if not looked_into:
            return [chunk for chunk in every if chunk not in digests]
        try:
            with (self.folder / "answers").open("rb") as file:
                found = [digests.get(n) == _digest(file.read(self._bytes_of(n))) for n in every]
        except FileNotFoundError:
            return list(every)
        return [chunk for chunk in every if not found[chunk]]

    def write(self, chunk: int, records: Records, *, finished: bool) -> None:
        """Puts a chunk's records in their place: for good, or for this run where not `finished`."""
        path, data = self.folder / "answers", records.tobytes()
        assert len(data) == self._bytes_of(chunk)
        with saving(path):
            with path.open("r+b" if path.exists() else "xb") as file:
                if file.seek(0, os.SEEK_END) != self.size:
                    file.truncate(self.size)
                file.seek(chunk * self.chunk * self._each)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if finished:
                append(self.folder / "chunks", b"%d %s\n" % (chunk, _digest(data)))

    def _bytes_of(self, chunk: int) -> int:
        return self.photos_of(chunk) * self._each

    def _digests(self) -> dict[int, bytes]:
        """By chunk; the last line of a chunk counts, and half a line is none."""
        try:
            lines = (self.folder / "chunks").read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        found = (_LINE.fullmatch(line) for line in lines)
        return {int(match[1]): match[2] for match in found if match}


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).hexdigest().encode()
