"""What torch.save wrote: every usual layout loads, and no pickle ever runs code."""

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from resnest_cli.errors import CheckpointError
from resnest_cli.model import pickles
from resnest_cli.model.checkpoint import load, read_arrays, save
from resnest_cli.model.checkpoint_header import CheckpointInfo, read_info
from resnest_cli.model.pickles import read_pickle, unwrap
from resnest_cli.model.resnest import build
from tests.networks import TINY, enliven

State = dict[str, Tensor]


class Canary:
    """Unpickled by an unsafe loader, this creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def state() -> State:
    network = enliven(build(TINY, num_classes=5))
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def loaded(path: Path, content: object, **options: Any) -> State:
    torch.save(content, path, **options)
    return load(path, variant=TINY).tensors


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("wrapper", [None, "state_dict", "state_dict_ema", "model", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module.module._orig_mod.module."])
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.pth.tar", "w.safetensors"])
def test_layouts_of_training_scripts(
    tmp_path: Path, state: State, wrapper: str | None, prefix: str, name: str
) -> None:
    content: dict[str, Any] = {prefix + key: tensor for key, tensor in state.items()}
    if wrapper:
        content = {"epoch": 3, wrapper: content, "optimizer": {"lr": 0.1}}
    assert same(loaded(tmp_path / name, content), state)


@pytest.mark.parametrize("ema", ["state_dict_ema", "model_ema"])
@pytest.mark.parametrize("raw", ["state_dict", "model"])
def test_the_moving_average_wins(tmp_path: Path, state: State, ema: str, raw: str) -> None:
    path = tmp_path / "w.pth"
    assert same(loaded(path, {raw: other(state), ema: state}), state)
    assert same(loaded(path, {ema: state, raw: other(state)}), state)
    assert same(loaded(path, {raw: state, ema: None}), state)


def test_a_wrapper_within_a_wrapper(tmp_path: Path, state: State) -> None:
    content = {"model": {"state_dict": state}}
    assert same(loaded(tmp_path / "w.pth", content), state)


def test_timm_training_checkpoints_hold_their_arguments(tmp_path: Path, state: State) -> None:
    content = {"arch": "x", "args": argparse.Namespace(lr=0.1), "state_dict": state}
    assert same(loaded(tmp_path / "w.pth", content), state)


def test_legacy_files_load(tmp_path: Path, state: State) -> None:
    path = tmp_path / "w.pth"
    ordered = OrderedDict((f"module.{name}", nn.Parameter(t, False)) for name, t in state.items())
    found = loaded(path, {"state_dict": ordered}, _use_new_zipfile_serialization=False)
    assert path.read_bytes()[:1] == b"\x80"
    assert same(found, state)
    assert read_info(path).format == "pickle"


def test_parameters_are_accepted_and_become_plain_tensors(tmp_path: Path, state: State) -> None:
    content = {n: nn.Parameter(t, t.is_floating_point()) for n, t in state.items()}
    found = loaded(tmp_path / "w.pth", content)
    assert same(found, state)
    assert all(type(tensor) is Tensor and not tensor.requires_grad for tensor in found.values())


def nested(canary: Canary, state: State) -> object:
    return {"state_dict": state | {"layer1.0.bn1.extra": canary}}


def alone(canary: Canary, state: State) -> object:
    return canary


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("content", [alone, nested])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain 0", "plain 2", "plain 4"])
def test_a_malicious_pickle_never_runs(
    tmp_path: Path, state: State, name: str, content: Callable[..., object], form: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / name
    harmful = content(Canary(canary), state)
    if form == "plain 0" and content is nested:
        harmful = [Canary(canary), 1]
    if form.startswith("plain"):
        path.write_bytes(pickle.dumps(harmful, protocol=int(form[-1])))
    else:
        torch.save(harmful, path, _use_new_zipfile_serialization=form == "zip")
    for read in (load, lambda path: load(path, variant=TINY)):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        if form != "plain 0":  # no torch file looks so: it is not even taken for a pickle
            assert "was not loaded" in str(caught.value)
            assert "code" in str(caught.value)
            assert "safetensors.torch.save_file" in str(caught.value)
    if form in {"zip", "legacy"}:
        assert "asks for" in str(caught.value)
        assert "mkdir" in str(caught.value)
    read_kinds(path)
    assert not canary.exists()
    # The same bytes do create the folder when they are trusted: the canary sings.
    if form in {"zip", "legacy"}:
        with path.open("rb") as file:
            torch.load(file, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert canary.exists()


def read_kinds(path: Path) -> None:
    try:
        assert read_info(path).format == "pickle"
    except CheckpointError:
        assert path.read_bytes()[:1] not in (b"P", b"\x80")


def test_a_whole_network_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        load(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.7, 0.99])
def test_a_pickle_cut_short_is_an_error(
    tmp_path: Path, state: State, share: float, legacy: bool
) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError) as caught:
        load(path, variant=TINY)
    assert "\n" not in str(caught.value) or "was not loaded" in str(caught.value)


def test_flipped_bytes_never_crash(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"fc.weight": torch.ones(3), "epoch": 1}, path)
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(path, variant=TINY)


def archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)


def test_zip_files_that_torch_save_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    archive(path, {"word/document.xml": b"<xml/>"})
    with pytest.raises(CheckpointError, match="zip file without a PyTorch checkpoint"):
        load(path)
    archive(path, {"m/data.pkl": b"", "m/constants.pkl": b""})
    with pytest.raises(CheckpointError, match="TorchScript"):
        load(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, source = tmp_path / "w.pth", tmp_path / "source.pth"
    torch.save({"fc.weight": torch.zeros(5_000_000)}, source)
    with zipfile.ZipFile(source) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    archive(path, entries, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the bomb was opened")

    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(CheckpointError, match="compressed zip file"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list where a state dict was expected"),
        (torch.zeros(2), "holds a Tensor where"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"state_dict": [1]}, "holds a list where"),
        ({"state_dict": {3: torch.zeros(1)}}, "has the key 3; names were expected"),
        ({"epoch": 3, "mine": {}}, "'epoch' is an int; a tensor was expected.*state_dict_ema"),
        ({"a\x1b[31m": "x"}, r"'a\\x1b\[31m' is a str"),
        ({"fc.bias": torch.zeros(1), "module.fc.bias": torch.zeros(1)}, "'fc.bias' twice"),
        ({"fc.weight": torch.zeros(3).to_sparse()}, "no plain dense tensor"),
        ({"fc.weight": torch.zeros(3, device="meta")}, "no plain dense tensor"),
        ({"fc.weight": torch.zeros(1).expand(10**12)}, "no plain dense tensor"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path, variant=TINY)
    assert str(path) in str(caught.value)


def test_wrappers_do_not_nest_for_ever() -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    with pytest.raises(CheckpointError, match="'model' is a dict"):
        unwrap("w.pth", content)


def test_read_pickle_leaves_the_content_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3, "best": 0.5}, path, pickle_protocol=2)
    assert read_pickle(path) == {"epoch": 3, "best": 0.5}


# The plain case as numpy arrays, without torch: `read_arrays`.


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
