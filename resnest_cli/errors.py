"""Every error that a user can meet, drawn as a tree.

    ResnestError            exit 1: what happened, to which file, and what to do
    ├── UsageError          exit 2: a wrong option or argument
    │   └── UnknownModelError       no such id, alias or file; names the nearest
    ├── ImageError          one input could not be read; the run goes on and ends with exit 3
    ├── LabelsError         a list of class names that does not fit the network
    ├── WeightsError        weights could not be had
    │   ├── OfflineError            not cached, and connecting was forbidden
    │   ├── DownloadError           no host gave the file
    │   └── CacheError              the cache cannot be written: full disk, read-only folder
    ├── MissingPackageError     a package that is not installed, as in an install without torch
    ├── EngineError         the network cannot be run as asked on this machine
    └── CheckpointError     a file of weights that is damaged, malicious or of another shape
        └── NewerFormatError        written by a later version of this program

Raise one of these for whatever a user can cause; assert for what only we can. `app.main` is the one
place that turns them into a message and an exit code.
"""

import errno
import os
from importlib.util import find_spec
from typing import Literal, NamedTuple

# What is wrong with an input, in the words of a run's summary ("3 damaged, 1 missing").
ErrorKind = Literal[
    "missing", "unreadable", "not an image", "empty", "truncated", "damaged", "too large",
    "timed out", "crashed the decoder", "not fetched", "matched nothing", "no finite numbers",
    "beyond float16", "other",
]  # fmt: skip


class ResnestError(Exception):
    """Base of all errors meant for the user; `str(error)` is the whole message."""

    exit_code = 1


class UsageError(ResnestError):
    """A wrong option, argument or combination of them."""

    exit_code = 2


class UnknownModelError(UsageError):
    """A model name that is neither an id, nor an alias, nor an existing file."""


class ImageError(ResnestError):
    """One input that could not be read as a photo.

    `kind` says what is wrong; it travels with the error between processes. "other" is for whoever
    raises one without saying so.
    """

    exit_code = 3

    def __init__(self, message: str = "", *, kind: ErrorKind = "other") -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind


class MissingPackageError(ResnestError):
    """A package that is not installed: torch in a light install, or that of an extra."""


class LabelsError(ResnestError):
    """Class names that cannot be read or do not fit the network."""


class WeightsError(ResnestError):
    """Weights that could not be located or fetched."""


class OfflineError(WeightsError):
    """Weights that are not on this machine while `--offline` forbids to connect."""


class DownloadError(WeightsError):
    """No host delivered the file."""


class CacheError(WeightsError):
    """The cache folder cannot be written."""


class EngineError(ResnestError):
    """An engine that cannot run the network on this machine."""


class CheckpointError(ResnestError):
    """A file of weights that cannot be used."""


class NewerFormatError(CheckpointError):
    """A checkpoint whose format is newer than this program."""


class _Package(NamedTuple):
    """What brings a module: distributions as pip takes them, and the extra they belong to."""

    install: str
    extra: str = ""


_TORCH = _Package("torch torchvision captum")
# By module: those that a light install leaves out, and the extras'.
PACKAGES = {
    "torch": _TORCH,
    "torchvision": _TORCH,
    "captum": _TORCH,
    "av": _Package("av", "video"),
    "fsspec": _Package("fsspec", "ray"),
    "openvino": _Package("openvino", "openvino"),
    "pillow_heif": _Package("pillow-heif", "heic"),
    "pyarrow": _Package("pyarrow", "parquet"),
    "ray": _Package("ray pyarrow fsspec", "ray"),
    "sklearn": _Package("scikit-learn", "check"),
    "tensorboard": _Package("tensorboard", "tensorboard"),
    "tifffile": _Package("tifffile imagecodecs", "tiff"),
    "webdataset": _Package("webdataset", "shards"),
}


def installed(module: str) -> bool:
    """Whether a module of PACKAGES is there; it is not imported."""
    return find_spec(module) is not None


def need(module: str, what: str) -> None:
    """Raises MissingPackageError, with the line that installs it, where `what` lacks a module."""
    if not installed(module):
        raise MissingPackageError(missing(module, what))


def missing(module: str, what: str) -> str:
    """The message for a module of PACKAGES that `what` needs."""
    install, extra = PACKAGES[module]
    named = f"{install.split()[0]} (extra {extra})" if extra else module
    # Not "resnest-cli[extra]": pip would bring torch into a light install.
    return f"{what} needs {named}, which is not installed. Run: pip install {install}"


_REMEDIES = {
    "Make room, or name another place.": ("ENOSPC", "EDQUOT"),
    "Check that its folder may be written, or name another place.": ("EACCES", "EPERM", "EROFS"),
    "The disk fails: name another place.": ("EIO",),
}
# What this machine, or its limits for a user, refuse, and what to do.
LIMIT_REMEDIES = {
    errno.EMFILE: "this process may open no more files (`ulimit -n` says how many). Raise the "
    "limit, such as with `ulimit -n 4096`, or use fewer --workers.",
    errno.ENFILE: "the whole machine may open no more files. End other programs, or use fewer "
    "--workers.",
    errno.EAGAIN: "the system refuses another process or thread (`ulimit -u` and the pids limit of "
    "a container say how many). Raise the limit, or use --workers 0.",
    errno.ENOMEM: "the system refuses more memory. End other programs, or use fewer --workers and "
    "a smaller --batch-size.",
}
# What torch, multiprocessing and Python's threads say in place of a number.
_LIMIT_WORDS = {
    "too many open files": errno.EMFILE,
    "items of ancdata": errno.EMFILE,  # a descriptor that was sent found no place here
    "can't start new thread": errno.EAGAIN,
    "resource temporarily unavailable": errno.EAGAIN,
    "cannot allocate memory": errno.ENOMEM,
}


def cannot_write(path: object, error: OSError) -> str:
    """The message for a file that the system refuses to write: which, why, and what to do."""
    folder = os.path.dirname(str(path))  # noqa: PTH120 - "" is the working folder
    if error.errno == errno.ENOENT and folder and not os.path.lexists(folder):
        return f"{path}: cannot be written: there is no folder {folder}. Make it, or name another."
    return f"{path}: cannot be written: {reason(error)}. {remedy(error)}".rstrip()


def reason(error: OSError) -> str:
    """The words of the system, or of a library, for an error, on one line."""
    return " ".join((error.strerror or str(error)).split()) or type(error).__name__


def remedy(error: OSError) -> str:
    """What to do about it; empty where that is not known."""
    name = errno.errorcode.get(error.errno or 0, "")
    known = next((text for text, names in _REMEDIES.items() if name in names), "")
    limit = limit_reached(error) or ""
    return known or limit[:1].upper() + limit[1:]


def limit_reached(error: BaseException | None) -> str | None:
    """Which limit an error, or one that it followed, is about, and what to do; None for others."""
    while error is not None:
        if isinstance(error, OSError):
            if error.errno in LIMIT_REMEDIES:
                return LIMIT_REMEDIES[error.errno]
        elif isinstance(error, RuntimeError):
            text = str(error).lower()
            for words, number in _LIMIT_WORDS.items():
                if words in text:
                    return LIMIT_REMEDIES[number]
        error = error.__cause__ or error.__context__
    return None
