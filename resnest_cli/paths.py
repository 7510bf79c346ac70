"""Where things are kept on this machine. Reads the environment; creates nothing.

Published weights live where torch.hub keeps them, so that both share one copy; everything that is
ours alone lives under `$RESNEST_HOME`.
"""

import os
from pathlib import Path


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
