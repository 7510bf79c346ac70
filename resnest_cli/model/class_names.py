"""The names of classes: which are the same, and those that training scripts leave beside weights.

PyTorch's tutorials save `class_to_idx` of torchvision's ImageFolder, others a list; MMPretrain has
them in `meta`, Lightning among the `hyper_parameters`. A list names the classes in the order of
their indices; a mapping goes from name to index, or from index to name.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

KEYS = (
    "class_names", "classes", "CLASSES", "class_to_idx", "idx_to_class", "names", "label_names",
    "id2label", "labels",
)  # fmt: skip
NAMED_FROM = "class names from "  # begins the note that says where they were found
_INSIDE = ("meta", "dataset_meta", "hyper_parameters", "hparams", "config")


def canonical(name: str) -> str:
    """What two spellings of one name share: `é` may be one character or two."""
    return unicodedata.normalize("NFC", name)


def find_class_names(
    records: Sequence[Mapping[Any, Any]], num_classes: int
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The names of `num_classes` classes in what lies around the weights, and notes for people.

    The first that can be used wins. Each list or mapping under one of `KEYS` that cannot is named
    in a note, with the reason. A mere number, as of classes, is passed over.
    """
    notes: list[str] = []
    for key, value in _candidates(records):
        try:
            names = _ordered(value)
            if len(names) != num_classes:
                raise ValueError(f"has {len(names)} names for {num_classes} classes")  # noqa: TRY301
        except ValueError as error:
            if num_classes:  # without a classifier there is nothing to name
                notes.append(f"{key} not used: it {error}")
            continue
        return names, (*notes, f"{NAMED_FROM}{key}")
    return None, tuple(notes)


def _candidates(records: Sequence[Mapping[Any, Any]]) -> Iterable[tuple[str, Any]]:
    for record in records:
        inner = [record[name] for name in _INSIDE if isinstance(record.get(name), Mapping)]
        for place in (record, *inner):
            for key in KEYS:
                value = place.get(key)
                if value is not None and not isinstance(value, int | float | str):
                    yield key, value


def _ordered(value: object) -> tuple[str, ...]:
    """The names by index; ValueError says what is wrong, after the word "it"."""
    if isinstance(value, Mapping):
        by_index = _by_index(value)
        if sorted(by_index) != list(range(len(value))):
            raise ValueError(f"does not number {len(value)} classes from 0 to {len(value) - 1}")
        value = [by_index[index] for index in range(len(value))]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("is no list of texts")
    if not all(name.strip() and _is_text(name) for name in value):
        raise ValueError("has names that are empty or no valid text")
    return tuple(value)


def _by_index(value: Mapping[Any, Any]) -> dict[int, Any]:
    """Index -> name, the other way round where the values are numbers; JSON has indices as text."""
    backwards = all(type(number) is int for number in value.values())
    pairs = ((index, name) for name, index in value.items()) if backwards else value.items()
    found = {}
    for index, name in pairs:
        number = _index(index)
        if number is None:
            raise ValueError("does not map names to indices")
        found[number] = name
    return found


def _index(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 8:
        return int(value)
    return value if type(value) is int else None


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
