"""What `torch.save` wrote, opened without ever running code from it.

`read_pickle` loads a file in torch's zip or legacy form; `unwrap` finds the state dict inside.

Sources: torch.serialization's weights-only unpickler; timm.models._helpers.load_state_dict for
where training scripts put the weights and which of them win. Deviations: whatever is neither a
plain tensor nor a known wrapper is an error; so are zip files that torch.save cannot have written.
"""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import CheckpointError
from resnest_cli.model.state_dict import clean_names, shortened

if TYPE_CHECKING:
    from torch import Tensor

# Where training scripts keep the weights; the first that is there wins: EMA weights, as in timm.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")

_CONVERT = (
    "If you trust its origin, convert it where it was made: "
    "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
)
_AGAIN = "Download or copy it again."


def read_pickle(path: Path) -> Any:
    """What `torch.save` put into the file, in its zip or its legacy form; tensors on the CPU.

    Only tensors, plain containers and numbers, and argparse's Namespace (timm's training script
    stores its arguments so) are unpickled.

    Raises:
        CheckpointError: damaged, or the pickle asks for anything else; nothing of it was run.
    """
    import torch

    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        _check_archive(path)
    try:
        with (
            path.open("rb") as file,  # by its path, torch would judge it by its extension
            warnings.catch_warnings(),
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            # torch warns about unusual pickle protocols; here a file loads or is an error.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        asks = (
            f"asks for {found[1]}, and loading that could run code"
            if found
            else "holds more than tensors, which could be code, or is damaged"
        )
        raise CheckpointError(f"{path} was not loaded: its pickle {asks}.\n{_CONVERT}") from error
    except Exception as error:  # a damaged pickle can raise anything, from any layer
        raise CheckpointError(f"{path} is damaged or cut short. {_AGAIN}") from error


def _check_archive(path: Path) -> None:
    """Refuses zip files that `torch.save` cannot have written, bombs among them."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises half a dozen kinds on damaged archives
        raise CheckpointError(f"{path} is a damaged or cut-short zip file. {_AGAIN}") from error
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript program, not a file of weights.\n{_CONVERT}"
        )
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{path} is a zip file without a PyTorch checkpoint. Give the file of weights itself."
        )
    # torch.save stores without compression: what is packed, or larger than the file, is a bomb.
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(
            f"{path} is a compressed zip file, which torch.save never writes: it was not loaded.\n"
            "Unpack it if the weights are inside, or get them again."
        )


def unwrap(path: Path | str, content: object) -> dict[str, "Tensor"]:
    """The state dict within a loaded pickle, with cleaned names.

    It may be bare or stand under one of `WRAPPERS`; a present `None` there counts as absent.

    Raises:
        CheckpointError: no state dict, a name that is no text, a value that is no plain tensor.
    """
    for _ in range(len(WRAPPERS)):  # wrapped more than once at times; never endlessly
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{path} holds {_kind(content)} where a state dict was expected. Save the "
                "network's state_dict() instead."
            )
        inner = [content[key] for key in WRAPPERS if content.get(key) is not None]
        if not inner:
            break
        content = inner[0]
    assert isinstance(content, Mapping)
    if not content:
        raise CheckpointError(f"{path} holds no tensors. Save the network's state_dict() instead.")
    for name, value in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path} has the key {shortened(name)}; names were expected.")
        _check_plain(path, name, value)
    return {clean: content[raw] for clean, raw in clean_names(path, content).items()}


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _check_plain(path: Path | str, name: str, value: object) -> None:
    import torch

    if not isinstance(value, torch.Tensor):
        raise CheckpointError(
            f"{path}: {shortened(name)} is {_kind(value)}; a tensor was expected. A state dict is "
            f"looked for at the top and under {', '.join(WRAPPERS)}."
        )
    # A view that repeats its few bytes would unfold to any size once it is copied.
    if (
        type(value) not in (torch.Tensor, torch.nn.Parameter)
        or value.layout is not torch.strided
        or value.is_nested
        or value.is_meta
        or value.numel() * value.element_size() > value.untyped_storage().nbytes()
    ):
        raise CheckpointError(
            f"{path}: {shortened(name)} is no plain dense tensor. Save the network's state_dict() "
            "on the CPU instead."
        )
