"""Video: the moments of a clip that are looked at, and their pictures. PyAV (FFmpeg) reads it.

    moments("clip.mp4", Every(1, "s"), 0)  ->  (0.0, Moment(0, 0)), (1.0, Moment(15360, 0)), ...
    picture("clip.mp4", Moment(15360, 0))  ->  an upright RGB photo

Moments are found by reading the clip without decoding it: every packet says when its frame is
shown, and whether decoding can begin there. "1s" is what a player shows at 0, 1, 2, ... seconds,
"10f" every tenth frame. Times count from the first frame that can be decoded.

Both functions run in a decoder's process, see `pool`, and keep the clip open there for the next
call, which goes on where the last one stopped: each frame is decoded once while one process asks
for moments in their order, whatever their number, and only one picture is held. It is taken as it
is: neither pixels that are no squares nor interlaced fields are evened out.

A clip cannot make FFmpeg open anything else: it gets an open file, no protocols, and no formats
that are lists of other files.
"""

import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnest_cli.errors import ImageError
from resnest_cli.images import check_pixels, damaged
from resnest_cli.options import Every
from resnest_cli.text import one_line

if TYPE_CHECKING:
    from PIL import Image

_OPTIONS = {
    "protocol_whitelist": "",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf",
}
_REORDERED = 32  # packets that may lie between the first and the last of those shown in turn
_LONGEST = 3600.0  # seconds that a frame may be shown
_AT_ONCE = 1000  # moments of an answer
_SECONDS = 5.0  # after which an answer is given
_OFTEN = 64  # packets
_TINY = 1e-6  # seconds: less than any unit
_MISSING = 1.0  # seconds that may be missing at the end
_local = threading.local()  # the open clip of each function


class Moment(NamedTuple):
    """When a frame is shown, in the clip's units, and the frame where decoding it has to begin."""

    shown: int
    key: int


class Moments(NamedTuple):
    """Moments with their times in seconds; whether there are no more; and why, if by damage."""

    found: list[tuple[float, Moment]]
    finished: bool
    failure: ImageError | None


class _Shown(NamedTuple):
    """A frame: when it is shown, where decoding begins, and for how long; in the clip's units."""

    shown: int
    key: int
    duration: int


# Which moments there are


def moments(path: str, every: Every, begin: int) -> Moments:
    """Some moments of a clip, from that number on; a caller goes on until it is `finished`.

    Raises:
        ImageError: it cannot be opened, or has no video; goes on after the path.
    """
    kept = getattr(_local, "listing", None)
    if kept is None or kept[:3] != (path, every, begin):
        found = _moments(path, every)
        passed = (one for one in found if one is not None)
        deque(islice(passed, begin), maxlen=0)
    else:
        found = kept[3]
    _local.listing = None
    answer, until = list[tuple[float, Moment]](), time.monotonic() + _SECONDS
    try:
        for moment in found:
            if moment is not None:
                answer.append(moment)
            if len(answer) == _AT_ONCE or time.monotonic() > until:
                _local.listing = path, every, begin + len(answer), found
                return Moments(answer, finished=False, failure=None)
    except ImageError as error:
        if not answer and not begin:
            raise
        return Moments(answer, finished=True, failure=error)
    return Moments(answer, finished=True, failure=None)


def _moments(path: str, every: Every) -> Iterator[tuple[float, Moment] | None]:
    """The moments; None now and then, so that whoever waits may look at the clock."""
    with _explained(), _opened(path) as (container, stream):
        unit, first, count, wanted = float(stream.time_base), None, 0, 0
        last: _Shown | None = None
        for one in _frames(container, stream):
            if one is None:
                yield None
                continue
            first = one.shown if first is None else first
            if every.unit == "f":
                if count % int(every.number) == 0:
                    yield (one.shown - first) * unit, Moment(*one[:2])
            elif last is not None:
                if (one.shown - last.shown) * unit > _LONGEST:
                    raise damaged(f"its times leap after {(last.shown - first) * unit:.1f} s")
                while wanted * every.number < (one.shown - first) * unit - _TINY:
                    yield wanted * every.number, Moment(*last[:2])
                    wanted += 1
            last, count = one, count + 1
        if last is None or first is None:
            raise damaged("there is no frame in it that decoding could begin with")
        end, shown = (last.shown - first) * unit, min(last.duration * unit, _LONGEST)
        if every.unit == "s":
            while wanted * every.number < max(end + shown - _TINY, end + _TINY):
                yield wanted * every.number, Moment(*last[:2])
                wanted += 1
        _check_end(stream, end + shown)


