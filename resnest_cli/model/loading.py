"""From a name or a file to a model that is ready, with its preprocessing and class names.

The one place where `--model`, `--weights` and `--labels` meet. `locate` finds the file of weights
and the config.json that belongs to it: a folder and a repository have both; beside a file of
weights, a config.json is read where it is that of a ResNeSt, and what it says must fit the file.
`find_model` imports no torch and reads no weights, except those of a pickle that it has not seen
before; `Model.load` reads them.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnest_cli import paths
from resnest_cli.errors import CheckpointError, NewerFormatError, UnknownModelError, UsageError
from resnest_cli.files import read_trusted, write_private
from resnest_cli.model import weights
from resnest_cli.model.config_json import (
    ModelConfig,
    architecture_of,
    configured,
    parse_config,
    read_config,
    read_record,
)
from resnest_cli.model.hashes import known_sha256
from resnest_cli.model.hub_models import check_folder, ensure_file, ensure_folder, mirrored_folder
from resnest_cli.model.labels import (
    IMAGENET_CLASSES,
    imagenet_ids,
    labels_for,
    read_labels,
)
from resnest_cli.model.names import CONFIG_FILE, HUB_PREFIXES, Meaning, there, understand
from resnest_cli.model.variants import VARIANTS, Preprocessing, Variant, find_variant
from resnest_cli.net import Access, without_login
from resnest_cli.options import DEFAULT_MODEL, CropMode

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.model.checkpoint import Checkpoint
    from resnest_cli.model.checkpoint_header import CheckpointInfo
    from resnest_cli.model.resnest import ResNeSt
    from resnest_cli.model.training_photos import TrainingPhotos

    Load = Callable[[], Checkpoint]

_REMEMBERED = ("num_classes", "in_channels", "class_names", "notes")  # of a pickle


@dataclass(frozen=True, slots=True)
class Model:
    """A network, what goes in and what comes out; its weights lie in `path` until asked for.

    `name` is the variant's id, or the path of the checkpoint as given; `class_names[i]` is the name
    of logit i; a network without a classifier has none. `noted_ids` are the folder names that a
    training noted, `imagenet` says that the classes are ImageNet's. Logits are divided by
    `temperature` before they become probabilities. `thresholds` are there where a photo may have
    several labels: probabilities are sigmoids, and those classes are selected whose probability is
    at least their threshold.
    `trained_on` are the photos that it learned from, None where that is not known. `unknown` is the
    text that `inference.unknown` reads, None where the file keeps nothing of the kind.
    `exported` is the precision, float32, float16 or int8, of an .onnx that `resnest export` wrote,
    which can be run, but whose weights cannot be had; None for a checkpoint. `trusted` says that it
    may do what ours never do, and `data_files` are those beside it that hold its tensors. `config`
    is the config.json that was read, if one was, which alone can ask for another `crop_mode`.
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
    thresholds: tuple[float, ...] | None = None
    trained_on: "TrainingPhotos | None" = None
    unknown: str | None = field(default=None, repr=False)
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

    @property
    def grey(self) -> bool:
        """Whether photos are shown to the network in grey, as one channel.

        Raises:
            UsageError: it takes neither 1 channel nor 3, as a photo has.
        """
        if self.in_channels not in {1, 3}:
            raise UsageError(
                f"{self.path}: the network takes {self.in_channels} channels; photos have 3, or 1 "
                "in grey. For programs that give it arrays: `resnest export` without --check and "
                "--int8."
            )
        return self.in_channels == 1

    def need_classifier(self) -> None:
        """Raises CheckpointError where the file holds a network without a classifier."""
        if not self.num_classes:
            raise no_classifier(self.path)

    def need_one_label(self, what: str) -> None:
        """Raises UsageError where photos may have several labels, which `what` does not know."""
        if self.thresholds is not None:
            raise UsageError(
                f"{self.name}: learned to give a photo several labels, or none, which {what} does "
                "not know yet. Give a model that gives one."
            )

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


class Located(NamedTuple):
    """A file of weights, and what the config.json that belongs to it says.

    `again` finds or fetches the published weights of a variant once more; None for other files.
    `url` is the address that the user gave, from which the file came.
    """

    path: Path
    config: ModelConfig | None = None
    again: "Callable[[], Path] | None" = None
    url: str = ""


