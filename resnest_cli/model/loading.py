"""From a name or a file to a model that is ready, with its preprocessing and class names.

The one place where `--model`, `--weights` and `--labels` meet. `find_model` imports no torch and
reads no weights, except those of a pickle that it has not seen before; `Model.load` reads them.
"""

import contextlib
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from resnest_cli.errors import CheckpointError, NewerFormatError
from resnest_cli.files import read_trusted, write_private
from resnest_cli.model import weights
from resnest_cli.model.hashes import known_sha256
from resnest_cli.model.labels import IMAGENET_CLASSES, imagenet_ids, labels_for, read_labels
from resnest_cli.model.model_files import (
    blamed,
    configured,
    expected_variant,
    is_elsewhere,
    locate,
    of_published,
)
from resnest_cli.model.names import Meaning, understand
from resnest_cli.model.variants import VARIANTS, Preprocessing, Variant
from resnest_cli.net import Access, without_login
from resnest_cli.options import DEFAULT_MODEL, CropMode
from resnest_cli.paths import is_url, private_folder, resnest_home

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.model.checkpoint import Checkpoint
    from resnest_cli.model.checkpoint_header import CheckpointInfo
    from resnest_cli.model.model_files import ModelConfig
    from resnest_cli.model.resnest import ResNeSt
    from resnest_cli.model.training_photos import TrainingPhotos

    Load = Callable[[], Checkpoint]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Model:
    """A network, what goes in and what comes out; its weights lie in `path` until asked for.

    `name` is the variant's id, or the path of the checkpoint as given; `class_names[i]` is the name
    of logit i; a network without a classifier has none. `noted_ids` are the folder names that a
    training noted, `imagenet` says that the classes are ImageNet's. Logits are divided by
    `temperature` before they become probabilities.
    `trained_on` are the photos that it learned from, None where that is not known.
    `exported` is the precision, float32 or int8, of an .onnx that `resnest export` wrote, which can
    be run, but whose weights cannot be had; None for a checkpoint. `trusted` says that it may do
    what ours never do, and `data_files` are those beside it that hold its tensors. `config` is the
    config.json that was read, if one was, which alone can ask for another `crop_mode`.
    """

    name: str
    variant: Variant
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    in_channels: int
    path: Path
    load: "Load"
    noted_ids: tuple[str, ...] | None = None
    imagenet: bool = False
    temperature: float = 1.0
    trained_on: "TrainingPhotos | None" = None
    exported: str | None = None
    trusted: bool = False
    data_files: tuple[Path, ...] = ()
    config: Path | None = None
    crop_mode: CropMode = "center"

    @property
    def class_ids(self) -> tuple[str, ...] | None:
        """The folder's name or WordNet id of each class, where they are known."""
        return imagenet_ids() if self.imagenet else self.noted_ids

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return len(self.class_names)

    def sha256(self) -> str:
        """SHA-256 of the file of weights, or of the hashes of all files; OSError if unreadable."""
        found = [known_sha256(path) for path in (self.path, *self.data_files)]
        return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()

    def need_classifier(self) -> None:
        """Raises CheckpointError where the file holds a network without a classifier."""
        if not self.num_classes:
            raise no_classifier(self.path)

    def network(self) -> "ResNeSt":
        """The torch network with its weights: evaluation mode, float32, on the CPU."""
        from resnest_cli.model.checkpoint import instantiate

        return instantiate(self.load())

    def arrays(self, *, checked: bool = False) -> "dict[str, NDArray[np.float32]]":
        """The weights as float32 arrays; without torch where the file is a plain one.

        Names and shapes are then the file's; with `checked` they are the network's, for sure.
        """
        from resnest_cli.model.checkpoint import read_arrays

        found = None if checked else read_arrays(self.path)
        if found is not None:
            return found
        return {name: tensor.numpy() for name, tensor in self.load().tensors.items()}


