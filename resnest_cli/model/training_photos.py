"""Which photos a network has learned from: a compact set of the hashes of their files.

Photos are known by their content, so that copies, other names and other folders make no difference.
Of each file's SHA-256 the first 36 bits count: of a million training photos, one in 70,000 others
is taken for one of them by chance. The sorted numbers are written as Elias and Fano did (P. Elias,
JACM 1974): the upper bits in unary, about two for each photo, the lower ones as they are. 500
photos take 2 kB of a checkpoint's header, ImageNet's 1.28 million 3.8 MB.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_PHOTOS = 1 << 21  # of more nothing is noted: their header would be a burden
BITS = 36
DIGEST_BYTES = 8  # of a SHA-256, which is all that is kept of it before


@dataclass(frozen=True, slots=True)
class TrainingPhotos:
    """A set of photos: how many files of different content, and their hashes as base64 text."""

    photos: int
    hashes: str

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> "TrainingPhotos | None":
        """The set of these SHA-256 digests, or beginnings of them, of `DIGEST_BYTES` or more.

        Equal sets give equal text. None for no photo, and for more than `MOST_PHOTOS`.
        """
        import numpy as np

        numbers = np.fromiter(map(_number, digests), np.uint64)
        return _written(np.unique(numbers))

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "TrainingPhotos":
        """The inverse of `record`; ValueError where it is damaged, without a look at the hashes."""
        photos, hashes = record.get("photos"), record.get("hashes")
        if type(photos) is not int or not isinstance(hashes, str):
            raise ValueError("needs the number photos and the text hashes")
        if not 1 <= photos <= MOST_PHOTOS or len(hashes) != 4 * -(-_bytes(photos) // 3):
            raise ValueError(f"the hashes are not those of {photos} photos")
        return cls(photos, hashes)

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"photos": self.photos, "hashes": self.hashes}

    def membership(self, where: object) -> Callable[[bytes], bool]:
        """A test of SHA-256 digests, of microseconds, for photos of the set.

        Raises as `numbers`.
        """
        import numpy as np

        numbers = self.numbers(where)

        def contains(digest: bytes) -> bool:
            number = np.uint64(_number(digest))
            place = int(np.searchsorted(numbers, number))
            return place < len(numbers) and bool(numbers[place] == number)

        return contains

    def numbers(self, where: object) -> "NDArray[np.uint64]":
        """All hashes, sorted; CheckpointError, naming the file `where`, if damaged."""
        import numpy as np

        count, upper = self.photos, _upper_bits(self.photos)
        try:
            data = base64.b64decode(self.hashes, validate=True)
        except ValueError:
            data = b""
        bits = np.unpackbits(np.frombuffer(data, np.uint8))
        unary, low = np.split(bits, [count + (1 << upper)])
        low = low[: count * (BITS - upper)]  # of the last byte some are left over
        places = np.flatnonzero(unary)
        if len(data) != _bytes(count) or len(places) != count:
            raise CheckpointError(
                f"{where}: its list of training photos is damaged. Download or copy it again."
            )
        wide = np.zeros((count, 64), np.uint8)
        wide[:, 64 - (BITS - upper) :] = low.reshape(count, BITS - upper)
        lower = np.packbits(wide, axis=1).view(">u8")[:, 0].astype(np.uint64)
        high = (places - np.arange(count)).astype(np.uint64)
        return np.asarray(high << np.uint64(BITS - upper) | lower, np.uint64)


def joined(
    where: object, one: TrainingPhotos | None, other: TrainingPhotos | None
) -> TrainingPhotos | None:
    """The photos of both; None where one set is not known, or they are too many."""
    import numpy as np

    if one is None or other is None or one == other:
        return one and other
    return _written(np.union1d(one.numbers(where), other.numbers(where)))


def digest_of(path: str | Path) -> bytes:
    """SHA-256 of a photo's file; OSError where it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:DIGEST_BYTES], "big") >> (8 * DIGEST_BYTES - BITS)


def _upper_bits(count: int) -> int:
    return (count - 1).bit_length()


def _bytes(count: int) -> int:
    """Of the unary upper bits, about two for each photo, and the lower ones."""
    upper = _upper_bits(count)
    return -(-(count + (1 << upper) + count * (BITS - upper)) // 8)


def _written(numbers: "NDArray[np.uint64]") -> TrainingPhotos | None:
    """The set of sorted, different numbers."""
    import numpy as np

    count = len(numbers)
    if not 1 <= count <= MOST_PHOTOS:
        return None
    upper = _upper_bits(count)
    unary = np.zeros(count + (1 << upper), np.uint8)
    high = (numbers >> np.uint64(BITS - upper)).astype(np.int64)
    unary[high + np.arange(count)] = 1
    wide = np.unpackbits(numbers.astype(">u8").view(np.uint8).reshape(count, 8), axis=1)
    low = wide[:, 64 - (BITS - upper) :].reshape(-1)
    data = np.packbits(np.concatenate([unary, low])).tobytes()
    return TrainingPhotos(count, base64.b64encode(data).decode("ascii"))
