"""State dicts from anywhere: named as ours and checked against the network.

`clean_names` finds the network among a file's tensors and says what it left out; `infer_variant`
finds the published variants that the tensors fit; `check_shapes` and `convert` check them against
the network that they are meant for. Importing this module does not import torch. `path` is the file
that messages name, or words for what stands in for one.

Source: timm.models._helpers.clean_state_dict for the prefixes. Deviations: any prefix is stripped,
the order of keys never matters, and whatever does not fit is an error that names the first tensor,
where timm may load in part.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resnest_cli.errors import CheckpointError
from resnest_cli.model.variants import EXPANSION, VARIANTS, Variant
from resnest_cli.text import quoted, some

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

# Wrappers: DataParallel, DistributedDataParallel, AveragedModel and timm's EMA begin a name;
# torch.compile, FSDP and activation checkpointing may stand anywhere in it.
_ANYWHERE = r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
_WRAPPERS = rf"^(?:module\.|{_ANYWHERE})+|{_ANYWHERE}"
# Not of the network: AveragedModel's counter, and what the profilers thop and pthflops register.
_FOREIGN = {"n_averaged", "total_ops", "total_params", "__flops__", "__params__"}
_STEM, _CLASSIFIER = "conv1.0.weight", ("fc.weight", "fc.bias")
_BODY = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
COUNTER = ".num_batches_tracked"  # batch norm has it since torch 0.4.1
_SMALLEST_BLOCK = 20  # tensors; a whole block has at least 23 without counters

AGAIN = "Download or copy it again."


class Named(NamedTuple):
    """The network's name of each tensor -> that in the file; `notes` say what is not plain."""

    names: dict[str, str]
    notes: tuple[str, ...] = ()


def clean_names(path: Path | str, shapes: Mapping[str, Shape]) -> Named:
    """Finds the network by its stem, wherever wrappers have put it.

    What stands before the stem's name is the prefix of all its tensors. Names without it belong to
    something else, such as a loss, and are left out; so are the counters of profilers. Where there
    is no `fc`, the two tensors that are not of the body are the classifier if they are a linear
    layer over the features, whatever its name; one of any other form is left out.
    """
    cleaned: dict[str, str] = {}
    left_out = [raw for raw in shapes if raw.rpartition(".")[2] in _FOREIGN]
    for raw in shapes:
        if raw.rpartition(".")[2] not in _FOREIGN:
            name = re.sub(_WRAPPERS, "", raw)
            if name in cleaned:
                raise CheckpointError(
                    f"{path} has {quoted(name)} twice, as {quoted(cleaned[name])} and "
                    f"{quoted(raw)}. Save one network only."
                )
            cleaned[name] = raw
    prefix = _prefix(path, cleaned)
    inner = {name[len(prefix) :]: raw for name, raw in cleaned.items() if name.startswith(prefix)}
    outside = {name: raw for name, raw in cleaned.items() if not name.startswith(prefix)}
    notes = [f"without the prefix {quoted(prefix)}"] if prefix else []
    if _STEM in inner and not inner.keys() & set(_CLASSIFIER):
        head = outside | {name: raw for name, raw in inner.items() if not name.startswith(_BODY)}
        layer = _linear(head, inner, shapes)
        notes.append(f"classifier from {quoted(layer)}" if layer else "without a classifier")
        if layer:
            outside = {}
            inner = {name: raw for name, raw in inner.items() if name not in head}
            inner |= {ours: head[f"{layer}{ours.removeprefix('fc')}"] for ours in _CLASSIFIER}
        else:
            outside |= {name: inner.pop(name) for name in tuple(inner) if name.startswith("fc.")}
    left_out += outside.values()
    return Named(inner, (*notes, *_left_out(left_out)))


def _prefix(path: Path | str, names: Iterable[str]) -> str:
    """What stands before the stem's name; empty where there is no stem."""
    found = sorted(n.removesuffix(_STEM) for n in names if f".{n}".endswith(f".{_STEM}"))
    if len(found) > 1:
        listed = " and ".join(quoted(prefix) for prefix in found[:4])
        raise CheckpointError(
            f"{path} holds {len(found)} networks, whose names begin with {listed}. Save one only: "
            "torch.save(network.state_dict(), 'weights.pth')."
        )
    return found[0] if found else ""


def _linear(names: Mapping[str, str], body: Mapping[str, str], shapes: Mapping[str, Shape]) -> str:
    """The name of the layer that these tensors are: linear, over the body's features; else empty.

    There are as many pooled features as rows of the last stage's last convolution.
    """
    last = {shapes[raw][:1] for name, raw in body.items()
            if re.fullmatch(r"layer4\.\d+\.conv3\.weight", name)}  # fmt: skip
    layer = next(iter(names), "").rpartition(".")[0]
    weight, bias = (names.get(f"{layer}.{part}", "") for part in ("weight", "bias"))
    if len(last) != 1 or len(names) != 2 or not weight or not bias or len(shapes[bias]) != 1:
        return ""
    return layer if shapes[weight] == shapes[bias] + last.pop() else ""


def _left_out(names: list[str]) -> list[str]:
    """One note: each kind of counter once, others by name, a few."""
    counters = sorted({name.rpartition(".")[2] for name in names} & _FOREIGN)
    others = [quoted(name) for name in names if name.rpartition(".")[2] not in _FOREIGN]
    return [f"left out {some([*counters, *others], len(counters) + 3)}"] if names else []


