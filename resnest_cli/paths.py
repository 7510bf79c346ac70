"""Where things are kept on this machine. Reads the environment; creates no folder unasked.

Published weights live where torch.hub keeps them, so that both share one copy; everything that is
ours alone lives under `$RESNEST_HOME`. Where there is no home folder to keep it in, a path leads
below `NOWHERE`: nothing is found there, nothing can be written, and `homeless` says why.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import distrust

NOWHERE = Path(os.devnull)  # not a folder, so that no path below it can be
PUBLIC_HUB = "https://huggingface.co"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def torch_checkpoints_dir() -> Path:
    """Folder of published weights: `$TORCH_HOME/hub/checkpoints`.

    Follows torch.hub._get_torch_home: `$TORCH_HOME`, else `$XDG_CACHE_HOME/torch`, else
    `~/.cache/torch`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or str(Path(cache) / "torch")
    return expanded(home) / "hub" / "checkpoints"


def huggingface_hub_dir() -> Path:
    """Folder where huggingface_hub, timm and transformers keep what they fetch, and so do we.

    Follows huggingface_hub.constants: `$HF_HUB_CACHE`, else `$HUGGINGFACE_HUB_CACHE`, else
    `$HF_HOME/hub`; `$HF_HOME` defaults to `$XDG_CACHE_HOME/huggingface`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return expanded(os.path.expandvars(given or str(Path(home) / "hub")))


def huggingface_endpoint() -> str:
    """Address of the hub: `$HF_ENDPOINT`, else the public one."""
    return (os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")


def huggingface_offline() -> bool:
    """Whether `$HF_HUB_OFFLINE` or `$TRANSFORMERS_OFFLINE` forbids to ask the hub."""
    given = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return given.upper() in {"1", "ON", "YES", "TRUE"}


def resnest_home() -> Path:
    """Our own cache folder: `$RESNEST_HOME`, else the platform's user cache folder."""
    if home := os.environ.get("RESNEST_HOME"):
        return expanded(home)
    if _no_home() and not os.environ.get("XDG_CACHE_HOME", "").startswith("/"):
        return NOWHERE / "resnest"
    from platformdirs import user_cache_path  # 2 ms; not needed where the variable is set

    return user_cache_path("resnest", appauthor=False)


def expanded(path: str) -> Path:
    """The path with `~` replaced by the home folder; below `NOWHERE` where there is none.

    Of a file:// address, the path that it stands for.
    """
    path = local_path(path)
    parts = Path(path).parts
    if not (parts and parts[0].startswith("~")):
        return Path(path)
    with contextlib.suppress(RuntimeError):  # nobody knows that user
        if not (parts[0] == "~" and _no_home()):
            return Path(path).expanduser()
    return NOWHERE.joinpath(*parts[1:])


def is_http(text: str) -> bool:
    """Whether a text is an http(s) address: of a photo, where inputs are named."""
    return text[:8].lower().startswith(("http://", "https://"))


def is_address(text: str) -> bool:
    """Whether a text names something on a file system: s3://, file:// and the like, not http(s)."""
    return _ADDRESS.match(text) is not None and not is_http(text)


def is_file_url(text: str) -> bool:
    """Whether a text is a file:// address."""
    return text[:6].lower() == "file:/"


def is_url(text: str) -> bool:
    """Whether a text is an address of any kind, but none of a file of this machine."""
    return "://" in text and not is_file_url(text)


def local_path(text: str) -> str:
    """A text as it is, but the path that a file:// address of this machine stands for."""
    if not is_file_url(text):
        return text
    from urllib.parse import unquote_to_bytes
    from urllib.request import url2pathname

    rest = text[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in {"", "localhost"}:
            return text
        rest = slash + path
    if os.name == "nt":
        return url2pathname(rest)
    return os.fsdecode(unquote_to_bytes(os.fsencode(rest)))


def local_arguments(words: list[str]) -> list[str]:
    """A command line with the path that each file:// address of this machine stands for.

    Here, and not where inputs are read, since options name files in this way, too. Ray's runner has
    addresses of its own, file:// among them.
    """
    if "file:/" not in "\n".join(words).lower() or "ray" in words or "--runner=ray" in words:
        return words
    parts = [re.fullmatch("(--[a-z-]+=)?(.*)", word, re.DOTALL) for word in words]
    return [(part[1] or "") + local_path(part[2]) for part in parts if part is not None]


def homeless(path: Path) -> str:
    """Why there is no place for this path, one of the above; empty if there may be one."""
    if not path.is_relative_to(NOWHERE):
        return ""
    return _no_home() or "its variable names no folder of this machine"


def _no_home() -> str:
    """Why this user has no home folder, as in a container with an arbitrary user id."""
    home = os.path.expanduser("~")  # noqa: PTH111 - which raises no error
    if home == "~":
        return "HOME is not set, and the user has no entry in the password file"
    if os.name != "nt" and not os.environ.get("HOME", home).startswith("/"):
        return "HOME is not an absolute path"
    return "" if os.path.isdir(home) else f"there is no home folder {home}"  # noqa: PTH112


def entries(folder: Path, pattern: str) -> list[Path]:
    """What a cache folder holds; nothing where it is not there, or may not be looked into."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def is_file(path: Path | str) -> bool:
    """Whether this is a file that can be seen; unlike `Path.is_file` it never raises."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path | str) -> bool:
    """Whether this leads to a folder that can be seen; unlike `Path.is_dir` it never raises."""
    return os.path.isdir(path)  # noqa: PTH112


def private_folder(path: Path) -> Path:
    """Makes a folder that only its user can write to, of mode 0700, and returns its path.

    One of this user's that others can write to is closed to them first: earlier versions made it as
    the umask said. So no file in it is trusted for lying there, see `files.read_trusted`.

    Raises:
        OSError: it cannot be made or closed, or belongs to others; the message says so in words.
    """
    make_private(path)
    link, folder = path.lstat(), path.stat()  # a link to a larger disk is fine
    if not stat.S_ISDIR(folder.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", str(path))
    ours = hasattr(os, "geteuid") and link.st_uid == os.geteuid()
    if ours and stat.S_ISDIR(link.st_mode) and link.st_mode & 0o022:
        with contextlib.suppress(OSError):
            path.chmod(0o700)
        link = folder = path.lstat()
    if why := distrust(link) or distrust(folder):
        raise PermissionError(errno.EACCES, f"it {why}", str(path))
    return path


def make_private(path: Path) -> None:
    """Makes a folder and those above it, as the XDG specification wants it: for its user alone."""
    if why := homeless(path):
        raise FileNotFoundError(errno.ENOENT, why, str(path))
    if path.is_dir():
        return
    make_private(path.parent)
    with contextlib.suppress(FileExistsError):  # another process was quicker, or it is a file
        path.mkdir(mode=0o700)


def check_place(path: Path) -> None:
    """Raises ResnestError where a file cannot stand: on a folder, or in one that is not there."""
    if path.is_dir() or not path.parent.is_dir():
        missing = f"there is no folder {path.parent}. Make it, or name another."
        what = "is a folder. Name a file in it." if path.is_dir() else missing
        raise ResnestError(f"{path}: cannot be written: {what}")


def check_not_read(path: Path, read: Iterable[str | None], option: str = "-o") -> None:
    """Raises UsageError if the file that `option` is to write is one of those that are `read`."""
    for name in filter(None, read):
        other = Path(local_path(name))
        if path.exists() and other.exists() and path.samefile(other):
            raise UsageError(f"{path} is read by this command; give {option} another name.")
