"""The inputs that the options of a command name -> photos to be read, one at a time.

The one road from a command line to photos: `sources` lists files, archives and addresses, `frames`
puts pages, frames and moments in the place of those that hold several pictures.
"""

from collections.abc import Iterator
from typing import BinaryIO

from resnest_cli.images.sources import Source, SourceStats, iter_sources
from resnest_cli.options import MAX_PIXELS, RunOptions


def listed(
    options: RunOptions, stats: SourceStats, stdin: BinaryIO | None = None,
    *, max_pixels: int = MAX_PIXELS,
) -> Iterator[Source]:  # fmt: skip
    """The photos that the options name, in order; see `iter_sources`.

    With `frames` or `every` also the pages and frames of files of up to so many pixels.
    """
    found = iter_sources(
        options.inputs,
        recursive=options.recursive,
        from_file=options.from_file,
        null_separated=options.null_separated,
        stdin=stdin,
        stats=stats,
        archives=True,
        videos=options.every is not None,
    )
    if options.frames is None and options.every is None:
        return found
    from resnest_cli.images.frames import listed_frames

    return listed_frames(found, options, max_pixels)
