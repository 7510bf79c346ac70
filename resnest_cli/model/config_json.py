"""What a config.json says of the weights beside it.

It has three writers: timm today (`architecture`, `num_classes`, `label_names`,
`label_descriptions`, `model_args`, `pretrained_cfg`), timm before 2023 (all of `pretrained_cfg` at
the top, `labels`), transformers' TimmWrapper (`model_type`, `id2label` or `label_names`). What is
missing has timm's defaults; what this program cannot do as asked is an error.

That a photo may have several labels is said as transformers says it: `problem_type` is
"multi_label_classification". Beside it we write `thresholds`, a number for each class, and the
`temperature` where it is not 1. A checkpoint of ours says all this itself, see `configured`.

Source: timm.models._hub._parse_model_cfg and _pretrained.PretrainedCfg; as in timm,
`test_input_size` and `test_crop_pct` are not used unless asked for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from resnest_cli.errors import CheckpointError
from resnest_cli.files import reading
from resnest_cli.model.labels import NAMED_FROM, by_index, imagenet_ids
from resnest_cli.model.names import CONFIG_FILE
from resnest_cli.model.variants import (
    VARIANTS,
    Preprocessing,
    Variant,
    find_variant,
    preprocessing_from_dict,
)
from resnest_cli.options import CropMode
from resnest_cli.text import quoted

if TYPE_CHECKING:
    from resnest_cli.model.checkpoint_header import CheckpointInfo

_MOST_BYTES = 64 << 20
SEVERAL_LABELS = "multi_label_classification"  # a `problem_type` of transformers
_HALF = 0.5  # a threshold where none is known
_DEFAULTS = {
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "mean": list(Preprocessing().mean),
    "std": list(Preprocessing().std),
}  # of timm's PretrainedCfg
_FIELDS = {"layers": "blocks", "channels": "widths", "stem_width": "stem_width",
           "base_width": "base_width", "cardinality": "cardinality"}  # fmt: skip
# Arguments of timm's ResNet that change nothing once it is trained, or are read elsewhere.
_WITHOUT_EFFECT = {
    "num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last",
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "scriptable", "features_only",
}  # fmt: skip
_FED_MUST_BE = {  # where it is said
    "first_conv": ("conv1.0", ["conv1.0"]), "classifier": ("fc",), "label_offset": (),
    "custom_load": (), "crop_mode": get_args(CropMode),
}  # fmt: skip
_MUST_BE = {
    "global_pool": ("avg",), "stem_type": ("deep",), "avg_down": (True,), "output_stride": (32,),
    "act_layer": ("relu",), "norm_layer": ("batchnorm2d", "batchnorm"), "aa_layer": (),
    "down_kernel_size": (1,), "block_reduce_first": (1,), "replace_stem_pool": (False,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a config.json says.

    `variant` has the architecture only; its preprocessing is the table's. `class_names` and
    `class_ids` are None where it names no classes, the numbers where it does not say; 0 classes are
    a network without a classifier. `thresholds` are None where a photo has one label, and empty
    where it may have several and no thresholds are given.
    """

    source: str
    variant: Variant
    preprocessing: Preprocessing
    num_classes: int | None
    in_channels: int | None
    crop_mode: CropMode
    class_names: tuple[str, ...] | None = None
    class_ids: tuple[str, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    temperature: float = 1.0


def read_config(path: Path) -> ModelConfig:
    """What a config.json says; see `parse_config`."""
    return parse_config(read_record(path), str(path))


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a config.json."""
    with reading(path, CheckpointError), path.open("rb") as file:
        data = file.read(_MOST_BYTES)  # of what is longer, the end is missing
    try:
        record = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: it is not JSON ({error}). Get it again."
        ) from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is no config.json of a model: it holds no JSON object.")
    return record


def architecture_of(record: Mapping[str, Any]) -> str:
    """The network that a config.json names, with timm's tag cut off; empty where it names none."""
    several = record.get("architectures")
    first = several[0] if isinstance(several, list) and several else None
    named = record.get("architecture") or first or record.get("model_type")
    return named.partition(".")[0] if isinstance(named, str) else ""


def parse_config(record: Mapping[str, Any], source: str) -> ModelConfig:
    """What a config.json says; `source` is its name in messages."""
    architecture = architecture_of(record)
    if not architecture:
        raise CheckpointError(
            f"{source} does not say which network it is: it has no `architecture`. Only ResNeSts "
            "can be used."
        )
    table = find_variant(architecture)
    if table is None:
        raise CheckpointError(
            f"{source} is that of {quoted(architecture)[1:-1]}, which is no ResNeSt of "
            "`resnest models`. Only those can be used."
        )
    try:
        return _parsed(record, source, table)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source}: {error}.") from error


