"""Where things are kept on this machine. Reads the environment; creates no folder unasked.

Published weights live where torch.hub keeps them, so that both share one copy; everything that is
ours alone lives under `$RESNEST_HOME`.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

from resnest_cli.files import distrust


def torch_checkpoints_dir() -> Path:
    """Folder of published weights: `$TORCH_HOME/hub/checkpoints`.

    Follows torch.hub._get_torch_home: `$TORCH_HOME`, else `$XDG_CACHE_HOME/torch`, else
    `~/.cache/torch`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or str(Path(cache) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def huggingface_hub_dir() -> Path:
    """Folder where timm's downloads lie: `$HF_HUB_CACHE`, else `$HF_HOME/hub`.

    Follows huggingface_hub.constants: `$HF_HOME` defaults to `$XDG_CACHE_HOME/huggingface`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or str(Path(home) / "hub")).expanduser()


def resnest_home() -> Path:
    """Our own cache folder: `$RESNEST_HOME`, else the platform's user cache folder."""
    home = os.environ.get("RESNEST_HOME")
    if home:
        return Path(home).expanduser()
    from platformdirs import user_cache_path  # 2 ms; not needed where the variable is set

    return user_cache_path("resnest", appauthor=False)


def private_folder(path: Path) -> Path:
    """A folder for what is trusted without a check, made with mode 0700 where it is not there.

    Returns `path`. One that is there counts if nobody but this user and root can write to it.

    Raises:
        OSError: it cannot be made, or others can write to it; the message says so in words.
    """
    _make_private(path)
    link, folder = path.lstat(), path.stat()  # a link to a larger disk is fine
    if not stat.S_ISDIR(folder.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", str(path))
    if why := distrust(link) or distrust(folder):
        raise PermissionError(errno.EACCES, f"it {why}", str(path))
    return path


def _make_private(path: Path) -> None:
    """Makes a folder and those above it, as the XDG specification wants it: for its user alone."""
    if path.is_dir():
        return
    _make_private(path.parent)
    with contextlib.suppress(FileExistsError):  # another process was quicker, or it is a file
        path.mkdir(mode=0o700)


def closed_folder(path: Path) -> Path:
    """A `private_folder`; one of this user's that others can write to is closed to them first.

    Earlier versions made folders as the umask said. Whoever calls this trusts no file in it for
    lying there: `files.read_trusted` and `files.trusted` judge each by its own owner and mode.

    Raises:
        OSError: as `private_folder`.
    """
    with contextlib.suppress(OSError):  # private_folder says what is wrong
        found = path.lstat()
        ours = hasattr(os, "geteuid") and found.st_uid == os.geteuid()
        if ours and stat.S_ISDIR(found.st_mode) and found.st_mode & 0o022:
            path.chmod(0o700)
    return private_folder(path)
