"""What `torch.save` wrote, opened without ever running code from it.

`read_pickle` loads a file in torch's zip or legacy form; `unwrap` finds the state dict inside, and
the names of the classes. `read_pickled_arrays` reads the plain case without torch.

Sources: torch.serialization's weights-only unpickler; timm.models._helpers.load_state_dict for
where training scripts put the weights and which of them win. Deviations: numpy's values, paths and
the like, which lie beside the weights, become empty objects of ours, whatever they hold; whatever
else is neither a plain tensor nor a known wrapper is an error; so are zip files that torch.save
cannot have written, above all compressed ones, which torch would unpack to any size.
"""

import argparse
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from resnest_cli.errors import CheckpointError, need
from resnest_cli.model.labels import find_class_names
from resnest_cli.model.state_dict import AGAIN, clean_names
from resnest_cli.text import quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Arrays = dict[str, NDArray[Any]]

# Where training scripts keep the weights; the first that is there wins: a moving average, as in
# timm; then the names of Lightning, MMPretrain and timm, of PyTorch's tutorial, of torchvision, of
# others; DeepSpeed's last.
WRAPPERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema",
    "state_dict", "model_state_dict", "model", "net", "network", "weights", "module",
)  # fmt: skip


class _Unread:
    """Stands for a value beside the weights, such as a metric of numpy's: it is not looked at."""

    def __new__(cls, *_: Any, **__: Any) -> "_Unread":
        """Takes whatever the pickle gives."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _history(*_: Any) -> OrderedDict[Any, Any]:
    """Stands for a defaultdict, in which training loops keep their figures."""
    return OrderedDict()


# The classes and functions that a pickle may name beside torch's own, and what is called instead.
_HARMLESS: list[Any] = [
    argparse.Namespace,  # timm's training script stores its arguments so
    *((_Unread, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")
      for name in ("scalar", "_reconstruct")),
    *((_Unread, f"numpy.{name}") for name in ("dtype", "ndarray")),
    *((_Unread, f"numpy.dtypes.{kind}DType") for kind in (
        "Bool", "Int32", "Int64", "UInt32", "UInt64", "Float16", "Float32", "Float64", "Str")),
    *((_Unread, f"pathlib.{module}{system}Path") for module in ("", "_local.")
      for system in ("Posix", "Windows", "PurePosix", "PureWindows")),
    *((_Unread, f"datetime.{name}") for name in ("datetime", "date", "timedelta")),
    (_history, "collections.defaultdict"),
    *((_Unread, f"builtins.{name}") for name in ("list", "dict", "int", "float")),
    (OrderedDict, "lightning_fabric.utilities.data.AttributeDict"),
    (OrderedDict, "lightning.fabric.utilities.data.AttributeDict"),
    (OrderedDict, "pytorch_lightning.utilities.parsing.AttributeDict"),
]  # fmt: skip

_CONVERT = (
    "If you trust its origin, convert it where it was made, whose classes a whole network needs: "
    "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."
)


def read_pickle(path: Path) -> Any:
    """What `torch.save` put into the file, in its zip or its legacy form; tensors on the CPU.

    Only tensors, plain containers, numbers and argparse's Namespace are unpickled; what `_HARMLESS`
    lists becomes empty objects; anything else, and damage, is a CheckpointError.
    """
    need("torch", f"reading {path}, a pickle,")
    import torch

    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        _check_archive(path)
    try:
        with (
            path.open("rb") as file,  # by its path, torch would judge it by its extension
            warnings.catch_warnings(),
            torch.serialization.safe_globals(_HARMLESS),
        ):
            # torch warns about unusual pickle protocols; here a file loads or is an error.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asks = "holds more than tensors, which could be code, or is damaged"
        if "Unsupported operand" in str(error):
            asks = "is not of protocol 2, torch.save's own, could be code, or is damaged"
        if found := re.search(r"GLOBAL ([\w.]{1,80})", str(error)):
            asks = f"asks for {found[1]}, and loading that could run code"
        raise CheckpointError(f"{path} was not loaded: its pickle {asks}.\n{_CONVERT}") from error
    except Exception as error:  # a damaged pickle can raise anything, from any layer
        raise CheckpointError(f"{path} is damaged or cut short. {AGAIN}") from error


def _check_archive(path: Path) -> None:
    """Refuses zip files that `torch.save` cannot have written, bombs among them."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises half a dozen kinds on damaged archives
        raise CheckpointError(f"{path} is a damaged or cut-short zip file. {AGAIN}") from error
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