def find_model(
    name: str,
    *,
    source: str | None = None,
    labels: str | Path | None = None,
    access: Access | None = None,
    trust_onnx: bool = False,
    for_classes: bool = True,
) -> Model:
    """Finds a model by any name that `names` understands; fetches weights where needed.

    `source` names other weights for a named variant: a path, a URL, a folder or a repository.
    `labels` is a file of class names.
    With `trust_onnx` an .onnx may do what files of ours never do; see `model.onnx_file`.
    With `for_classes` a note says how often the bundled model is right.

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
    found = locate(name, meaning, access, source)
    if variant is not None and found.again is not None:
        known, load = _published(variant, found, access)
    else:
        known, load = _described(variant, found)
    if found.config is not None:
        known = configured(known, found.config, found.path)
    if for_classes and variant is not None and source is None and variant.bundled:
        access.notify(
            f"{variant.id}, the small bundled model, is right about {variant.top1:.1f}% of "
            f"{variant.dataset}\n({variant.top5:.1f}% within its first five). "
            f"For better answers: --model {DEFAULT_MODEL}."
        )
    if known.notes:
        access.notify(f"{found.path}: {'; '.join(known.notes)}.")
    if labels is not None and not known.num_classes:
        raise no_classifier(found.path)
    title = variant.id if variant else str(meaning.repository or name)
    trusted = trust_onnx and known.format == "onnx"
    return _model(title, found, known, load, labels, trusted=trusted)


def _model(
    name: str,
    found: Located,
    known: "CheckpointInfo",
    load: "Load",
    labels: str | Path | None,
    *,
    trusted: bool,
) -> Model:
    path, config = found.path, found.config
    assert known.variant is not None
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
    noted = isinstance(ids, list) and len(ids) == known.num_classes
    return Model(
        name=name,
        variant=known.variant,
        preprocessing=known.variant.preprocessing,
        class_names=class_names,
        in_channels=known.in_channels,
        path=path,
        load=load,
        noted_ids=tuple(map(str, ids or ())) if noted else None,
        imagenet=known.class_names is None and known.num_classes == IMAGENET_CLASSES,
        temperature=known.temperature,
        thresholds=known.thresholds,
        trained_on=known.trained_on,
        unknown=known.unknown,
        exported=precision if known.format == "onnx" else None,
        trusted=trusted,
        data_files=data_files,
        config=Path(config.source) if config else None,
        crop_mode=config.crop_mode if config else "center",
    )


# Which file it is


def locate(name: str, meaning: Meaning, access: Access, source: str | None = None) -> Located:
    """The file of weights that a name stands for, and its config.json; fetched where needed."""
    variant, repository = meaning.variant, meaning.repository
    if source is not None and variant is None:
        raise UsageError(
            f"--weights gives weights to a named model, but --model {name} is a checkpoint with "
            "weights of its own. Use one of the two."
        )
    if source is not None:
        return _of_source(source, access)
    if variant is not None and variant.bundled:
        return Located(weights.ensure(variant, access))
    if repository is not None and repository.foreign_file:
        path = ensure_file(repository, access)
        return Located(path, _beside(path, access))
    mirrored = repository is not None and mirrored_folder(repository, access.mirror)
    if variant is not None and not mirrored:
        return _of_published(variant, access, hub_first=repository is not None)
    if repository is not None:
        return _of_folder(ensure_folder(repository, access, read_config))
    assert meaning.path is not None
    return _of_path(meaning.path, access)


def refresh(meaning: Meaning, access: Access) -> Path:
    """The file of weights of a variant or a repository; fetched where the hub has a newer one."""
    repository = meaning.repository
    if meaning.variant is not None:
        return weights.ensure(meaning.variant, access, hub_first=repository is not None)
    assert repository is not None
    if repository.foreign_file:
        return ensure_file(repository, access, refresh=True)
    return check_folder(ensure_folder(repository, access, read_config, refresh=True))


def _of_source(source: str, access: Access) -> Located:
    """What `--weights` names: a file, a folder, a URL, or anything that `--model` takes."""
    if there(path := paths.expanded(source)):
        return _of_path(path, access)
    try:
        meaning = understand(source)
    except UnknownModelError:
        if source.lower().startswith(HUB_PREFIXES):
            raise
        return Located(weights.fetched(source, access), url=source)
    return locate(source, meaning, access)._replace(again=None)


def _of_path(path: Path, access: Access) -> Located:
    return _of_folder(path) if path.is_dir() else Located(path, _beside(path, access))


def _of_folder(folder: Path) -> Located:
    return Located(check_folder(folder), read_config(folder / CONFIG_FILE))


def _of_published(variant: Variant, access: Access, *, hub_first: bool) -> Located:
    """The published weights of a variant, and the config.json beside them in the hub's cache."""
    again = partial(weights.ensure, variant, access, hub_first=hub_first)
    path = again()
    beside = path.with_name(CONFIG_FILE)
    if not path.is_relative_to(paths.huggingface_hub_dir()) or not paths.is_file(beside):
        return Located(path, again=again)
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
    return Located(path, config, again)


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
        record = read_record(beside)
    except CheckpointError as error:
        if own.format == "resnest":
            return None
        raise CheckpointError(
            f"{error} It may say how {path.name} is to be used. Mend it, or move it away."
        ) from error
    if find_variant(architecture_of(record)) is None:
        access.notify(f"{beside} names no ResNeSt: it is not read for {path.name}")
        return None
    if own.format != "resnest":
        return parse_config(record, str(beside))
    with contextlib.suppress(CheckpointError):
        config = parse_config(record, str(beside))
        assert own.variant is not None
        said = config.variant.architecture, config.preprocessing, config.num_classes
        if said != (own.variant.architecture, own.variant.preprocessing, own.num_classes):
            access.notify(
                f"{beside} says otherwise than {path.name}, whose own header is used; "
                f"--model {path.parent} takes the config.json"
            )
    return None