def infer_variant(shapes: Mapping[str, Shape]) -> tuple[Variant, ...]:
    """The published variants whose tensors these can be, from cleaned names and shapes.

    Several can fit: whether pooling comes before or after the split attention leaves no trace in
    the tensors, so that resnest50d and resnest50d_2s1x64d look the same.
    """
    return tuple(variant for variant in VARIANTS.values() if fits(variant, shapes))


def fits(variant: Variant, shapes: Mapping[str, Shape]) -> bool:
    """Whether the shapes have the variant's blocks, widths, stem, radix and cardinality."""
    if shapes.get(_STEM, ())[:1] != (variant.stem_width,):
        return False
    for stage, (width, blocks) in enumerate(zip(variant.widths, variant.blocks, strict=True), 1):
        group = variant.group_width(width)
        splits = group * variant.radix, group // (variant.radix * variant.cardinality), 3, 3
        first, last, beyond = (f"layer{stage}.{index}" for index in (0, blocks - 1, blocks))
        if (
            shapes.get(f"{first}.conv2.conv.weight") != splits
            or shapes.get(f"{first}.conv3.weight") != (width * EXPANSION, group, 1, 1)
            or f"{last}.conv1.weight" not in shapes
            or f"{beyond}.conv1.weight" in shapes
        ):
            return False
    return True


def no_single_variant(path: Path, fitting: tuple[Variant, ...]) -> CheckpointError:
    """The error for a bare file of weights that fits no published variant, or several."""
    if fitting:
        ids = " and ".join(variant.id for variant in fitting)
        return CheckpointError(
            f"{path} fits {ids}, whose tensors have the same shapes. "
            f"Say which it is: --model {fitting[0].id} --weights {path}"
        )
    return CheckpointError(
        f"{path} fits no published ResNeSt: its tensors have other names or shapes. "
        f"Say what it is with --model ID --weights {path}, or give a checkpoint of this program."
    )


def expected_tensors(
    path: Path | str, variant: Variant, num_classes: int, in_channels: int, found: int
) -> dict[str, "Tensor"]:
    """Names, shapes and dtypes of the network's state dict, on the meta device.

    `found` is the number of tensors in the file: a header that claims far more blocks than the file
    can hold is refused before they are built. Raises CheckpointError where nothing can be built.
    """
    if sum(variant.blocks) * _SMALLEST_BLOCK > found:
        raise CheckpointError(
            f"{path} has {found} tensors, too few for {variant.id} with {sum(variant.blocks)} "
            f"blocks. {AGAIN}"
        )
    try:
        if not all(map(variant.group_width, variant.widths)):
            raise ValueError("groups without channels")  # noqa: TRY301
        return _built(variant, num_classes, in_channels)
    except (RuntimeError, ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        architecture = quoted(variant.architecture, 200)
        raise CheckpointError(
            f"{path} describes a network that cannot be built: {architecture}."
        ) from error


@lru_cache(4)  # a run saves, and so checks, the same network after each epoch
def _built(variant: Variant, num_classes: int, in_channels: int) -> dict[str, "Tensor"]:
    from resnest_cli.model.resnest import build

    network = build(variant, num_classes=num_classes, in_channels=in_channels, init=False)
    return network.state_dict()


def check_shapes(
    path: Path | str, shapes: Mapping[str, Shape], expected: Mapping[str, "Tensor"]
) -> None:
    """Raises CheckpointError for the first tensor that is missing, unknown or of another shape.

    Names are cleaned ones; only counters may be missing.
    """
    remedy = "Give the weights' own --model, or other weights."
    missing = [name for name in expected if name not in shapes and not name.endswith(COUNTER)]
    if missing:
        raise CheckpointError(
            f"{path} lacks {missing[0]} of shape {_text(expected[missing[0]].shape)}"
            f"{_others(missing)}. {remedy}"
        )
    unexpected = [name for name in shapes if name not in expected]
    if unexpected:
        raise CheckpointError(
            f"{path} has {quoted(unexpected[0])}, which the network does not have"
            f"{_others(unexpected)}. {remedy}"
        )
    for name, tensor in expected.items():
        if name in shapes and tuple(shapes[name]) != tuple(tensor.shape):
            raise CheckpointError(
                f"{path}: {name} has shape {_text(shapes[name])}; {_text(tensor.shape)} was "
                f"expected. {remedy}"
            )


def _text(shape: Iterable[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def convert(
    path: Path | str, tensors: dict[str, "Tensor"], expected: Mapping[str, "Tensor"], *, copy: bool
) -> dict[str, "Tensor"]:
    """The tensors in the network's order and dtypes (float32, int64), contiguous, on the CPU.

    Half, bfloat16 and double become float32; missing counters become 0. With `copy` every tensor
    has memory of its own. `tensors` is emptied on the way, so that both are never whole at once.
    """
    import torch

    converted = {}
    for name, want in expected.items():
        if name not in tensors:
            converted[name] = torch.zeros(want.shape, dtype=want.dtype)
            continue
        found = tensors.pop(name).detach()
        other_kind = found.dtype.is_floating_point != want.dtype.is_floating_point
        if other_kind or found.is_complex() or found.dtype == torch.bool:
            kinds = [str(dtype).removeprefix("torch.") for dtype in (found.dtype, want.dtype)]
            raise CheckpointError(
                f"{path}: {name} is {kinds[0]}; {kinds[1]} was expected. Convert it first."
            )
        value = found.to("cpu", want.dtype, copy=copy).contiguous()
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"{path}: {name} holds NaN or infinite values: the training that made it diverged, "
                "or it is damaged. Use an earlier checkpoint."
            )
        converted[name] = value
    return converted