class Unwrapped(NamedTuple):
    """The network within a loaded pickle: its tensors, by cleaned names.

    There are as many class names as rows of the classifier, if any. `notes` say what was taken
    where there was a choice; `arch` is what the training called the network.
    """

    tensors: "dict[str, Tensor]"
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    arch: str = ""


def unwrap(path: Path | str, content: object) -> Unwrapped:
    """Finds the state dict within a loaded pickle, and the class names beside it.

    It may be bare or stand under one of `WRAPPERS`, of which those without tensors count as absent
    where another has some.
    """
    import torch

    around: list[Mapping[Any, Any]] = []
    notes: list[str] = []
    for _ in range(len(WRAPPERS)):  # wrapped more than once at times; never endlessly
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{path} holds {_kind(content)} where a state dict was expected. Save the "
                "network's state_dict() instead."
            )
        found = [key for key in WRAPPERS if content.get(key) is not None]
        found = [key for key in found if _has_tensors(content[key])] or found
        if not found or isinstance(content[found[0]], torch.Tensor):
            break
        notes.append(f"took {found[0]}" + (f", not {', '.join(found[1:])}" if found[1:] else ""))
        around.append(content)
        content = content[found[0]]
    assert isinstance(content, Mapping)
    if not content:
        raise CheckpointError(f"{path} holds no tensors. Save the network's state_dict() instead.")
    for name, value in content.items():
        _check_plain(path, name, value)
    named = clean_names(path, {name: tuple(value.shape) for name, value in content.items()})
    tensors = {clean: content[raw] for clean, raw in named.names.items()}
    classifier = tensors.get("fc.weight")
    rows = len(classifier) if classifier is not None and classifier.ndim else 0
    class_names, more = find_class_names(around, rows)
    arch = ""  # where timm, torchvision's reference and PyTorch's examples note it
    for record in around:
        arguments = record.get("args")
        given = vars(arguments) if isinstance(arguments, argparse.Namespace) else {}
        named_so = (record.get("arch"), given.get("arch"), given.get("model"))
        arch = arch or next((value for value in named_so if isinstance(value, str)), "")
    return Unwrapped(tensors, class_names, (*notes, *named.notes, *more), arch)


def _has_tensors(value: object, depth: int = len(WRAPPERS)) -> bool:
    import torch

    return isinstance(value, Mapping) and any(
        isinstance(inner, torch.Tensor) or (depth > 0 and _has_tensors(inner, depth - 1))
        for inner in value.values()
    )


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _check_plain(path: Path | str, name: object, value: object) -> None:
    import torch

    if not isinstance(name, str):
        raise CheckpointError(f"{path} has the key {quoted(name)}; names were expected.")
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(
            f"{path}: {quoted(name)} is {_kind(value)}; a tensor was expected. A state dict is "
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
            f"{path}: {quoted(name)} is no plain dense tensor. Save the network's state_dict() "
            "on the CPU instead."
        )


# The plain case without torch, whose import takes longer than compiling the network: published
# weights are a dictionary of contiguous float tensors, bare, in torch's zip or legacy form.
# Follows torch.serialization (`_load`, `_legacy_load`). The unpickler knows an ordered dictionary,
# one callable of ours and the names of four storage types; asked for anything else, it raises. What
# it hands out is immutable, since a pickle may also set attributes (opcode BUILD).

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_PICKLE = 16 << 20  # bytes; resnest269e's has 0.3 MB
_DTYPES = {
    "HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8",
    "LongStorage": "<i8",  # batch norm's counters
}  # fmt: skip


