"""From a name or a file to a model that is ready, with its preprocessing and class names.

The one place where `--model`, `--weights` and `--labels` meet. `find_model` imports no torch and
reads no weights, unless nothing but a pickle tells what it holds; `Model.checkpoint` reads them.
"""

import contextlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import CheckpointError, UnknownModelError, UsageError
from resnest_cli.model import weights
from resnest_cli.model.hashes import known_sha256
from resnest_cli.model.labels import IMAGENET_CLASSES, imagenet_ids, labels_for, read_labels
from resnest_cli.model.variants import (
    DEFAULT_MODEL,
    VARIANTS,
    Preprocessing,
    Variant,
    find_variant,
    get_variant,
)
from resnest_cli.paths import resnest_home

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.model.checkpoint import Checkpoint, CheckpointInfo
    from resnest_cli.model.resnest import ResNeSt
    from resnest_cli.model.training_photos import TrainingPhotos

_SUFFIXES = (".safetensors", ".pth", ".pt", ".pt2", ".bin", ".tar", ".ckpt", ".onnx")


@dataclass(frozen=True, slots=True)
class Model:
    """A network, what goes in and what comes out; its weights lie in `path` until asked for.

    `name` is the variant's id, or the path of the checkpoint as given; `class_names[i]` is the name
    of logit i. `noted_ids` are the folder names that a training noted, `imagenet` says that the
    classes are ImageNet's. Logits are divided by `temperature` before they become probabilities.
    `trained_on` are the photos that it learned from, None where that is not known.
    `exported` is the precision, float32 or int8, of an .onnx that `resnest export` wrote, which can
    be run, but whose weights cannot be had; None for a checkpoint.
    """

    name: str
    variant: Variant
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    in_channels: int
    path: Path
    load: "Callable[[], Checkpoint]"
    noted_ids: tuple[str, ...] | None = None
    imagenet: bool = False
    temperature: float = 1.0
    trained_on: "TrainingPhotos | None" = None
    exported: str | None = None

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        """The folder's name or WordNet id of each class, where they are known."""
        return imagenet_ids() if self.imagenet else self.noted_ids

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return len(self.class_names)

    def network(self) -> "ResNeSt":
        """The torch network with its weights: evaluation mode, float32, on the CPU.

        Raises:
            CheckpointError: the weights cannot be used.
        """
        from resnest_cli.model.checkpoint import instantiate

        return instantiate(self.load())

    def arrays(self, *, checked: bool = False) -> "dict[str, NDArray[np.float32]]":
        """The weights as float32 arrays; without torch where the file is a plain one.

        That way names and shapes are the file's; with `checked` they are the network's, for sure.

        Raises:
            CheckpointError: the weights cannot be used.
        """
        from resnest_cli.model.arrays import read_arrays

        found = None if checked else read_arrays(self.path)
        if found is not None:
            return found
        return {name: tensor.numpy() for name, tensor in self.load().tensors.items()}


def find_model(
    name: str,
    *,
    source: str | None = None,
    labels: str | Path | None = None,
    access: weights.Access | None = None,
) -> Model:
    """Finds a model by id, alias or checkpoint file; fetches published weights where needed.

    `source` is a path or URL of other weights for a named variant; `labels` a file of class names.

    Raises:
        UnknownModelError: `name` is neither a variant nor a file.
        UsageError: `source` together with a checkpoint file.
        WeightsError: the weights cannot be had.
        CheckpointError: the weights cannot be used.
        LabelsError: the class names cannot be read or do not fit.
    """
    access = access or weights.Access()
    check_model_name(name)
    variant = find_variant(name)
    if variant is not None and source is None and not variant.bundled:
        path, known = weights.ensure(variant, access), _published(variant)
        load = _published_loader(variant, access)
    else:
        path = _own_file(name, variant, source, access)
        known, load = _describe(path, variant)
    assert known.variant is not None
    assert known.preprocessing is not None
    assert known.num_classes is not None
    assert known.in_channels is not None
    if variant is not None and variant.bundled and source is None:
        access.notify(_small(variant))
    return Model(
        name=variant.id if variant else name,
        variant=known.variant,
        preprocessing=known.preprocessing,
        class_names=_class_names(known, labels),
        in_channels=known.in_channels,
        path=path,
        load=load,
        noted_ids=_noted_ids(known),
        imagenet=known.class_names is None and known.num_classes == IMAGENET_CLASSES,
        temperature=known.temperature,
        trained_on=known.trained_on,
        exported=_precision(known),
    )


def check_model_name(name: str) -> None:
    """Tells an unknown model before anything slow begins.

    Raises:
        UnknownModelError: neither a variant nor an existing file.
    """
    if find_variant(name) is None and not Path(name).exists():
        if Path(name).suffix.lower() in _SUFFIXES or len(Path(name).parts) > 1:
            raise UnknownModelError(f"{name}: there is no such checkpoint file.")
        get_variant(name)  # raises with the nearest names


