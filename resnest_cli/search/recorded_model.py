"""The very model that made features, found by their record, and fed as it was then.

The record has the hash of its file of weights. Published weights are known by that; of all others,
this machine remembers the hashes of the files that it has used (see `model.hashes`).
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from resnest_cli.errors import CheckpointError, UsageError
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs.predict import classifier
from resnest_cli.model.hashes import files_with
from resnest_cli.model.variants import find_variant
from resnest_cli.options import ModelOptions

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

Record = Mapping[str, Any]  # what features say of themselves: `feats.json`

_SHOWN = 8  # digits of a hash


def extraction_of(record: Record) -> Extraction:
    """What was kept of each photo."""
    wanted = {name: record["extraction"].get(name) for name in ("pool", "stage", "dtype")}
    return Extraction(**wanted, normalize=record["extraction"].get("normalize"))


def arguments(record: Record, place: str, model: str | None = None) -> dict[str, Any]:
    """Arguments of `Classifier` that decide a photo's features; `model` is where to find it now.

    Raises:
        UsageError: the model is not found.
    """
    fed = record["preprocessing"]
    return {
        "model": model or _found(record, place),
        "img_size": fed["size"],
        "crop_pct": fed["crop_pct"],
        "interpolation": fed["interpolation"],
        "crop_mode": fed.get("crop_mode", "center"),
        "exif": fed.get("exif", True),
        "fast_decode": fed.get("fast_decode", False),
    }


def _found(record: Record, place: str) -> str:
    name, sha256 = str(record["model"]), str(record["weights_sha256"])
    variant = find_variant(name)
    if variant is not None:
        weights = variant.weights
        if weights is not None and sha256.startswith(weights.hash_prefix):
            return variant.id
        if variant.hub is not None and variant.hub.sha256 == sha256:
            return variant.hub.name
    if files := files_with(sha256):
        return str(files[0])
    raise UsageError(
        f"{place} was made with weights {sha256[:_SHOWN]} of {name}, which are not found on this "
        "machine: say with --model where their file is now."
    )


def load(record: Record, place: str, options: ModelOptions) -> "Classifier":
    """The model as a command has it, with messages on stderr; see `arguments` and `check`."""
    given = arguments(record, place, options.model)
    found = classifier(replace(options, **given), ready_for=extraction_of(record).output)
    check(found, record, place)
    return found


def check(found: "Classifier", record: Record, place: str) -> None:
    """Whether it is the model that made the features, and takes photos as it did then.

    Raises:
        UsageError: it is another one.
    """
    model, sha256 = found.model, str(record["weights_sha256"])
    try:
        own = model.sha256()
    except OSError as error:
        raise CheckpointError(f"{model.path} cannot be read: {error}.") from error
    if own != sha256:
        raise UsageError(
            f"{place} was made with weights {sha256[:_SHOWN]} of {record['model']}, but "
            f"{model.path} has weights {own[:_SHOWN]}: features of two models cannot be compared. "
            "Name the file of the first with --model, or make features with the second."
        )
    for name, value in asdict(found.preprocessing).items():
        then = record["preprocessing"].get(name)
        now = list(value) if isinstance(value, tuple) else value
        if then != now:
            raise UsageError(
                f"{place} was made of photos with {name} {then}, but {model.path} is now fed with "
                f"{name} {now}. Put its config.json back, or make the features again."
            )
