"""Which file of weights a model's name stands for, and what the config.json beside it says.

A folder and a repository have both. Beside a file of weights, a config.json is read where it is
that of a ResNeSt; what it says must fit the file.

config.json has three writers: timm today (`architecture`, `num_classes`, `label_names`,
`label_descriptions`, `model_args`, `pretrained_cfg`), timm before 2023 (all of `pretrained_cfg` at
the top, `labels`), transformers' TimmWrapper (`model_type`, `id2label` or `label_names`). What is
missing has timm's defaults; what this program cannot do as asked is an error.

Source: timm.models._hub._parse_model_cfg and _pretrained.PretrainedCfg; as in timm,
`test_input_size` and `test_crop_pct` are not used unless asked for.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from resnest_cli import paths
from resnest_cli.errors import CheckpointError, UnknownModelError, UsageError
from resnest_cli.files import reading
from resnest_cli.model import weights
from resnest_cli.model.hub_models import check_folder, ensure_file, ensure_folder, mirrored_folder
from resnest_cli.model.labels import NAMED_FROM, imagenet_ids, is_text
from resnest_cli.model.names import CONFIG_FILE, HUB_PREFIXES, Meaning, there, understand
from resnest_cli.model.variants import (
    VARIANTS,
    Preprocessing,
    Variant,
    find_variant,
    preprocessing_from_dict,
)
from resnest_cli.net import Access
from resnest_cli.options import CropMode
from resnest_cli.text import quoted

if TYPE_CHECKING:
    from resnest_cli.model.checkpoint_header import CheckpointInfo

_MOST_BYTES = 64 << 20
_DEFAULTS = {
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
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
    a network without a classifier.
    """

    source: str
    variant: Variant
    preprocessing: Preprocessing
    num_classes: int | None
    in_channels: int | None
    crop_mode: CropMode
    class_names: tuple[str, ...] | None = None
    class_ids: tuple[str, ...] | None = None


class Located(NamedTuple):
    """A file of weights, and what the config.json that belongs to it says."""

    path: Path
    config: ModelConfig | None = None


def is_elsewhere(meaning: Meaning, access: Access) -> bool:
    """Whether the variant's weights come with the program, or from a mirror that is a folder."""
    assert meaning.variant is not None
    repository = meaning.repository
    return meaning.variant.bundled or (
        repository is not None and bool(mirrored_folder(repository, access.mirror))
    )


def of_published(variant: Variant, access: Access, *, hub_first: bool) -> Located:
    """The published weights of a variant, and the config.json beside them in the hub's cache."""
    path = weights.ensure(variant, access, hub_first=hub_first)
    beside = path.with_name(CONFIG_FILE)
    if not path.is_relative_to(paths.huggingface_hub_dir()) or not paths.is_file(beside):
        return Located(path)
    config = read_config(beside)
    if config.variant.architecture != variant.architecture:
        raise CheckpointError(
            f"{beside} is that of {config.variant.id}, not of {variant.id}. Remove its folder, so "
            "that it is fetched again."
        )
    if config.preprocessing != variant.preprocessing:
        access.notify(
            f"{variant.id} is fed as its config.json on the hub says, which is not what the table "
            f"says; `resnest models show {variant.id}` shows both"
        )
    return Located(path, config)


def find_file(name: str, meaning: Meaning, access: Access) -> Located:
    """The file of weights that a name stands for, and its config.json; fetched where needed."""
    if meaning.variant is not None and not is_elsewhere(meaning, access):
        return of_published(meaning.variant, access, hub_first=meaning.repository is not None)
    return locate(name, meaning, None, access)


def refresh(meaning: Meaning, access: Access) -> Path:
    """The file of weights of a variant or a repository; fetched where the hub has a newer one."""
    if meaning.variant is not None:
        return weights.ensure(meaning.variant, access, hub_first=meaning.repository is not None)
    assert meaning.repository is not None
    if meaning.repository.foreign_file:
        return ensure_file(meaning.repository, access, refresh=True)
    return check_folder(ensure_folder(meaning.repository, access, read_config, refresh=True))


