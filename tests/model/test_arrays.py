"""Weights without torch: the same values as `checkpoint.load`, or none at all."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from resnest_cli.model import pickles
from resnest_cli.model.checkpoint import CheckpointInfo, load, read_arrays, save
from resnest_cli.model.resnest import build
from tests.networks import TINY, enliven

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return dict(enliven(build(TINY, num_classes=5)).state_dict())


def same_as_loaded(path: Path) -> bool:
    found = read_arrays(path)
    theirs = load(path, variant=TINY).tensors
    wanted = {n: t.numpy() for n, t in theirs.items() if not n.endswith("num_batches_tracked")}
    return (
        found is not None
        and found.keys() == wanted.keys()
        and all(a.dtype == np.float32 and (a == wanted[n]).all() for n, a in found.items())
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_plain_pickles(
    tmp_path: Path, state: State, legacy: bool, dtype: torch.dtype, prefix: str
) -> None:
    content = {
        prefix + name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert same_as_loaded(tmp_path / "w.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_parameters_and_views_of_one_storage(tmp_path: Path, state: State, legacy: bool) -> None:
    whole = torch.cat(
        [tensor.flatten() for tensor in state.values() if tensor.dtype.is_floating_point]
    )
    content: State = {}
    start = 0
    for name, tensor in state.items():
        if tensor.is_floating_point():
            content[name] = whole[start : start + tensor.numel()].view(tensor.shape)
            start += tensor.numel()
    content["fc.bias"] = nn.Parameter(content["fc.bias"])
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert same_as_loaded(tmp_path / "w.pth")


def test_safetensors(tmp_path: Path, state: State) -> None:
    save(tmp_path / "ours.safetensors", state, CheckpointInfo(variant=TINY))
    assert same_as_loaded(tmp_path / "ours.safetensors")
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    safetensors.torch.save_file(half, tmp_path / "half.safetensors")
    assert same_as_loaded(tmp_path / "half.safetensors")


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_torch_is_left_to_look_at_anything_else(tmp_path: Path, state: State) -> None:
    nan = state | {"fc.bias": torch.full((5,), float("nan"))}
    huge = state | {"fc.bias": torch.full((5,), 1e300, dtype=torch.float64)}
    canary = tmp_path / "canary"
    for name, content in {
        "wrapped": {"state_dict": state},
        "nan": nan,
        "huge": huge,
        "transposed": state | {"fc.weight": state["fc.weight"].T.contiguous().T},
        "repeated": state | {"fc.bias": torch.zeros(1).expand(5)},
        "bfloat16": {n: t.bfloat16() for n, t in state.items()},
        "integers": state | {"fc.bias": torch.arange(5)},
        "text": state | {"fc.bias": "five"},
        "list": [1, 2],
        "empty": {},
        "malicious": {"a": Canary(canary)},
    }.items():
        for legacy in (False, True):
            path = tmp_path / f"{name}.pth"
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
            assert read_arrays(path) is None, name
    bf16 = {n: t.bfloat16() for n, t in state.items()}
    safetensors.torch.save_file(bf16, tmp_path / "bf16.safetensors")
    assert read_arrays(tmp_path / "bf16.safetensors") is None
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Canary(canary)))
    assert read_arrays(tmp_path / "bare.pth") is None
    assert not canary.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damage(tmp_path: Path, state: State, legacy: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for cut in (0, 1, 100, 3000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_arrays(path) is None
    assert read_arrays(tmp_path / "missing.pth") is None
    if not legacy:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("archive/data.pkl", pickle.dumps({}))
        assert read_arrays(path) is None


@pytest.mark.parametrize(
    "target",
    ["ctorch._utils\n_rebuild_tensor_v2\n", "ctorch._utils\n_rebuild_parameter\n",
     "ctorch\nFloatStorage\n", "ccollections\nOrderedDict\n"],
)  # fmt: skip
def test_a_pickle_cannot_change_what_reads_it(target: str) -> None:
    """Opcode BUILD sets attributes on whatever lies on the stack."""
    program = target.encode() + b"(N}V__call__\nI1\nstb."  # object, (None, {"__call__": 1}), BUILD
    with pytest.raises((AttributeError, TypeError)):
        pickles._Unpickler(io.BytesIO(program)).load()
