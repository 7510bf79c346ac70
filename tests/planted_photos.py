"""Photos that crash, hang or glut a decoder, the decoder that falls for it, and commands with it.

Every runner of many photos is tested with the same ones: on this machine and on Ray.
"""

import ctypes
import faulthandler
import os
import sys
import time
from pathlib import Path

from resnest_cli.images.batches import Preparation

ROOT = Path(__file__).parents[1]
TIME_LIMIT = 2.0  # seconds for a photo
# What stands in the file, and the row that it gets.
PLANTED = {
    "CRASH": "cannot be read: the decoder crashed (SIGSEGV)",
    "HANG": "cannot be read: decoding took longer than 2 s",
    "GLUT": "cannot be read: decoding needed more than 2.1 GB of memory",
}
KINDS = {"CRASH": "crashed the decoder", "HANG": "timed out", "GLUT": "unreadable"}

_PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv = ["resnest", *sys.argv[1:]]
from tests.planted_photos import plant
plant()
from resnest_cli.jobs import local
local.MOST_INPUTS = 4
{{more}}
from resnest_cli.__main__ import main
main()
"""


class HazardousPreparation(Preparation):
    """Does to such photos what bugs in C code do; all take $SLOW seconds."""

    def decoded(self, photo):
        data = Path(photo).read_bytes() if isinstance(photo, str) else photo
        if b"CRASH" in data:
            faulthandler.disable()
            ctypes.string_at(0)
        if b"HANG" in data:
            time.sleep(1000)
        if b"GLUT" in data:
            _ = [bytes(2**26) for _ in range(64)]  # nothing but the limit is in the way
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().decoded(photo)


def plant() -> None:
    """Gives this process, and its decoders, this preparation."""
    from resnest_cli import options

    options.DECODING_LIMIT = TIME_LIMIT
    import resnest_cli.inference.classifier as module

    module.Preparation = HazardousPreparation


def program(*words: object, more: str = "") -> list[str]:
    """A command of ours with such a decoder, and with parts of four inputs on this machine."""
    return [sys.executable, "-c", _PROGRAM.format(more=more), *map(str, words)]


def planted_photos(folder: Path, count: int = 12) -> dict[str, str]:
    """Makes photos, three of them such ones; the errors of these, by name."""
    from tests.conftest import make_photo  # which decoders need not import

    folder.mkdir(exist_ok=True)
    for number in range(count):
        make_photo(folder / f"{number}.png", (40, 30), seed=number)
    names = {hazard: f"{5 * place + 1}-{hazard}.png" for place, hazard in enumerate(PLANTED)}
    for hazard, name in names.items():
        (folder / name).write_bytes((folder / "1.png").read_bytes() + hazard.encode())
    return {name: PLANTED[hazard] for hazard, name in names.items()}


def partly_broken(folder: Path, count: int, size: tuple[int, int] = (60, 40)) -> Path:
    """A new folder of photos; of each fifty one ends in its middle."""
    from tests.conftest import make_photo

    folder.mkdir(exist_ok=True)
    for index in range(count):
        path = make_photo(folder / f"{index}.png", size, seed=index)
        if index % 50 == 13:
            path.write_bytes(path.read_bytes()[:100])
    return folder