def _small(variant: Variant) -> str:
    return (
        f"{variant.id} is the small bundled model: {variant.num_classes} classes, top-1 "
        f"{variant.top1:.1f}% ({variant.dataset}).\n"
        f"For ImageNet's 1000 classes: --model {DEFAULT_MODEL}."
    )


def _published(variant: Variant) -> "CheckpointInfo":
    from resnest_cli.model.checkpoint_header import CheckpointInfo

    return CheckpointInfo(
        variant=variant,
        preprocessing=variant.preprocessing,
        num_classes=variant.num_classes,
        in_channels=3,
    )


def _published_loader(variant: Variant, access: weights.Access) -> "Callable[[], Checkpoint]":
    def load() -> "Checkpoint":
        from resnest_cli.model import checkpoint

        path = weights.ensure(variant, access)
        try:
            return checkpoint.load(path, variant=variant)
        except CheckpointError as error:
            # It was whole when it was fetched: damaged since, unseen by size and time.
            if access.offline:
                raise CheckpointError(f"{error} Without --offline it is fetched again.") from error
            aside = weights.set_aside(path)
            access.notify(f"{error} It was set aside as {aside.name}; fetching it again.")
        return checkpoint.load(weights.ensure(variant, access), variant=variant)

    return load


def _own_file(
    name: str, variant: Variant | None, source: str | None, access: weights.Access
) -> Path:
    if variant is not None:
        return weights.ensure(variant, access, source)
    if source is not None:
        raise UsageError(
            f"--weights gives weights to a named model, but --model {name} is a checkpoint with "
            "weights of its own. Use one of the two."
        )
    return Path(name)


def _describe(
    path: Path, variant: Variant | None
) -> "tuple[CheckpointInfo, Callable[[], Checkpoint]]":
    """What a user's file holds, and how to load it; a pickle is read once and then remembered."""
    from resnest_cli.model.checkpoint_header import read_info

    def load() -> "Checkpoint":
        from resnest_cli.model import checkpoint

        return checkpoint.load(path, variant=variant)

    known = read_info(path)
    if known.format == "onnx":
        if variant is not None:
            load()  # raises: no weights for another model
        return known, load
    if known.format == "pickle":
        known = _recall(path, known, variant) or known
    elif variant is not None and known.format == "safetensors":
        known = replace(known, variant=variant, preprocessing=variant.preprocessing)
    agrees = variant is None or (
        known.variant and known.variant.architecture == variant.architecture
    )
    if agrees and known.variant and known.num_classes and known.in_channels:
        return known, load
    loaded = load()  # raises where the file does not fit
    if known.format == "pickle":
        _remember(path, loaded.info)
    return loaded.info, lambda: loaded


def _note(path: Path) -> Path:
    return resnest_home() / "pickles" / f"{known_sha256(path)}.json"


def _remember(path: Path, known: "CheckpointInfo") -> None:
    """Notes what a pickle holds, so that a compiled model needs no torch to know its classes."""
    if known.variant is None or VARIANTS.get(known.variant.id) != known.variant:
        return
    record = {
        "variant": known.variant.id,
        "num_classes": known.num_classes,
        "in_channels": known.in_channels,
    }
    with contextlib.suppress(OSError):  # costs time, never correctness
        note = _note(path)
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(note)


def _recall(path: Path, known: "CheckpointInfo", asked: Variant | None) -> "CheckpointInfo | None":
    try:
        record: Any = json.loads(_note(path).read_text(encoding="utf-8"))
        variant = VARIANTS[record["variant"]]
        classes, channels = record["num_classes"], record["in_channels"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if type(classes) is not int or type(channels) is not int:
        return None
    if asked is not None and asked != variant:
        return None
    return replace(
        known,
        variant=variant,
        preprocessing=variant.preprocessing,
        num_classes=classes,
        in_channels=channels,
    )


def _precision(known: "CheckpointInfo") -> str | None:
    if known.format != "onnx":
        return None
    noted = known.provenance.get("export")
    return str(noted.get("precision")) if isinstance(noted, dict) else "float32"


def _noted_ids(known: "CheckpointInfo") -> tuple[str, ...] | None:
    found = known.provenance.get("class_ids")
    if not isinstance(found, list) or len(found) != known.num_classes:
        return None
    return tuple(map(str, found))


def _class_names(known: "CheckpointInfo", labels: str | Path | None) -> tuple[str, ...]:
    assert known.num_classes is not None
    if labels is not None:
        return read_labels(labels, known.num_classes)
    return known.class_names or labels_for(known.num_classes)