def _parsed(record: Mapping[str, Any], source: str, table: Variant) -> ModelConfig:
    fed = record.get("pretrained_cfg")
    fed = record if fed is None else fed  # the legacy form has all of it at the top
    args = record.get("model_args") or {}
    if not isinstance(fed, Mapping) or not isinstance(args, Mapping):
        raise ValueError("`pretrained_cfg` and `model_args` must be objects")  # noqa: TRY004
    _check(record, fed, args)
    classes, (names, ids) = _first("num_classes", record, fed, args), _classes(record, fed)
    if classes is None and names is not None:
        classes = len(names)
    if classes is not None and (type(classes) is not int or classes < 0):
        raise ValueError(f"num_classes must be an integer of 0 or more, not {quoted(classes)}")
    if classes == 0:  # timm's way to say that there is no classifier; names may be left over
        names = ids = None
    if names is not None and len(names) != classes:
        raise ValueError(f"it names {len(names)} classes, and num_classes is {classes}")
    size = fed.get("input_size") or _DEFAULTS["input_size"]
    if not isinstance(size, list) or len(size) != 3 or not all(type(n) is int for n in size):
        raise ValueError(f"input_size must be three integers, not {quoted(size)}")
    if size[1] != size[2]:
        raise ValueError(f"input_size {quoted(size)} is not square; only squares are supported")
    channels = _first("in_chans", args) or size[0]
    if type(channels) is not int or not 1 <= channels <= 1024:
        raise ValueError(f"in_chans must be a positive integer, not {quoted(channels)}")
    # Earlier versions of timm left the 3 of the weights that a network was made from.
    certain = channels != 3 or args.get("in_chans") is not None
    given = {key: fed[key] if fed.get(key) is not None else _DEFAULTS[key] for key in _DEFAULTS}
    preprocessing = {
        "size": size[1],
        "crop_pct": given["crop_pct"],
        "interpolation": given["interpolation"],
        "mean": _per_channel(given["mean"], channels),
        "std": _per_channel(given["std"], channels),
    }
    return ModelConfig(
        source=source,
        variant=_variant(table, args),
        preprocessing=preprocessing_from_dict(preprocessing),
        num_classes=classes,
        in_channels=channels if certain else None,
        crop_mode=fed.get("crop_mode") or "center",
        class_names=names,
        class_ids=ids,
        thresholds=_thresholds(record, classes),
        temperature=_temperature(record) if record.get("thresholds") else 1.0,
    )


def _thresholds(record: Mapping[str, Any], classes: int | None) -> tuple[float, ...] | None:
    """Those of several labels; empty where none are given, None where photos have one label."""
    if record.get("problem_type") != SEVERAL_LABELS:
        return None
    found = record.get("thresholds")
    if found is None:
        return ()
    if (
        not isinstance(found, list)
        or len(found) != classes
        or not all(type(n) in {int, float} and 0 <= n <= 1 for n in found)
    ):
        raise ValueError("thresholds must be a number from 0 to 1 for each class")
    return tuple(map(float, found))


def _temperature(record: Mapping[str, Any]) -> float:
    """What probabilities need before thresholds are compared with them."""
    from resnest_cli.model.checkpoint_header import MAX_TEMPERATURE, MIN_TEMPERATURE

    found = record.get("temperature", 1)
    if type(found) not in {int, float} or not MIN_TEMPERATURE <= found <= MAX_TEMPERATURE:
        allowed = f"a number from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
        raise ValueError(f"temperature must be {allowed}, not {quoted(found)}")
    return float(found)


def _first(key: str, *records: Mapping[str, Any]) -> Any:
    return next((record[key] for record in records if record.get(key) is not None), None)