class _Storage(NamedTuple):
    key: str
    dtype: "np.dtype[Any]"
    size: int  # elements


class _Array(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]


class _Rebuild:
    """torch._utils._rebuild_tensor_v2, and _rebuild_parameter, which is given the tensor."""

    __slots__ = ()

    def __call__(self, storage: _Storage | _Array, *given: Any) -> _Array:
        if isinstance(storage, _Array):
            return storage
        offset, shape, stride, *_ = given
        contiguous = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        fits = min((offset, *shape)) >= 0 and offset + prod(shape) <= storage.size
        if tuple(stride) != contiguous or not fits:
            raise pickle.UnpicklingError("not a contiguous tensor within its storage")
        return _Array(storage, offset, tuple(shape))


_REBUILD = _Rebuild()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only what a plain state dict needs."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in {"_rebuild_tensor_v2", "_rebuild_parameter"}:
            return _REBUILD
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, pid: Any) -> _Storage:
        """What the pickle says of a storage; its bytes stand elsewhere in the file."""
        import numpy as np

        kind, dtype, key, _location, size, *view = pid
        if kind != "storage" or dtype not in _DTYPES.values() or any(view):
            raise pickle.UnpicklingError("not a plain storage")
        return _Storage(str(key), np.dtype(dtype), int(size))


def read_pickled_arrays(path: Path) -> "Arrays | None":
    """Name in the file -> tensor; None where the file is anything but the plain case."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            return _from_zip(file) if zipped else _from_legacy(file)
    except Exception:  # a damaged pickle can raise anything
        return None


def _from_zip(file: BinaryIO) -> "Arrays":
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("torch.save does not compress")
        (pickled,) = (name for name in entries if name.rpartition("/")[2] == "data.pkl")
        folder = pickled.rpartition("data.pkl")[0]
        if entries[pickled].file_size > _MAX_PICKLE or (
            f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little"
        ):
            raise ValueError("not written as usual")
        with archive.open(pickled) as stream:
            arrays = _state_dict(_Unpickler(stream).load())
        keys = {array.storage.key for array in arrays.values()}
        return _filled(arrays, {key: archive.read(f"{folder}data/{key}") for key in keys})


def _from_legacy(file: BinaryIO) -> "Arrays":
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _PROTOCOL:
        raise ValueError("not torch's legacy form")
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("big-endian")
    arrays = _state_dict(_Unpickler(file).load())
    storages = {array.storage.key: array.storage for array in arrays.values()}
    keys = [str(key) for key in _Unpickler(file).load()]
    if len(keys) != len(storages):  # the size of an unused storage's elements is not known
        raise ValueError("a storage without a tensor")
    content = {}
    for key in keys:
        if int.from_bytes(file.read(8), "little") != storages[key].size:
            raise ValueError("damaged")
        content[key] = file.read(storages[key].size * storages[key].dtype.itemsize)
    return _filled(arrays, content)


def _state_dict(content: Any) -> dict[str, _Array]:
    plain = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(array, _Array) for name, array in content.items()
    )
    if not plain or not content:
        raise ValueError("not a bare state dict")
    return dict(content)


def _filled(arrays: dict[str, _Array], content: dict[str, bytes]) -> "Arrays":
    """The tensors with their values, from the bytes of each storage."""
    import numpy as np

    filled = {}
    for name, (storage, offset, shape) in arrays.items():
        values = np.frombuffer(content[storage.key], storage.dtype)
        if len(values) != storage.size:
            raise ValueError("damaged")
        filled[name] = values[offset : offset + prod(shape)].reshape(shape)
    return filled