def _frames(container: Any, stream: Any) -> Iterator[_Shown | None]:
    """The frames of a clip in the order in which they are shown; None now and then."""
    waiting, last, key, before = list[_Shown](), None, None, None
    for number, packet in enumerate(container.demux(stream)):
        if number % _OFTEN == 0:
            yield None
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is None or packet.is_discard:
            continue
        if packet.is_keyframe:
            before, key = key, shown
        begin = before if key is not None and shown < key else key
        if begin is None:  # belongs to what was cut off
            continue
        heappush(waiting, _Shown(shown, begin, packet.duration or 0))
        if len(waiting) > _REORDERED:
            one = heappop(waiting)
            if last is None or one.shown > last:
                last = one.shown
                yield one
    while waiting:
        one = heappop(waiting)
        if last is None or one.shown > last:
            last = one.shown
            yield one


def _check_end(stream: Any, end: float) -> None:
    """Raises an ImageError where the clip announces more seconds than there are."""
    said = stream.duration * float(stream.time_base) if stream.duration else 0.0
    if tag := re.match(r"(\d+):(\d\d):([\d.]+)", stream.metadata.get("DURATION", "")):  # Matroska
        said = 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
    if said - end > _MISSING:
        text = f"is truncated or damaged: it can be read up to {end:.1f} s of {said:.1f}"
        raise ImageError(text, kind="truncated")


# Their pictures


def picture(path: str, moment: Moment, *, exif: bool, max_pixels: int) -> "Image.Image":
    """The picture of a moment, in RGB; turned as the clip says where `exif` is wanted.

    Raises:
        ImageError: it cannot be decoded.
    """
    from PIL import Image

    with _explained():
        clip = getattr(_local, "clip", None)
        if clip is None or clip.path != path:
            if clip is not None:
                clip.close()
            _local.clip = clip = _Clip(path, max_pixels)
        frame = clip.frame_at(moment)
        check_pixels(frame.width, frame.height, max_pixels)
        if frame.is_corrupt:
            raise damaged("the frame at this time is not all there")
        image = Image.fromarray(frame.to_ndarray(format="rgb24"))
        turn = {90: 2, -90: 4, 180: 3, -180: 3}.get(frame.rotation) if exif else None
        return image if turn is None else image.transpose(Image.Transpose(turn))


class _Clip:
    """An open clip, which decodes on from where it stands."""

    def __init__(self, path: str, max_pixels: int) -> None:
        self.path = path
        self._stack = ExitStack()
        self._container, self._stream = self._stack.enter_context(_opened(path))
        check_pixels(self._stream.width, self._stream.height, max_pixels)
        self._frames = self._decoded()
        self._last: Any = None  # frame
        self._seeks = True

    def close(self) -> None:
        """Closes the file."""
        self._stack.close()

    def frame_at(self, moment: Moment) -> Any:
        """The frame that is shown then."""
        last = None if self._last is None else self._last.pts
        if last is None or moment.shown < last or (self._seeks and moment.key > last):
            self._go_to(moment.key)
            if self._last is not None and self._last.pts > moment.shown:
                self._seeks = False  # its table of key frames is wrong: from the beginning
                self._go_to(None)
        while self._last is not None and self._last.pts < moment.shown:
            self._last = next(self._frames, None)
        if self._last is None or self._last.pts != moment.shown:
            raise damaged("the frame at this time cannot be decoded")
        return self._last

    def _go_to(self, key: int | None) -> None:
        if key is None or not self._seeks:
            self._stack.close()
            self._container, self._stream = self._stack.enter_context(_opened(self.path))
        else:
            self._container.seek(key, stream=self._stream)
        self._frames = self._decoded()
        self._last = next(self._frames, None)

    def _decoded(self) -> Iterator[Any]:
        """Frames with a time, in the order in which they are shown."""
        from av import FFmpegError

        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except FFmpegError:  # whoever wants its frame will miss it
                continue
            yield from (frame for frame in frames if frame.pts is not None)


@contextmanager
def _opened(path: str) -> Iterator[tuple[Any, Any]]:
    """A clip, and its first video."""
    import av

    if not Path(path).stat().st_size:
        raise ImageError("is empty (0 bytes)", kind="empty")
    with Path(path).open("rb") as file, av.open(file, options=_OPTIONS) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise ImageError("has no video in it, only sound", kind="not an image")
        stream.codec_context.thread_count = 1  # as many decoders as are wanted run side by side
        yield container, stream


@contextmanager
def _explained() -> Iterator[None]:
    """Turns whatever FFmpeg, or the system, says of a clip into an `ImageError`."""
    from av import FFmpegError

    try:
        yield
    except ImageError:
        raise
    except FFmpegError as error:
        words = one_line(error.strerror or str(error)).lower()
        raise ImageError(f"is no video that can be read: {words}", kind="damaged") from error
    except FileNotFoundError as error:
        raise ImageError("does not exist", kind="missing") from error
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise ImageError(f"cannot be read: {words}", kind="unreadable") from error
    except ValueError as error:
        raise damaged(one_line(str(error))) from error
