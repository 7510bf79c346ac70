"""Names of class folders -> the model's classes; as `model.classes` has it, with advice.

Numbers as names mean one of two things: the index of the class, or a name like any other, of which
the sorted order made the indices (torchvision's ImageFolder and most programs: 0, 1, 10, 11, 2).
Where the model has names or ids for its classes they decide, and a number that is none of them is
an index. Where it has none, folders are taken in sorted order; labels in a table are indices.
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from resnest_cli.errors import UsageError
from resnest_cli.model.classes import look_up, unknown_classes
from resnest_cli.model.labels import labels_for

if TYPE_CHECKING:
    from resnest_cli.data.listing import Listing
    from resnest_cli.model.loading import Model

FolderNumbers = Literal["auto", "index", "sorted"]

_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_ALIKE = 10  # so many numbers from 0 on have one order


class Truth(NamedTuple):
    """The index of each label's class, labels that the model does not know, and what to say."""

    indices: dict[str, int]
    unknown: list[str]
    notes: list[str]


def folder_names(data: str, listing: "Listing") -> set[str]:
    """The names of all class folders, of every side and empty ones, too; none of a table."""
    if not Path(data).is_dir():
        return set()
    return {photo.label for photo in listing.photos} | {Path(name).name for name in listing.empty}


def class_indices(
    labels: Iterable[str],
    model: "Model",
    *,
    known_only: bool = False,
    folders: Collection[str] = (),
    numbers: FolderNumbers = "auto",
) -> Truth:
    """The index of each label's class, as `model.classes.look_up` finds it; of numbers see above.

    `folders` are all class folders where labels are their names. With `known_only` labels that the
    model does not know are returned, too.

    Raises:
        UsageError: a label that the model does not know, or that several of its classes have;
            numbers that cannot be taken as `numbers` says.
    """
    labels = set(labels)
    names, notes = set(folders) or labels, list[str]()
    only_numbers = all(map(_NUMBER.fullmatch, names))
    found: dict[str, int] = {}
    if numbers == "sorted" or (numbers == "auto" and folders and only_numbers and _nameless(model)):
        order = _sorted_order(names, model, asked=numbers == "sorted")
        found = {label: order[label] for label in labels if label in order}
        if numbers == "auto" and found:
            notes.append(
                f"Folders named by numbers are taken in sorted order ({_shown(order)}), as most "
                "training programs take them; --folder-numbers index takes each number as the "
                "index of its class."
            )
    elif numbers == "index":
        found = {n: int(n) for n in filter(_NUMBER.fullmatch, labels) if int(n) < model.num_classes}
    remedy = "Name the folder by the class's index or id."
    more, unknown = look_up(labels - found.keys(), model, remedy=remedy)
    if unknown and not known_only:
        hint = ""
        if only_numbers and len(names) == model.num_classes:
            hint = " --folder-numbers sorted takes the folders in sorted order."
        raise UsageError(
            f"{unknown_classes(unknown, model)} Folders are named by a class's name, id or index; "
            f"--known-only leaves the others out.{hint}"
        )
    return Truth(found | more, unknown, notes)


def _nameless(model: "Model") -> bool:
    """Whether nothing says what the classes are called, and more than ten make two orders."""
    known = model.class_ids is not None or model.class_names != labels_for(model.num_classes)
    return not known and model.num_classes > _ALIKE


def _sorted_order(names: Collection[str], model: "Model", *, asked: bool) -> dict[str, int]:
    """The index of each class by the sorted names of as many folders as the model has classes.

    Of fewer folders the others are taken to have the missing numbers from 0 on; empty where they
    cannot.
    """
    count = model.num_classes
    if len(names) != count:
        every = {str(index) for index in range(count)}
        if not set(names) <= every:
            if not asked:
                return {}
            raise UsageError(
                f"--folder-numbers sorted: {model.name} has {count} classes, and the {len(names)} "
                f"folder(s) are neither as many nor all named by numbers below {count}."
            )
        names = every
    elif not asked and not set(names) <= {str(index) for index in range(count)}:
        return {}
    return {name: index for index, name in enumerate(sorted(names))}


def _shown(order: dict[str, int]) -> str:
    return ", ".join(list(order)[:5]) + ", ..."
