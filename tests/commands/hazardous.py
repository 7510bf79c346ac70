"""A decoder with bugs, for tests: names that hold "crash" crash it, "hang" hangs it."""

import ctypes
import faulthandler
import time

from resnest_cli.images.batches import Preparation


class HazardousPreparation(Preparation):
    """Does to photos what bugs in C code do."""

    def __call__(self, photo):
        if isinstance(photo, str) and "crash" in photo:
            faulthandler.disable()
            ctypes.string_at(0)
        if isinstance(photo, str) and "hang" in photo:
            time.sleep(1000)
        return super().__call__(photo)
