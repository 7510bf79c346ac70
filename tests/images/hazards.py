"""What a decoder might do to its process; `tests/images/test_pool.py` runs these in workers.

A module of its own, so that a worker need not import pytest.
"""

import ctypes
import os
import signal
import time

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ImageError
from resnest_cli.images import leave_note
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import preprocess
from resnest_cli.model.variants import Preprocessing


def crash(name: str = "SIGSEGV") -> None:
    os.kill(os.getpid(), signal.Signals[name])


def read_null() -> bytes:
    return ctypes.string_at(0)


def leave(code: int) -> None:
    os._exit(code)


def hang(seconds: float = 60) -> None:
    time.sleep(seconds)


def hang_with_lock() -> None:
    """Keeps the GIL."""
    ctypes.PyDLL(None).sleep(60)


def fill(size: int) -> int:
    return len(bytearray(size))


def refuse(text: str) -> None:
    raise ImageError(text)


def bug() -> None:
    raise KeyError("bug")


class UnsendableError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__("cannot be read back")


def unsendable() -> None:
    raise UnsendableError(1, 2)


def chatter() -> str:
    os.write(1, b"printed by a library\n")
    return "answer"


def same(value: object) -> object:
    return value


def unsendable_result() -> object:
    return lambda: None


def remark(text: str) -> str:
    leave_note(text)
    return text


def pid() -> int:
    return os.getpid()


def prepare(source: str | bytes, size: int = 224) -> NDArray[np.float32]:
    return preprocess(decode(source), Preprocessing(size, 0.875, "bilinear"))