def locate(name: str, meaning: Meaning, source: str | None, access: Access) -> Located:
    """The file of weights that is not a published one, and the config.json that describes it."""
    if source is not None and meaning.variant is None:
        raise UsageError(
            f"--weights gives weights to a named model, but --model {name} is a checkpoint with "
            "weights of its own. Use one of the two."
        )
    if source is not None:
        assert meaning.variant is not None
        return _of_source(source, meaning.variant, access)
    if meaning.repository is not None and meaning.repository.foreign_file:
        path = ensure_file(meaning.repository, access)
        return Located(path, _beside(path, access))
    if meaning.repository is not None:
        return _of_folder(ensure_folder(meaning.repository, access, read_config))
    if meaning.variant is not None:
        return Located(weights.ensure(meaning.variant, access))  # the bundled one
    assert meaning.path is not None
    if meaning.path.is_dir():
        return _of_folder(meaning.path)
    return Located(meaning.path, _beside(meaning.path, access))


def _of_source(source: str, variant: Variant, access: Access) -> Located:
    """What `--weights` names: a file, a folder, a URL, or anything that `--model` takes."""
    if there(path := paths.expanded(source)):
        return _of_folder(path) if path.is_dir() else Located(path, _beside(path, access))
    try:
        meaning = understand(source)
    except UnknownModelError:
        if source.lower().startswith(HUB_PREFIXES):
            raise
        path = weights.ensure(variant, access, source)  # a URL, or it says what is wrong
        return Located(path, None if "://" in source else _beside(path, access))
    return find_file(source, meaning, access)


def _of_folder(folder: Path) -> Located:
    return Located(check_folder(folder), read_config(folder / CONFIG_FILE))


def _beside(path: Path, access: Access) -> ModelConfig | None:
    """The config.json in the folder of a file of weights, if it is about these.

    A checkpoint of ours says itself what it is: a config.json that says otherwise is only noted.
    """
    from resnest_cli.model.checkpoint_header import read_info

    beside = path.with_name(CONFIG_FILE)
    if path.suffix == ".onnx" or not paths.is_file(beside):
        return None
    own = read_info(path)
    if own.format == "onnx":
        return None
    try:
        record = _read_record(beside)
    except CheckpointError as error:
        if own.format == "resnest":
            return None
        raise CheckpointError(
            f"{error} It may say how {path.name} is to be used. Mend it, or move it away."
        ) from error
    if find_variant(_architecture(record)) is None:
        access.notify(f"{beside} names no ResNeSt: it is not read for {path.name}")
        return None
    if own.format != "resnest":
        return parse_config(record, str(beside))
    with contextlib.suppress(CheckpointError):
        config = parse_config(record, str(beside))
        assert own.variant is not None
        said = config.variant.architecture, config.preprocessing, config.num_classes
        if said != (own.variant.architecture, own.preprocessing, own.num_classes):
            access.notify(
                f"{beside} says otherwise than {path.name}, whose own header is used; "
                f"--model {path.parent} takes the config.json"
            )
    return None


def expected_variant(
    variant: Variant | None, config: ModelConfig | None, path: Path
) -> Variant | None:
    """The variant that is expected of a file, from what the user and its config.json say."""
    if variant is None or config is None:
        return variant or (config.variant if config else None)
    if variant.architecture != config.variant.architecture:
        raise CheckpointError(
            f"{config.source} says that {path.name} is {config.variant.title}; {variant.title} was "
            "expected. Leave the model to the file, or give other weights."
        )
    return variant


@contextlib.contextmanager
def blamed(config: ModelConfig | None) -> Iterator[None]:
    """Adds to an error of a file of weights what its config.json says that it is."""
    try:
        yield
    except CheckpointError as error:
        if config is None:
            raise
        raise CheckpointError(
            f"{error}\n{config.source} says that it is a {config.variant.id}."
        ) from error


def configured(known: "CheckpointInfo", config: ModelConfig | None, path: Path) -> "CheckpointInfo":
    """What is known of a file, with its classes and preprocessing as its config.json has them.

    The config.json must describe the file's tensors. Only the classifier may be missing, as in what
    transformers saves of a backbone.
    """
    if config is None:
        return known
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
    assert known.variant is not None
    return replace(
        known,
        variant=replace(known.variant, preprocessing=config.preprocessing),
        preprocessing=config.preprocessing,
        class_names=config.class_names or known.class_names,
        provenance=provenance,
        notes=notes,
    )


# config.json


def read_config(path: Path) -> ModelConfig:
    """What a config.json says; see `parse_config`."""
    return parse_config(_read_record(path), str(path))


