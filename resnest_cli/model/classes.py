"""What people call a class -> its index: by id, by name or by index.

Names identify nothing by themselves: where several classes have the name, as `crane` and `maillot`
in ImageNet, that is an error that lists them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from resnest_cli.errors import UsageError
from resnest_cli.model.class_names import canonical
from resnest_cli.model.variants import did_you_mean_among

if TYPE_CHECKING:
    from resnest_cli.model.loading import Model

Key = Callable[[str], str]


def look_up(
    labels: Iterable[str], model: "Model", *, remedy: str
) -> tuple[dict[str, int], list[str]]:
    """The index of each label's class, and the labels that the model does not know, sorted.

    A label is a class's id (the name of its folder in training, ImageNet's WordNet id), else its
    name, else a number below the classes. Unicode's form makes no difference where nothing fits as
    it stands; where nothing fits then, nor do upper and lower case, and underscores for spaces.

    Raises:
        UsageError: several classes have the name; `remedy` is the sentence that says what to do.
    """
    places = (model.class_ids or (), model.class_names)
    exact = [(key, _by(key, names)) for key in (str, canonical) for names in places]
    loose = [(_loosened, _by(_loosened, names)) for names in places]
    found: dict[str, int] = {}
    unknown: list[str] = []
    for label in sorted(set(labels)):
        fitting = _fitting(label, exact) or _by_number(label, model) or _fitting(label, loose)
        if len(fitting) > 1:
            raise UsageError(f"{_ambiguous(label, fitting, model)} {remedy}")
        if fitting:
            found[label] = fitting[0]
        else:
            unknown.append(label)
    return found, unknown


def unknown_classes(unknown: Sequence[str], model: "Model") -> str:
    """A sentence or two about labels that the model does not know, at least one."""
    known = [*(model.class_ids or ()), *model.class_names]
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    hint = did_you_mean_among(unknown[0], known)
    return (
        f"{model.name} has no class {unknown[0]!r}{more}.{hint} Its {model.num_classes} classes "
        f"begin with {', '.join(model.class_names[:5])}."
    )


def _by(key: Key, names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        found[key(name)].append(index)
    return found


def _fitting(label: str, tables: Iterable[tuple[Key, dict[str, list[int]]]]) -> list[int]:
    """The indices in the first table that has any."""
    return next((found for key, table in tables if (found := table.get(key(label)))), [])


def _loosened(name: str) -> str:
    return " ".join(canonical(name).replace("_", " ").casefold().split())


def _by_number(label: str, model: "Model") -> list[int]:
    if label.isascii() and label.isdecimal() and int(label) < model.num_classes:
        return [int(label)]
    return []


def _ambiguous(label: str, fitting: list[int], model: "Model") -> str:
    ids = model.class_ids or ()
    shown = [f"{index} ({ids[index]})" if ids else str(index) for index in fitting]
    return f"{label!r} is the name of several classes of {model.name}: {' and '.join(shown)}."
