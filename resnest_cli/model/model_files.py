"""Which file of weights a model's name stands for, and the config.json that says how to use it.

A folder and a repository have both. Beside a file of weights, a config.json is read where it is
that of a ResNeSt; what it says must fit the file.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resnest_cli import paths
from resnest_cli.errors import CheckpointError, UnknownModelError, UsageError
from resnest_cli.model import hub_files, weights
from resnest_cli.model.class_names import NAMED_FROM
from resnest_cli.model.names import CONFIG_FILE, HUB_PREFIXES, Meaning, there, understand
from resnest_cli.model.variants import Variant

if TYPE_CHECKING:
    from resnest_cli.model.checkpoint_header import CheckpointInfo
    from resnest_cli.model.hub_config import ModelConfig


class Located(NamedTuple):
    """A file of weights, and what the config.json that belongs to it says."""

    path: Path
    config: "ModelConfig | None" = None


def is_elsewhere(meaning: Meaning, access: weights.Access) -> bool:
    """Whether the variant's weights come with the program, or from a mirror that is a folder."""
    assert meaning.variant is not None
    repository = meaning.repository
    return meaning.variant.bundled or (
        repository is not None and bool(hub_files.mirrored_folder(repository, access.mirror))
    )


def of_published(variant: Variant, access: weights.Access, *, hub_first: bool) -> Located:
    """The published weights of a variant, and the config.json beside them in the hub's cache."""
    path = weights.ensure(variant, access, hub_first=hub_first)
    beside = path.with_name(CONFIG_FILE)
    if not path.is_relative_to(paths.huggingface_hub_dir()) or not paths.is_file(beside):
        return Located(path)
    from resnest_cli.model.hub_config import read_config

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


def find_file(name: str, meaning: Meaning, access: weights.Access) -> Located:
    """The file of weights that a name stands for, and its config.json; fetched where needed."""
    if meaning.variant is not None and not is_elsewhere(meaning, access):
        return of_published(meaning.variant, access, hub_first=meaning.repository is not None)
    return locate(name, meaning, None, access)


def locate(name: str, meaning: Meaning, source: str | None, access: weights.Access) -> Located:
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
        path = hub_files.ensure_file(meaning.repository, access)
        return Located(path, _beside(path, access))
    if meaning.repository is not None:
        return _of_folder(hub_files.ensure_folder(meaning.repository, access))
    if meaning.variant is not None:
        return Located(weights.ensure(meaning.variant, access))  # the bundled one
    assert meaning.path is not None
    if meaning.path.is_dir():
        return _of_folder(meaning.path)
    return Located(meaning.path, _beside(meaning.path, access))


def _of_source(source: str, variant: Variant, access: weights.Access) -> Located:
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
    from resnest_cli.model.hub_config import read_config

    path = hub_files.check_folder(folder)
    return Located(path, read_config(folder / CONFIG_FILE))


def _beside(path: Path, access: weights.Access) -> "ModelConfig | None":
    """The config.json in the folder of a file of weights, if it is about these.

    A checkpoint of ours says itself what it is: where the config.json says otherwise, that is
    noted. One that names no ResNeSt belongs to something else, which is noted as well.
    """
    from resnest_cli.model.checkpoint_header import read_info

    beside = path.with_name(CONFIG_FILE)
    if path.suffix == ".onnx" or not paths.is_file(beside):
        return None
    from resnest_cli.model.hub_config import names_resnest, parse_config, read_record

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
    if not names_resnest(record):
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
    variant: Variant | None, config: "ModelConfig | None", path: Path
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
def blamed(config: "ModelConfig | None") -> Iterator[None]:
    """Adds to an error of a file of weights what its config.json says that it is."""
    try:
        yield
    except CheckpointError as error:
        if config is None or config.source in str(error):
            raise
        raise CheckpointError(
            f"{error}\n{config.source} says that it is a {config.variant.id}."
        ) from error


def configured(
    known: "CheckpointInfo", config: "ModelConfig | None", path: Path
) -> "CheckpointInfo":
    """What is known of a file, with its classes and preprocessing as its config.json has them.

    Raises:
        CheckpointError: the file's tensors are others than those that config.json describes. Only
            the classifier may be missing, as in what transformers saves of a backbone.
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
