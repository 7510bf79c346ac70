"""Classes: index <-> name <-> id; lists of names; the names that training scripts leave in files.

Names identify nothing by themselves: `crane` and `maillot` stand twice in ImageNet's list; the
index does, and so does the WordNet id. The bundled list has the bytes of the file that PyTorch's
hub publishes.
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from resnest_cli.errors import LabelsError, UsageError
from resnest_cli.files import reading
from resnest_cli.paths import resnest_home
from resnest_cli.text import did_you_mean

LABELS_FILE = "imagenet_classes.txt"
LABELS_SHA256 = "1f386e0d1cb6e28b9c2dac651c3dea6801e98ad1b41a14ce6bb1a093d72069f5"
IMAGENET_CLASSES = 1000
_IDS_FILE = "imagenet_wnids.txt"

# Where training scripts keep names: PyTorch's tutorials save `class_to_idx` of torchvision's
# ImageFolder, others a list; MMPretrain has them in `meta`, Lightning among `hyper_parameters`.
KEYS = (
    "class_names", "classes", "CLASSES", "class_to_idx", "idx_to_class", "names", "label_names",
    "id2label", "labels",
)  # fmt: skip
_INSIDE = ("meta", "dataset_meta", "hyper_parameters", "hparams", "config")
NAMED_FROM = "class names from "  # begins the note that says where they were found


class Classes(Protocol):
    """Whatever has classes, such as `loading.Model`; see there."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def class_ids(self) -> tuple[str, ...] | None: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def num_classes(self) -> int: ...  # noqa: D102


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 ImageNet class names, by index: the copy fetched with weights, else the bundled."""
    for path in (resnest_home() / LABELS_FILE, bundled_labels()):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() == LABELS_SHA256:
            return tuple(data.decode("utf-8").split("\n"))
    raise LabelsError(
        f"{bundled_labels()} is missing or damaged. Install resnest-cli again, or pass --labels."
    )


@cache
def imagenet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes, by index; they are in alphabetical order.

    Source: timm's `imagenet_synsets.txt`, the order of ILSVRC 2012.
    """
    return tuple(Path(__file__).with_name(_IDS_FILE).read_text(encoding="ascii").split())


def bundled_labels() -> Path:
    """The list that came with the program: in the package when installed, else beside it."""
    package = Path(__file__).parents[1]
    installed = package / LABELS_FILE
    return installed if installed.exists() else package.parent / LABELS_FILE


def read_labels(path: str | Path, expected: int) -> tuple[str, ...]:
    """Class names from a UTF-8 text file, one a line in the order of the indices."""
    try:
        with reading(path, LabelsError):
            text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsError(
            f"{path}: is not UTF-8 text (byte {error.start}). Labels are one name a line."
        ) from error
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    if len(lines) != expected:
        raise LabelsError(
            f"{path}: has {len(lines)} lines; the network has {expected} classes. "
            "Give one class name a line, in the order of the class indices."
        )
    if "" in lines:
        raise LabelsError(f"{path}: line {lines.index('') + 1} is empty; each class needs a name.")
    return tuple(lines)


def labels_for(num_classes: int) -> tuple[str, ...]:
    """Names for a network that carries none: ImageNet's for 1000 classes, else `class 0`, ..."""
    if num_classes == IMAGENET_CLASSES:
        return imagenet_labels()
    return tuple(f"class {index}" for index in range(num_classes))


def canonical(name: str) -> str:
    """What two spellings of one name share: `é` may be one character or two."""
    return unicodedata.normalize("NFC", name)


def _loosened(name: str) -> str:
    return " ".join(canonical(name).replace("_", " ").casefold().split())