# What is in it


def _published(variant: Variant, found: Located, access: Access) -> "tuple[CheckpointInfo, Load]":
    """The published weights of a variant; those that turn out to be damaged are fetched again."""
    from resnest_cli.model.checkpoint_header import CheckpointInfo

    def load() -> "Checkpoint":
        from resnest_cli.model import checkpoint

        assert found.again is not None
        path = found.again()
        try:
            return checkpoint.load(path, variant=variant)
        except CheckpointError as error:
            # It was whole when it was fetched: damaged since, unseen by size and time.
            if access.offline:
                raise CheckpointError(f"{error} Without --offline it is fetched again.") from error
            aside = weights.set_aside(path)
            access.notify(f"{error} It was set aside as {aside.name}; fetching it again.")
        return checkpoint.load(found.again(), variant=variant)

    return CheckpointInfo(variant=variant, num_classes=variant.num_classes, in_channels=3), load


def _described(variant: Variant | None, found: Located) -> "tuple[CheckpointInfo, Load]":
    """A file that the user brings, or that comes with the program: what it holds, how to load it.

    `variant` is the one that the user expects of it.
    """
    path, config = found.path, found.config
    expected = variant or (config.variant if config else None)
    if variant and config and variant.architecture != config.variant.architecture:
        raise CheckpointError(
            f"{config.source} says that {path.name} is {config.variant.title}; {variant.title} was "
            "expected. Leave the model to the file, or give other weights."
        )
    with _blamed(found):
        known, loaded = _content(path, expected)

    def load() -> "Checkpoint":
        from resnest_cli.model import checkpoint

        with _blamed(found):
            return loaded or checkpoint.load(path, variant=expected)

    return known, load


@contextlib.contextmanager
def _blamed(found: Located) -> Iterator[None]:
    """Adds to an error of a file where it came from, and what its config.json says that it is.

    What an address gave is not kept if there are no weights in it.
    """
    try:
        yield
    except CheckpointError as error:
        said = str(error)
        newer = isinstance(error, NewerFormatError)
        if found.url and not newer and not _holds_weights(found.path):
            aside = weights.set_aside(found.path)
            said += (
                f" It came from {without_login(found.url)}, and was set aside as {aside.name}: the "
                "next run fetches it again."
            )
        if found.config is not None:
            said += f"\n{found.config.source} says that it is a {found.config.variant.id}."
        if said == str(error):
            raise
        raise CheckpointError(said) from error


def _holds_weights(path: Path) -> bool:
    """Whether a file could be used, if for another model than the one asked for."""
    from resnest_cli.model import checkpoint

    with contextlib.suppress(CheckpointError):
        if _content(path, None)[1] or checkpoint.load(path):
            return True
    return False


def _content(path: Path, variant: Variant | None) -> "tuple[CheckpointInfo, Checkpoint | None]":
    """What a file holds, and the file as it was loaded if that took loading.

    A pickle is loaded once, and what it holds is then remembered.
    """
    from resnest_cli.model.checkpoint_header import read_info

    known = read_info(path)
    if known.format == "pickle":
        known = _recalled(path, known) or known
    elif variant is not None and known.format == "safetensors":
        known = replace(known, variant=variant)
    found = known.variant
    fits = variant is None or (
        known.format != "onnx" and found and found.architecture == variant.architecture
    )
    if found and fits and known.num_classes is not None and known.in_channels:
        return known, None
    from resnest_cli.model import checkpoint

    loaded = checkpoint.load(path, variant=variant)  # raises where the file does not fit
    if known.format == "pickle":
        _remember(path, loaded.info)
    return loaded.info, loaded


def _note(path: Path) -> Path:
    return paths.private_folder(paths.resnest_home() / "pickles") / f"{known_sha256(path)}.json"


def _remember(path: Path, known: "CheckpointInfo") -> None:
    """Notes what a pickle holds, so that a compiled model needs no torch to know its classes."""
    if known.variant is None or VARIANTS.get(known.variant.id) != known.variant:
        return
    record = {key: getattr(known, key) for key in _REMEMBERED} | {"variant": known.variant.id}
    with contextlib.suppress(OSError):  # costs time, never correctness
        write_private(_note(path), json.dumps(record).encode())


def _recalled(path: Path, known: "CheckpointInfo") -> "CheckpointInfo | None":
    """What `_remember` noted; None where nothing of use is there."""
    try:
        record: dict[str, Any] = json.loads(read_trusted(_note(path)))
        variant = VARIANTS[record["variant"]]
        classes, channels, names, notes = (record[key] for key in _REMEMBERED)
        return replace(
            known,
            variant=variant,
            num_classes=classes,
            in_channels=channels,
            class_names=None if names is None else tuple(names),
            notes=tuple(notes),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