def no_classifier(path: Path) -> CheckpointError:
    """The error for whatever needs classes, of a file that holds a network without a classifier."""
    return CheckpointError(
        f"{path} has no classifier: it serves `resnest features`, and `resnest finetune` starts "
        "from it. Give a checkpoint with the classifier's weight and bias."
    )


def find_model(
    name: str,
    *,
    source: str | None = None,
    labels: str | Path | None = None,
    access: Access | None = None,
    trust_onnx: bool = False,
) -> Model:
    """Finds a model by any name that `names` understands; fetches weights where needed.

    `source` names other weights for a named variant: a path, a URL, a folder or a repository.
    `labels` is a file of class names.
    With `trust_onnx` an .onnx may do what files of ours never do; see `model.onnx_file`.

    Raises:
        UnknownModelError: `name` means no model.
        UsageError: `source` together with a model that has weights of its own.
        WeightsError: the weights cannot be had.
        CheckpointError: the weights cannot be used.
        LabelsError: the class names cannot be read or do not fit.
    """
    access = access or Access()
    meaning = understand(name)
    variant = meaning.variant
    published = variant is not None and source is None
    if variant is not None and published and not is_elsewhere(meaning, access):
        found = _published(variant, access, hub_first=meaning.repository is not None)
    else:
        found = _located(name, meaning, source, access)
    known = found.known
    if variant is not None and published and variant.bundled:
        access.notify(
            f"{variant.id} is the small bundled model: {variant.num_classes} classes, top-1 "
            f"{variant.top1:.1f}% ({variant.dataset}).\n"
            f"For ImageNet's 1000 classes: --model {DEFAULT_MODEL}."
        )
    if known.notes:
        access.notify(f"{found.path}: {'; '.join(known.notes)}.")
    if labels is not None and not known.num_classes:
        raise no_classifier(found.path)
    title = variant.id if variant else str(meaning.repository or name)
    return _model(title, found, labels, trusted=trust_onnx and known.format == "onnx")


def _model(name: str, found: "_Found", labels: str | Path | None, *, trusted: bool) -> Model:
    path, known, config, load = found
    assert known.variant is not None
    assert known.preprocessing is not None
    assert known.num_classes is not None
    assert known.in_channels is not None
    if labels is not None:
        class_names = read_labels(labels, known.num_classes)
    else:
        class_names = known.class_names or labels_for(known.num_classes)
    ids = known.provenance.get("class_ids")
    export = known.provenance.get("export")
    data_files: tuple[Path, ...] = ()
    if trusted:
        from resnest_cli.model.onnx_file import external_files

        data_files = external_files(path)
    precision = str(export.get("precision")) if isinstance(export, dict) else "float32"
    return Model(
        name=name,
        variant=known.variant,
        preprocessing=known.preprocessing,
        class_names=class_names,
        in_channels=known.in_channels,
        path=path,
        load=load,
        noted_ids=tuple(map(str, ids))
        if isinstance(ids, list) and len(ids) == known.num_classes
        else None,
        imagenet=known.class_names is None and known.num_classes == IMAGENET_CLASSES,
        temperature=known.temperature,
        trained_on=known.trained_on,
        exported=precision if known.format == "onnx" else None,
        trusted=trusted,
        data_files=data_files,
        config=Path(config.source) if config else None,
        crop_mode=config.crop_mode if config else "center",
    )


class _Found(NamedTuple):
    """A file of weights: what it and its config.json say about it, and how to load it."""

    path: Path
    known: "CheckpointInfo"
    config: "ModelConfig | None"
    load: "Load"