def _read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    with reading(path, CheckpointError), path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError("it is larger than 64 MB")  # noqa: TRY301
        record = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deep"
        raise CheckpointError(
            f"{path} is damaged: it is not JSON ({quoted(reason, 120)[1:-1]}). Get it again."
        ) from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is no config.json of a model: it holds no JSON object.")
    return record


def _architecture(record: Mapping[str, Any]) -> str:
    """The network that a config.json names, with timm's tag cut off; empty where it names none."""
    named = record.get("architecture")
    if not named and isinstance(record.get("architectures"), list) and record["architectures"]:
        named = record["architectures"][0]
    named = named or record.get("model_type")
    return named.partition(".")[0] if isinstance(named, str) else ""


def parse_config(record: Mapping[str, Any], source: str) -> ModelConfig:
    """What a config.json says; `source` is its name in messages."""
    architecture = _architecture(record)
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
    channels = _first("in_chans", args) or size[0]
    if type(channels) is not int or not 1 <= channels <= 1024:
        raise ValueError(f"in_chans must be a positive integer, not {quoted(channels)}")
    # Earlier versions of timm left the 3 of the weights that a network was made from.
    certain = channels != 3 or args.get("in_chans") is not None
    return ModelConfig(
        source=source,
        variant=_variant(table, args),
        preprocessing=_preprocessing(fed, size, channels),
        num_classes=classes,
        in_channels=channels if certain else None,
        crop_mode=fed.get("crop_mode") or "center",
        class_names=names,
        class_ids=ids,
    )


def _first(key: str, *records: Mapping[str, Any]) -> Any:
    return next((record[key] for record in records if record.get(key) is not None), None)


def _check(record: Mapping[str, Any], fed: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Whether everything asked for is what this program's network does."""
    first_conv, classifier = fed.get("first_conv"), fed.get("classifier")
    if first_conv not in (None, "conv1.0", ["conv1.0"]):
        raise ValueError(f"first_conv is {quoted(first_conv)}; a ResNeSt's is conv1.0")
    if classifier not in (None, "fc"):
        raise ValueError(f"classifier is {quoted(classifier)}; a ResNeSt's is fc")
    if fed.get("label_offset"):
        raise ValueError(f"label_offset {quoted(fed['label_offset'])} is not supported")
    if fed.get("custom_load"):
        raise ValueError("custom_load is not supported: the weights are in a form of their own")
    if (mode := fed.get("crop_mode") or "center") not in get_args(CropMode):
        raise ValueError(f"crop_mode {quoted(mode)} is not supported")
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


def _preprocessing(fed: Mapping[str, Any], size: list[int], channels: int) -> Preprocessing:
    given = _DEFAULTS | {key: fed[key] for key in _DEFAULTS if fed.get(key) is not None}
    if size[1] != size[2]:
        raise ValueError(f"input_size {quoted(size)} is not square; only squares are supported")
    record = {key: given[key] for key in ("crop_pct", "interpolation")} | {"size": size[1]}
    return preprocessing_from_dict(
        record | {key: _per_channel(given[key], channels) for key in ("mean", "std")}
    )


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
    ordered = _ordered(labels)
    if all(label == f"LABEL_{index}" for index, label in enumerate(ordered)):
        return None, None  # transformers' way to say that it knows none
    if ordered == imagenet_ids():
        return None, None  # as of any network of 1000 classes that names none
    told = _first("label_descriptions", *records)
    if not told:
        return ordered, None
    if not isinstance(told, Mapping):
        raise ValueError("label_descriptions must be an object")  # noqa: TRY004
    names = tuple(told.get(label, label) for label in ordered)
    return tuple(map(_text, names)), ordered


def _ordered(labels: Any) -> tuple[str, ...]:
    """Labels by index: a list, or an object of indices; one that lacks an index is an error."""
    if isinstance(labels, Mapping):
        if sorted(labels) != sorted(str(index) for index in range(len(labels))):
            raise ValueError("the indices of its classes are not 0, 1, 2, ... without a gap")
        labels = [labels[str(index)] for index in range(len(labels))]
    if not isinstance(labels, list):
        raise ValueError(f"its class names must be a list, not {quoted(labels)}")  # noqa: TRY004
    return tuple(map(_text, labels))


def _text(label: Any) -> str:
    if not isinstance(label, str):
        raise ValueError(f"{quoted(label)} is no text, and so no name of a class")  # noqa: TRY004
    if not is_text(label):
        raise ValueError(f"the name {quoted(label)} is no text that can be written")
    return label
