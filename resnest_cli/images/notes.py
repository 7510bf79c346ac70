"""What is worth saying about a photo that could be read, on its way to whoever knows its name.

A decoder leaves a note in its thread; whoever called it takes the note, in the same thread. What
runs in another process brings its note back beside its result, see `noted`.
"""

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_local = threading.local()


def leave(text: str) -> None:
    """Leaves a note about the photo that this thread is reading; goes on after its name."""
    _local.text = text


def take() -> str | None:
    """The note that this thread has left since the last time, if any."""
    text: str | None = getattr(_local, "text", None)
    if text is not None:
        _local.text = None
    return text


def noted(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, str | None]:
    """What a function returns, and the note that it left."""
    take()
    return function(*args, **kwargs), take()