def _check(record: Mapping[str, Any], fed: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Whether everything asked for is what this program's network does."""
    for key, able in _FED_MUST_BE.items():
        if fed.get(key) and fed[key] not in able:
            raise ValueError(f"{key} {quoted(fed[key])} is not supported")
    pool = _first("global_pool", record, args)
    given = dict(args) | ({} if pool is None else {"global_pool": pool})
    for key, value in given.items():
        if value is None or key in _WITHOUT_EFFECT or key in _FIELDS or key == "block_args":
            continue
        if key not in _MUST_BE:
            raise ValueError(f"model_args has {quoted(key)}, which this program does not know")
        if not any(value == able and type(value) is type(able) for able in _MUST_BE[key]):
            raise ValueError(f"{key} {quoted(value)} is not supported")


def _variant(table: Variant, args: Mapping[str, Any]) -> Variant:
    """The architecture: timm's arguments over the table's; the table's own record where it fits."""
    changes = {ours: args[theirs] for theirs, ours in _FIELDS.items() if args.get(theirs)}
    if (block := args.get("block_args")) is not None:
        if not isinstance(block, Mapping) or not block.keys() <= {"radix", "avd", "avd_first"}:
            raise ValueError(f"block_args {quoted(block)} are not supported")
        if block.get("avd") is not True:
            raise ValueError("block_args without avd are not supported")
        changes |= {"radix": block.get("radix", 1), "avd_first": block.get("avd_first", False)}
    known = table.architecture
    variant = table.overridden({k: v for k, v in changes.items() if v != known[k]})
    same = (v for v in VARIANTS.values() if v.architecture == variant.architecture)
    return variant if variant.architecture == known else next(same, variant)


def _per_channel(values: Any, channels: int) -> Any:
    """Three numbers: one serves all; three for another number of channels become their mean."""
    values = values if isinstance(values, list) else [values]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return values  # the check that follows says so
    if len(values) == 1 or (channels != 3 and values):
        return [sum(values) / len(values)] * 3
    return values


def _classes(*records: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Names and ids of the classes by index; None for what is not known.

    timm's `label_descriptions` give a name to each label, which then is its id. ImageNet's ids say
    that the classes are ImageNet's, whose names are known.
    """
    keys = ("label_names", "labels", "id2label")
    labels = next((found for key in keys if (found := _first(key, *records))), None)
    if not labels:
        return None, None
    try:
        ordered = by_index(labels)
    except ValueError as error:
        raise ValueError(f"its list of class names {error}") from error
    if all(label == f"LABEL_{index}" for index, label in enumerate(ordered)):
        return None, None  # transformers' way to say that it knows none
    if ordered == imagenet_ids():
        return None, None  # as of any network of 1000 classes that names none
    descriptions = _first("label_descriptions", *records)
    if not descriptions:
        return ordered, None
    if not isinstance(descriptions, Mapping):
        raise ValueError("label_descriptions must be an object")  # noqa: TRY004
    return by_index([descriptions.get(label, label) for label in ordered]), ordered


def configured(known: "CheckpointInfo", config: ModelConfig, path: Path) -> "CheckpointInfo":
    """What is known of a file, with its classes and preprocessing as its config.json has them.

    The config.json must describe the file's tensors. Only the classifier may be missing, as in what
    transformers saves of a backbone. Thresholds of several labels are those of the file, if it is a
    checkpoint of ours, where they were fitted; a note says that the config.json has others.
    """
    if known.num_classes == 0:
        config = replace(config, num_classes=0, class_names=None, class_ids=None)
    for what, said, found in (
        ("classes", config.num_classes, known.num_classes),
        ("input channels", config.in_channels, known.in_channels),
    ):
        if said is not None and said != found:
            raise CheckpointError(
                f"{path} has {found} {what}; {config.source} says {said}. Correct the one that is "
                "wrong, or move the config.json away."
            )
    provenance, notes = dict(known.provenance), known.notes
    if config.class_names is not None and config.class_names != known.class_names:
        provenance.pop("class_ids", None)
        if known.class_names is not None:
            notes = (*(note for note in notes if not note.startswith(NAMED_FROM)),
                     f"{NAMED_FROM}{CONFIG_FILE}, which names others than the file")  # fmt: skip
    if config.class_ids is not None:
        provenance["class_ids"] = list(config.class_ids)
    said, answers = config.thresholds, (known.thresholds, known.temperature)
    if said is not None and known.num_classes and known.format != "resnest":
        answers = said or (_HALF,) * known.num_classes, config.temperature
    elif said is not None and said != known.thresholds and (said or known.thresholds is None):
        notes = (*notes, f"{CONFIG_FILE} has other thresholds than the file, whose own word counts")
    assert known.variant is not None
    return replace(
        known,
        variant=replace(known.variant, preprocessing=config.preprocessing),
        class_names=config.class_names or known.class_names,
        provenance=provenance,
        notes=notes,
        thresholds=answers[0],
        temperature=answers[1],
    )
