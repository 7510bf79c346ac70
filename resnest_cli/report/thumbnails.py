"""Small JPEGs of photos for pages, which are found again by their names in records.

dog.jpg, trip.zip/2024/dog.jpg, scan.tif#page=2, clip.mp4#t=12.0, clip.mp4 (its first frame)
"""

import base64
import io
import os
import re
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from resnest_cli.errors import ImageError
from resnest_cli.images.archives import KeptArchive, open_archive, split
from resnest_cli.images.sources import is_video
from resnest_cli.options import MAX_PIXELS, Every

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from resnest_cli.images.video import Moment

_SIDE, _QUALITY = 176, 60  # pixels and JPEG quality: about 5 kB each
_PART = re.compile(r"(.+)#(page|frame|t)=([0-9]+(?:\.[0-9]+)?)", re.DOTALL)
_ROUNDED = 0.0005  # seconds: times in names are in milliseconds


class Thumbnails:
    """Makes them, quickest in the order of the records: archives and clips are read once then.

    Photos have at most `max_pixels`, thumbnails at most `side` on their longer side.
    """

    def __init__(
        self, max_pixels: int | None = None, *, side: int = _SIDE, quality: int = _QUALITY
    ) -> None:
        self._max_pixels = max_pixels or MAX_PIXELS
        self._side, self._quality = side, quality
        self._archive = KeptArchive()
        self._members: tuple[str, dict[str, int]] = "", {}  # of an archive, with their places
        self._clip: tuple[str, Iterator[tuple[float, Moment]]] = "", iter(())
        self._shown: list[tuple[float, Moment]] = []  # a frame of the clip, and the next one

    def of(self, name: str) -> str | None:
        """A data URI; None where there is no such picture on this machine any more."""
        if "://" in name:
            return None
        try:
            image = self._image(name)
        except (ImageError, MemoryError, ImportError):  # the last one: PyAV is gone
            return None
        if image is None:
            return None
        image.thumbnail((self._side, self._side))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self._quality)
        return jpeg_uri(file.getvalue())

    def close(self) -> None:
        """Closes the archive that was read from last."""
        self._archive.close()

    def _image(self, name: str) -> "Image.Image | None":
        from resnest_cli.images.decode import decode
        from resnest_cli.images.frames import frame_of

        part = None if os.path.isfile(name) else _PART.fullmatch(name)  # noqa: PTH113
        path = part[1] if part else name
        frame: int | Moment
        if is_video(path) and os.path.isfile(path):  # noqa: PTH113
            frame = self._moment(path, float(part[3]) if part else 0.0)
            return frame_of(path, frame, exif=True, max_pixels=self._max_pixels)
        photo = self._photo(path)
        if photo is None or (part and part[2] == "t"):
            return None
        if part is None:
            return decode(photo, max_pixels=self._max_pixels, at_least=self._side)
        return frame_of(photo, int(float(part[3])) - 1, exif=True, max_pixels=self._max_pixels)

    def _photo(self, path: str) -> str | bytes | None:
        """The path of a file, or the bytes of a member of an archive."""
        if os.path.isfile(path):  # noqa: PTH113
            return path
        if (place := split(path)) is None:
            return None
        archive, inner = place
        if self._members[0] != archive:
            places = dict[str, int]()
            with suppress(ImageError), closing(open_archive(archive)) as opened:  # what can be read
                places.update((one.name, one.offset) for one in opened.members() if not one.refused)
            self._members = archive, places
        offset = self._members[1].get(inner)
        return None if offset is None else self._archive.read(archive, inner, offset)

    def _moment(self, path: str, seconds: float) -> "Moment":
        """The frame that is shown then."""
        if self._clip[0] != path or not self._shown or self._shown[0][0] > seconds + _ROUNDED:
            self._clip = path, _every_frame(path)
            self._shown = [next(self._clip[1])]
        while True:
            if len(self._shown) == 1 and (after := next(self._clip[1], None)) is not None:
                self._shown.append(after)
            if len(self._shown) == 1 or self._shown[1][0] > seconds + _ROUNDED:
                return self._shown[0][1]
            del self._shown[0]


def _every_frame(path: str) -> "Iterator[tuple[float, Moment]]":
    """The frames of a clip with their times; ImageError where there is none."""
    from resnest_cli.images.video import moments

    begin, finished = 0, False
    while not finished:
        found, finished, _ = moments(path, Every(1, "f"), begin)
        yield from found
        begin += len(found)


def jpeg_uri(data: bytes) -> str:
    """A JPEG file as a data URI."""
    return data_uri("jpeg", data)


def data_uri(kind: str, data: bytes) -> str:
    """A picture file of this kind as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
