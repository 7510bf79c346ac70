"""Names of class folders -> the model's classes; as `model.classes` has it, with advice."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from resnest_cli.errors import UsageError
from resnest_cli.model.classes import look_up, unknown_classes

if TYPE_CHECKING:
    from resnest_cli.model.loading import Model


def class_indices(
    labels: Iterable[str], model: "Model", *, known_only: bool = False
) -> tuple[dict[str, int], list[str]]:
    """The index of each label's class, as `model.classes.look_up` finds it.

    With `known_only` labels that the model does not know are returned, too.

    Raises:
        UsageError: a label that the model does not know, or that several of its classes have.
    """
    remedy = "Name the folder by the class's index or id."
    found, unknown = look_up(labels, model, remedy=remedy)
    if unknown and not known_only:
        raise UsageError(
            f"{unknown_classes(unknown, model)} Folders are named by a class's name, id or index; "
            "--known-only leaves the others out."
        )
    return found, unknown
