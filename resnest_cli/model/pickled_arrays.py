"""The plain state dict in a torch.save file as numpy arrays, without torch and without its import.

Published weights are such files, and importing torch takes longer than compiling the network. Only
the plain case is read: a dictionary of contiguous float tensors, bare, in torch's zip or legacy
form. Whatever else is in the file, `read_pickled` gives up, and `pickles` looks at it with torch.

Source: torch.serialization (`_load`, `_legacy_load`) and torch._utils._rebuild_tensor_v2. No code
of the file is run: the unpickler knows an ordered dictionary, two callables of this module and the
names of four storage types; asked for anything else, it raises. What it hands out is immutable,
since a pickle may also set attributes (opcode BUILD).
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_PICKLE = 16 << 20  # bytes; resnest269e's has 0.3 MB

_DTYPES = {"HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8"}
_DTYPES["LongStorage"] = "<i8"  # batch norm's counters


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    size: int  # elements


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]


def read_pickled(path: Path) -> dict[str, NDArray[Any]] | None:
    """Name in the file -> tensor; None where the file is anything but the plain case."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            return _from_zip(file) if zipped else _from_legacy(file)
    except Exception:  # a damaged pickle can raise anything
        return None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only what a plain state dict needs."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _REBUILD
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _PARAMETER
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, pid: Any) -> _Storage:
        """What the pickle says of a storage; its bytes stand elsewhere in the file."""
        kind, dtype, key, _location, size, *view = pid
        if kind != "storage" or dtype not in _DTYPES.values() or any(view):
            raise pickle.UnpicklingError("not a plain storage")
        return _Storage(str(key), np.dtype(dtype), int(size))


class _Rebuild:
    """torch._utils._rebuild_tensor_v2."""

    __slots__ = ()

    def __call__(
        self,
        storage: _Storage,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        *_: Any,
    ) -> _Tensor:
        contiguous = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        if tuple(stride) != contiguous or min((offset, *shape)) < 0:
            raise pickle.UnpicklingError("not a contiguous tensor")
        if offset + prod(shape) > storage.size:
            raise pickle.UnpicklingError("a tensor larger than its storage")
        return _Tensor(storage, offset, tuple(shape))


class _Parameter:
    """torch._utils._rebuild_parameter."""

    __slots__ = ()

    def __call__(self, tensor: _Tensor, *_: Any) -> _Tensor:
        return tensor


_REBUILD, _PARAMETER = _Rebuild(), _Parameter()


def _from_zip(file: BinaryIO) -> dict[str, NDArray[Any]]:
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
            tensors = _state_dict(_Unpickler(stream).load())

        def read(storage: _Storage) -> NDArray[Any]:
            return np.frombuffer(archive.read(f"{folder}data/{storage.key}"), storage.dtype)

        return _filled(tensors, read)


def _from_legacy(file: BinaryIO) -> dict[str, NDArray[Any]]:
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _PROTOCOL:
        raise ValueError("not torch's legacy form")
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("big-endian")
    tensors = _state_dict(_Unpickler(file).load())
    keys = [str(key) for key in _Unpickler(file).load()]
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if len(keys) != len(storages):  # the size of an unused storage's elements is not known
        raise ValueError("a storage without a tensor")
    found = {}
    for key in keys:
        storage = storages[key]
        size = int.from_bytes(file.read(8), "little")
        if size != storage.size:
            raise ValueError("damaged")
        found[key] = np.frombuffer(file.read(size * storage.dtype.itemsize), storage.dtype)
    return _filled(tensors, lambda storage: found[storage.key])


def _state_dict(content: Any) -> dict[str, _Tensor]:
    plain = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in content.items()
    )
    if not plain or not content:
        raise ValueError("not a bare state dict")
    return dict(content)


def _filled(
    tensors: dict[str, _Tensor], read: Callable[[_Storage], NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The tensors with their values; each storage is read once."""
    storages: dict[str, NDArray[Any]] = {}
    arrays = {}
    for name, tensor in tensors.items():
        key = tensor.storage.key
        if key not in storages:
            storages[key] = read(tensor.storage)
        if len(storages[key]) != tensor.storage.size or (
            storages[key].dtype != tensor.storage.dtype
        ):
            raise ValueError("damaged")
        end = tensor.offset + prod(tensor.shape)
        arrays[name] = storages[key][tensor.offset : end].reshape(tensor.shape)
    return arrays