def look_up(
    labels: Iterable[str], model: Classes, *, remedy: str
) -> tuple[dict[str, int], list[str]]:
    """The index of each label's class, and the labels that the model does not know, sorted.

    A label is a class's id (the name of its folder in training, ImageNet's WordNet id), else its
    name, else a number below the classes. Unicode's form makes no difference where nothing fits as
    it stands; where nothing fits then, nor do upper and lower case, and underscores for spaces.

    Raises:
        UsageError: several classes have the name; `remedy` is the sentence that says what to do.
    """
    ids, places = model.class_ids, (model.class_ids or (), model.class_names)
    exact = [(key, _by(key, names)) for key in (str, canonical) for names in places]
    loose = [(_loosened, _by(_loosened, names)) for names in places]
    found: dict[str, int] = {}
    unknown: list[str] = []
    for label in sorted(set(labels)):
        fitting = _fitting(label, exact)
        if not fitting and (index := _index(label)) is not None and index < model.num_classes:
            fitting = [index]
        fitting = fitting or _fitting(label, loose)
        if len(fitting) > 1:
            shown = [f"{index} ({ids[index]})" if ids else str(index) for index in fitting]
            raise UsageError(
                f"{label!r} is the name of several classes of {model.name}: "
                f"{' and '.join(shown)}. {remedy}"
            )
        if fitting:
            found[label] = fitting[0]
        else:
            unknown.append(label)
    return found, unknown


_Table = tuple[Callable[[str], str], dict[str, list[int]]]


def _by(key: Callable[[str], str], names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        found[key(name)].append(index)
    return found


def _fitting(label: str, tables: Iterable[_Table]) -> list[int]:
    """The indices in the first table that has any."""
    return next((found for key, table in tables if (found := table.get(key(label)))), [])


def unknown_classes(unknown: Sequence[str], model: Classes) -> str:
    """A sentence or two about labels that the model does not know, at least one."""
    known = [*(model.class_ids or ()), *model.class_names]
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    hint = did_you_mean(unknown[0], known)
    return (
        f"{model.name} has no class {unknown[0]!r}{more}.{hint} Its {model.num_classes} classes "
        f"begin with {', '.join(model.class_names[:5])}."
    )


def find_class_names(
    records: Sequence[Mapping[Any, Any]], num_classes: int
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The names of `num_classes` classes in what lies around the weights, and notes for people.

    A list names the classes in the order of their indices; a mapping goes from name to index, or
    from index to name. The first that can be used wins. Each one under one of `KEYS` that cannot is
    named in a note, with the reason. A mere number, as of classes, is passed over.
    """
    notes: list[str] = []
    for record in records:
        inner = [record[name] for name in _INSIDE if isinstance(record.get(name), Mapping)]
        for place, key in product((record, *inner), KEYS):
            value = place.get(key)
            if value is None or isinstance(value, int | float | str):
                continue
            try:
                names = by_index(value)
                if len(names) != num_classes:
                    raise ValueError(f"has {len(names)} names for {num_classes} classes")  # noqa: TRY301
                if not all(map(str.strip, names)):
                    raise ValueError("has names that are empty")  # noqa: TRY301
            except ValueError as error:
                if num_classes:  # without a classifier there is nothing to name
                    notes.append(f"{key} not used: it {error}")
            else:
                return names, (*notes, f"{NAMED_FROM}{key}")
    return None, tuple(notes)


def by_index(value: object) -> tuple[str, ...]:
    """The names in a list or a mapping; ValueError says what is wrong, after the word "it"."""
    if isinstance(value, Mapping):
        # Index -> name, the other way round where the values are numbers.
        backwards = all(type(number) is int for number in value.values())
        pairs = ((index, name) for name, index in value.items()) if backwards else value.items()
        numbered = {_index(index): name for index, name in pairs}
        if set(numbered) != set(range(len(value))):
            raise ValueError(f"does not number {len(value)} classes from 0 to {len(value) - 1}")
        value = [numbered[index] for index in range(len(value))]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("is no list of texts")
    if any("\ud800" <= letter <= "\udfff" for name in value for letter in name):
        raise ValueError("has names that are no valid text")  # half a pair of UTF-16
    return tuple(value)


def _index(value: object) -> int | None:
    """A number, which JSON has as text where it is a key."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    return value if type(value) is int else None
