"""A decoder with bugs, for tests: files that end in CRASH crash it, HANG hangs it."""

import ctypes
import faulthandler
import os
import time
from pathlib import Path

from resnest_cli.images.batches import Preparation


class HazardousPreparation(Preparation):
    """Does to photos what bugs in C code do."""

    def decoded(self, photo):
        data = Path(photo).read_bytes() if isinstance(photo, str) else photo
        if data.endswith(b"CRASH"):
            faulthandler.disable()
            ctypes.string_at(0)
        if data.endswith(b"HANG"):
            time.sleep(1000)
        return super().decoded(photo)


class HazardousContent(Preparation):
    """Files that hold CRASH crash it; all take $SLOW seconds."""

    def timed(self, photo):
        data = Path(photo).read_bytes() if isinstance(photo, str) else photo
        if b"CRASH" in data:
            faulthandler.disable()
            ctypes.string_at(0)
        time.sleep(float(os.environ["SLOW"]))
        return super().timed(photo)
