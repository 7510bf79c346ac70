"""Files that hold several pictures: pages of a TIFF, frames of an animation, moments of a video.

    listed_frames(sources, ...)  ->  scan.tif#page=1, scan.tif#page=2, dog.jpg, ...
    frame_of("scan.tif", 1, exif=True, max_pixels=...)  ->  an RGB photo

Which ones there are is found in a decoder's process, as is all that reads photos. Pages and frames
count from 1 in names, from 0 here; a file with one picture keeps its name. Animations are shown as
Pillow composes them, each frame upon the one before: the process that decodes keeps the file open
for the next frame. What else holds several pictures (MPO, HEIC, icons) has a main one.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from resnest_cli.errors import ImageError
from resnest_cli.images.archives import KeptArchive
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source, is_video
from resnest_cli.images.video import Moment, moments, picture
from resnest_cli.options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL import Image

_ANIMATED = {"PNG", "GIF", "WebP", "AVIF"}
_TAIL = 64  # bytes
_local = threading.local()  # the animation that is kept open


class Count(NamedTuple):
    """How many pictures a file has, and what they are called."""

    number: int
    word: Literal["page", "frame"]


def listed_frames(
    sources: "Iterable[Source]", options: RunOptions, max_pixels: int
) -> Iterator[Source]:
    """The same sources; in place of a file with several pictures those that are wanted."""
    with Decoders(1, time_limit=options.time_limit, max_pixels=max_pixels) as decoders:
        yield from expanded(sources, options, max_pixels, decoders)


def expanded(
    sources: "Iterable[Source]", options: RunOptions, max_pixels: int, decoders: Decoders
) -> Iterator[Source]:
    """The same, found out by these decoders: by one alone, so that a clip is read once."""
    with closing(KeptArchive()) as kept:
        looking = _Looking(options, max_pixels, decoders, kept)
        for source in sources:
            if source.error is not None:
                yield source
                continue
            try:
                yield from looking.pictures_of(source)
            except ImageError as error:
                yield Source(source.name, error=str(error), kind=error.kind)


class _Looking(NamedTuple):
    """Finds out which pictures a file has."""

    options: RunOptions
    max_pixels: int
    decoders: Decoders
    kept: KeptArchive

    def pictures_of(self, source: Source) -> Iterator[Source]:
        """The pictures of a source that are wanted."""
        every, frames = self.options.every, self.options.frames
        if every is not None and source.member is None and is_video(source.path or ""):
            yield from self._moments_of(source)
            return
        if frames is None:
            yield source
            return
        if source.path is None:
            where = "an address" if source.url else "standard input"
            text = f"is {where}: --frames reads files of this machine; save it as one"
            raise ImageError(text, kind="unreadable")
        photo: str | bytes = source.path
        if source.member is not None:
            photo = self.kept.read(source.path, source.member_name, source.member)
        count, word = self.decoders.run(count_pictures, photo, self.max_pixels)
        if count == 1:
            yield source
            return
        wanted = min(frames or count, count)
        for number in range(wanted):
            index = number * count // wanted
            yield replace(source, name=f"{source.name}#{word}={index + 1}", frame=index)

    def _moments_of(self, source: Source) -> Iterator[Source]:
        assert source.path is not None
        assert self.options.every is not None
        begin, finished = 0, False
        while not finished:
            answer = self.decoders.run(moments, source.path, self.options.every, begin)
            found, finished, failure = answer
            for seconds, moment in found:
                yield replace(source, name=f"{source.name}#t={_text(seconds)}", frame=moment)
            begin += len(found)
            if failure is not None:
                raise failure


def _text(seconds: float) -> str:
    """Seconds to the millisecond, with at least one decimal place."""
    return str(round(seconds, 3))


def count_pictures(photo: str | bytes, max_pixels: int) -> Count:
    """How many pictures a file, or its bytes, holds; raises ImageError where it cannot be read."""
    from resnest_cli.images.decode import explained, format_of, opened

    with explained(), opened(photo, max_pixels) as stream:
        name = format_of(stream.read(64))
        if name == "TIFF":
            from resnest_cli.images.tiff import page_count

            return Count(page_count(stream), "page")
        stream.seek(-min(_TAIL, stream.seek(0, os.SEEK_END)), os.SEEK_CUR)
        cut = name == "GIF" and not stream.read().rstrip(b"\0\r\n").endswith(b";")
    if name not in _ANIMATED:
        return Count(1, "frame")
    with explained():
        image = _Animation.of(photo, max_pixels).image
        # Pillow stops counting where a GIF ends: what is missing is an error in its place.
        return Count(getattr(image, "n_frames", 1) + cut, "frame")


def frame_of(
    photo: str | bytes, frame: int | Moment, *, exif: bool, max_pixels: int
) -> "Image.Image":
    """A picture of a file, or of its bytes, in RGB; of a video, at that moment.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(frame, Moment):
        assert isinstance(photo, str)
        return picture(photo, frame, exif=exif, max_pixels=max_pixels)
    from resnest_cli.images.decode import explained, format_of, opened, upright_rgb

    with explained(), opened(photo, max_pixels) as stream:
        if format_of(stream.read(64)) == "TIFF":
            from resnest_cli.images.tiff import read_tiff

            return read_tiff(stream, max_pixels, frame)
    animation = _Animation.of(photo, max_pixels)
    try:
        with explained():
            animation.image.seek(frame)
            return upright_rgb(animation.image, exif=exif)
    except ImageError:
        animation.close()  # whatever state it is in
        raise


class _Animation:
    """An open animation; each thread keeps the last one for the next of its frames."""

    def __init__(self, photo: str | bytes, max_pixels: int) -> None:
        from resnest_cli.images import check_pixels
        from resnest_cli.images.decode import format_of, opened, plugin_of, read_file

        self._photo = photo
        data = read_file(photo) if isinstance(photo, str) else photo
        with ExitStack() as stack:
            stream = stack.enter_context(opened(data, max_pixels))
            name = format_of(stream.read(64))
            stream.seek(0)
            self.image: Any = plugin_of(name)(stream)
            check_pixels(*self.image.size, max_pixels)
            self._stack = stack.pop_all()

    @classmethod
    def of(cls, photo: str | bytes, max_pixels: int) -> Self:
        """That of a photo: the one that is kept, if it is that."""
        from resnest_cli.images.decode import explained

        kept: Self | None = getattr(_local, "kept", None)
        if kept is not None and kept._photo == photo:
            return kept
        if kept is not None:
            kept.close()
        with explained():
            _local.kept = found = cls(photo, max_pixels)
        return found

    def close(self) -> None:
        """Closes the file; it is kept no longer."""
        _local.kept = None
        self._stack.close()
