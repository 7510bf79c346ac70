"""How far work has come: the one way in which every part of the program says it.

What takes a while takes a `Progress` and calls it after each step, as often as it likes; whoever
shows it decides when to draw. `output.Bar` draws it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Notify = Callable[[str], None]  # takes a line that the user should read


class Progress(Protocol):
    """Shows how far a piece of work has come. The first call says where it begins or goes on."""

    def __call__(
        self, done: int, total: int | None = None, *, failed: int = 0, title: str = ""
    ) -> None:
        """`done` of `total` steps, photos or bytes are done; None: nobody knows how many there are.

        `failed` of the done ones failed. `title` says what is done now, where that changes.
        """


Display = Callable[[str], AbstractContextManager[Progress]]  # by title; shown in its body


def silent(done: int, total: int | None = None, *, failed: int = 0, title: str = "") -> None:
    """A `Progress` that shows nothing."""


def hidden(title: str) -> AbstractContextManager[Progress]:  # noqa: ARG001
    """A `Display` that shows nothing."""
    return nullcontext(silent)


def ignore(text: str) -> None:
    """A `Notify` that drops the line."""


def checking(progress: Progress, check: Callable[[], None]) -> Progress:
    """`progress`, and a `check` after each step, which may raise to stop."""

    def show(done: int, total: int | None = None, *, failed: int = 0, title: str = "") -> None:
        progress(done, total, failed=failed, title=title)
        check()

    return show