def _published(variant: Variant, access: Access, *, hub_first: bool) -> _Found:
    """The published weights of a variant; those that turn out to be damaged are fetched again."""
    from resnest_cli.model.checkpoint_header import CheckpointInfo

    def load() -> "Checkpoint":
        from resnest_cli.model import checkpoint

        path = weights.ensure(variant, access, hub_first=hub_first)
        try:
            return checkpoint.load(path, variant=variant)
        except CheckpointError as error:
            # It was whole when it was fetched: damaged since, unseen by size and time.
            if access.offline:
                raise CheckpointError(f"{error} Without --offline it is fetched again.") from error
            aside = weights.set_aside(path)
            access.notify(f"{error} It was set aside as {aside.name}; fetching it again.")
        path = weights.ensure(variant, access, hub_first=hub_first)
        return checkpoint.load(path, variant=variant)

    path, config = of_published(variant, access, hub_first=hub_first)
    known = CheckpointInfo(
        variant=variant,
        preprocessing=variant.preprocessing,
        num_classes=variant.num_classes,
        in_channels=3,
    )
    return _Found(path, configured(known, config, path), config, load)


def _located(name: str, meaning: Meaning, source: str | None, access: Access) -> _Found:
    """A file that the user brings, or that comes with the program."""
    path, config = locate(name, meaning, source, access)
    expected = expected_variant(meaning.variant, config, path)
    with blamed(config):
        if source and is_url(source) and path.is_relative_to(resnest_home()):
            known, unblamed = _describe_fetched(path, expected, source)
        else:
            known, unblamed = _describe(path, expected)

    def load() -> "Checkpoint":
        with blamed(config):
            return unblamed()

    return _Found(path, configured(known, config, path), config, load)


def _describe(path: Path, variant: Variant | None) -> "tuple[CheckpointInfo, Load]":
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
    if agrees and known.variant and known.num_classes is not None and known.in_channels:
        return known, load
    loaded = load()  # raises where the file does not fit
    if known.format == "pickle":
        _remember(path, loaded.info)
    return loaded.info, lambda: loaded


def _describe_fetched(
    path: Path, variant: Variant | None, url: str
) -> "tuple[CheckpointInfo, Load]":
    """As `_describe`, for what an address gave: without weights in it, it is not kept."""

    def tried(read: "Callable[[], _T]") -> "_T":
        try:
            return read()
        except CheckpointError as error:
            if isinstance(error, NewerFormatError) or _holds_weights(path):
                raise
            aside = weights.set_aside(path)
            raise CheckpointError(
                f"{error} It came from {without_login(url)}, and was set aside as {aside.name}: "
                "the next run fetches it again."
            ) from error

    known, load = tried(lambda: _describe(path, variant))
    return known, lambda: tried(load)


def _holds_weights(path: Path) -> bool:
    """Whether a file could be used, if for another model than the one asked for."""
    try:
        _describe(path, None)[1]()
    except CheckpointError:
        return False
    return True


def _note(path: Path) -> Path:
    return private_folder(resnest_home() / "pickles") / f"{known_sha256(path)}.json"


def _remember(path: Path, known: "CheckpointInfo") -> None:
    """Notes what a pickle holds, so that a compiled model needs no torch to know its classes."""
    if known.variant is None or VARIANTS.get(known.variant.id) != known.variant:
        return
    record = {
        "variant": known.variant.id,
        "num_classes": known.num_classes,
        "in_channels": known.in_channels,
        "class_names": known.class_names,
        "notes": known.notes,
    }
    with contextlib.suppress(OSError):  # costs time, never correctness
        write_private(_note(path), json.dumps(record).encode())


def _recall(path: Path, known: "CheckpointInfo", asked: Variant | None) -> "CheckpointInfo | None":
    """What `_remember` noted; None where nothing of use is there."""
    try:
        record: Any = json.loads(read_trusted(_note(path)))
        variant = VARIANTS[record["variant"]]
        classes, channels = record["num_classes"], record["in_channels"]
        names, notes = record["class_names"], record["notes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    sound = (
        type(classes) is int
        and type(channels) is int
        and (names is None or (_texts(names) and len(names) == classes))
        and _texts(notes)
    )
    if not sound or (asked is not None and asked != variant):
        return None
    return replace(
        known,
        variant=variant,
        preprocessing=variant.preprocessing,
        num_classes=classes,
        in_channels=channels,
        class_names=None if names is None else tuple(names),
        notes=tuple(notes),
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
