"""Checks that commands over many photos share; before anything slow begins."""

from collections.abc import Iterable
from pathlib import Path

from resnest_cli.errors import UsageError


def check_inputs(inputs: Iterable[str], from_file: str | None) -> None:
    """Whether anything was named.

    Raises:
        UsageError: nothing was.
    """
    if not any((*inputs, from_file)):
        raise UsageError("name at least one PHOTO, or a list of them with --from-file.")


def check_not_read(path: Path, read: Iterable[str | None]) -> None:
    """Whether a file that is to be written is none of those that are `read`.

    Raises:
        UsageError: it is one of them.
    """
    for name in filter(None, read):
        if path.exists() and Path(name).exists() and path.samefile(name):
            raise UsageError(f"{path} is read by this command; give -o another name.")
