"""State dicts held against the network: the first tensor that does not fit is named."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from resnest_cli.errors import CheckpointError
from resnest_cli.model.checkpoint import instantiate, load
from resnest_cli.model.resnest import build
from resnest_cli.model.state_dict import (
    check_shapes,
    clean_names,
    fits,
    infer_variant,
    no_single_variant,
)
from resnest_cli.model.variants import VARIANTS, get_variant
from tests.networks import TINY, enliven, photos

State = dict[str, Tensor]
TWINS = {"resnest50d", "resnest50d_2s1x64d"}


@functools.cache
def shapes_of(variant: str, num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    network = build(variant, num_classes=num_classes, init=False)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.fixture
def state() -> State:
    network = enliven(build(TINY, num_classes=5))
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("id_", VARIANTS)
def test_every_variant_is_inferred_from_its_shapes(id_: str) -> None:
    found = {variant.id for variant in infer_variant(shapes_of(id_))}
    assert found == (TWINS if id_ in TWINS else {id_})
    assert fits(VARIANTS[id_], shapes_of(id_))
    others = [variant for variant in VARIANTS.values() if variant.id not in found]
    assert not any(fits(variant, shapes_of(id_)) for variant in others)


def test_timm_shapes_are_inferred_too() -> None:
    with torch.device("meta"):
        state = timm.create_model("resnest50d_4s2x40d").state_dict()
    found = infer_variant({name: tuple(tensor.shape) for name, tensor in state.items()})
    assert found == (get_variant("resnest50d_4s2x40d"),)


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"fc.weight": (10, 2048)},
        {"conv1.0.weight": (32,)},
        {"layer1.999999999999.x": (1,)},
        shapes_of("resnest50d") | {"layer4.3.conv1.weight": (1, 1, 1, 1)},
        shapes_of("resnest50d") | {"conv1.0.weight": (16, 3, 3, 3)},
    ],
)
def test_nothing_is_inferred_from_other_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    assert infer_variant(shapes) == ()


def test_a_file_that_fits_two_variants_asks_which(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    state = build("resnest50d").state_dict()
    torch.save(state, path)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value) == str(
        no_single_variant(path, (VARIANTS["resnest50d"], VARIANTS["resnest50d_2s1x64d"]))
    )
    assert f"--model resnest50d --weights {path}" in str(caught.value)
    assert all(id_ in str(caught.value) for id_ in TWINS)
    chosen = load(path, variant=get_variant("resnest50d_2s1x64d")).info.variant
    assert chosen is not None
    assert chosen.avd_first
    with pytest.raises(CheckpointError, match=r"of resnest50d or .*; resnest101e was expected"):
        load(path, variant=get_variant("resnest101e"))


def test_timm_weights_give_timm_logits(tmp_path: Path) -> None:
    path, theirs = tmp_path / "w.pth", enliven(timm.create_model("resnest14d")).eval()
    torch.save(theirs.state_dict(), path)
    network, x = instantiate(load(path)), photos(1, 64).float()
    assert network.variant.id == "resnest14d"
    with torch.no_grad():
        torch.testing.assert_close(network(x), theirs(x), rtol=1e-4, atol=1e-4)


def dropped(name: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        del state[name]

    return change


def put(name: str, value: Tensor) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name] = value

    return change


def poisoned(name: str, value: float) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name] = state[name].clone()
        state[name].view(-1)[-1] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dropped("layer2.0.conv3.weight"), r"lacks layer2\.0\.conv3\.weight of shape \(64, 16, 1"),
        (dropped("bn1.running_mean"), r"lacks bn1\.running_mean of shape \(16\)"),
        (dropped("fc.weight"), r"lacks a usable fc\.weight"),
        (dropped("conv1.0.weight"), r"lacks a usable conv1\.0\.weight"),
        (put("fc.weight", torch.zeros(7)), r"lacks a usable fc\.weight"),
        (put("fc.weight", torch.zeros(0, 128)), r"lacks a usable fc\.weight"),
        (put("head.weight", torch.zeros(1)), r"has 'head\.weight', which the network does not"),
        (put("fc.bias", torch.zeros(4)), r"fc\.bias has shape \(4\); \(5\) was expected"),
        (put("bn1.weight", torch.zeros(())), r"bn1\.weight has shape \(\); \(16\) was expected"),
        (poisoned("layer3.0.bn3.bias", float("nan")), r"layer3\.0\.bn3\.bias holds NaN"),
        (poisoned("fc.weight", float("-inf")), r"fc\.weight holds NaN or infinite"),
        (put("fc.bias", torch.full((5,), 1e300, dtype=torch.float64)), r"fc\.bias holds NaN or"),
        (put("fc.bias", torch.zeros(5, dtype=torch.int8)), "is int8; float32 was expected"),
        (put("fc.bias", torch.zeros(5, dtype=torch.bool)), "is bool; float32 was expected"),
        (put("fc.bias", torch.zeros(5, dtype=torch.complex64)), "is complex64; float32 was"),
        (put("bn1.num_batches_tracked", torch.tensor(1.0)), "is float32; int64 was expected"),
        (put("bn1.num_batches_tracked", torch.tensor(True)), "is bool; int64 was expected"),
    ],
)
@pytest.mark.parametrize("form", ["pickle", "safetensors"])
def test_the_first_tensor_that_does_not_fit_is_named(
    tmp_path: Path, state: State, change: Callable[[State], None], message: str, form: str
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights"
    change(state)
    if form == "pickle":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path, variant=TINY)
    assert str(path) in str(caught.value)
    assert str(caught.value).count("\n") <= 1


def test_too_few_tensors_for_the_variant(tmp_path: Path, state: State) -> None:
    path = tmp_path / "w.pth"
    torch.save({k: v for k, v in state.items() if not k.startswith("layer")}, path)
    with pytest.raises(CheckpointError, match="too few for"):
        load(path, variant=TINY)


def test_missing_counters_become_zero(tmp_path: Path, state: State) -> None:
    path = tmp_path / "w.pth"
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    torch.save({name: t for name, t in state.items() if name not in counters}, path)
    found = load(path, variant=TINY)
    assert counters
    assert all(found.tensors[name].equal(torch.tensor(0)) for name in counters)
    assert list(found.tensors) == list(state)
    instantiate(found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    path = tmp_path / "w.pth"
    counter = "bn1.num_batches_tracked"
    state[counter] = torch.tensor(12, dtype=torch.int32)
    torch.save({n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}, path)
    found = load(path, variant=TINY).tensors
    for name, tensor in state.items():
        if tensor.is_floating_point():
            assert found[name].dtype == torch.float32
            assert torch.equal(found[name], tensor.to(dtype).float())
    assert found[counter].dtype == torch.int64
    assert found[counter] == 12


def test_every_tensor_owns_its_memory(tmp_path: Path, state: State) -> None:
    path = tmp_path / "w.pth"
    shared = torch.ones(64)
    state["bn1.weight"], state["bn1.bias"] = shared[:16], shared[:16]
    torch.save({n: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t
                for n, t in state.items()}, path)  # fmt: skip
    found = load(path, variant=TINY).tensors
    assert len({t.untyped_storage().data_ptr() for t in found.values()}) == len(found)
    assert all(t.is_contiguous() for t in found.values())
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in found.values())


def test_shapes_are_judged_without_tensors() -> None:
    expected = build(TINY, num_classes=5, init=False).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    check_shapes("x", shapes, expected)
    names = list(expected)
    assert clean_names("x", shapes) == (dict(zip(names, names, strict=True)), ())
