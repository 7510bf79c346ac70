"""What shows a download while it arrives."""

from typing import Protocol


class Progress(Protocol):
    """What a progress display must offer. One download may start several times."""

    def start(self, name: str, total: int | None, done: int) -> None:
        """Show `done` of `total` bytes; None: the size is unknown."""

    def advance(self, n: int) -> None:
        """`n` more bytes."""

    def stop(self) -> None:
        """No more bytes, for whatever reason."""
