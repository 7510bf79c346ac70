"""Where things are kept on this machine. Reads the environment; creates nothing.

Published weights live where torch.hub keeps them, so that both share one copy; everything that is
ours alone lives under `$RESNEST_HOME`.
"""

import os
from pathlib import Path

PUBLIC_HUB = "https://huggingface.co"


def torch_checkpoints_dir() -> Path:
    """Folder of published weights: `$TORCH_HOME/hub/checkpoints`.

    Follows torch.hub._get_torch_home: `$TORCH_HOME`, else `$XDG_CACHE_HOME/torch`, else
    `~/.cache/torch`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or str(Path(cache) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def huggingface_hub_dir() -> Path:
    """Folder where huggingface_hub, timm and transformers keep what they fetch, and so do we.

    Follows huggingface_hub.constants: `$HF_HUB_CACHE`, else `$HUGGINGFACE_HUB_CACHE`, else
    `$HF_HOME/hub`; `$HF_HOME` defaults to `$XDG_CACHE_HOME/huggingface`.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(given or str(Path(home) / "hub"))).expanduser()


def huggingface_endpoint() -> str:
    """Address of the hub: `$HF_ENDPOINT`, else the public one."""
    return (os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")


def huggingface_offline() -> bool:
    """Whether `$HF_HUB_OFFLINE` or `$TRANSFORMERS_OFFLINE` forbids to ask the hub."""
    given = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return given.upper() in {"1", "ON", "YES", "TRUE"}


def resnest_home() -> Path:
    """Our own cache folder: `$RESNEST_HOME`, else the platform's user cache folder."""
    home = os.environ.get("RESNEST_HOME")
    if home:
        return Path(home).expanduser()
    from platformdirs import user_cache_path  # 2 ms; not needed where the variable is set

    return user_cache_path("resnest", appauthor=False)
