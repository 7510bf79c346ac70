"""What can be wrong with the photos of a data set: the kinds of issues, and the groups of kinds.

`resnest check` finds them (`inspection`), and `--exclude` reads them (`exclusion`).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from resnest_cli.errors import UsageError
from resnest_cli.text import did_you_mean

Kind = Literal[
    "unreadable", "truncated", "placeholder", "tiny", "shape", "uniform", "dark", "bright",
    "blurred", "copy", "near-copy", "contradiction", "leak", "label", "missing", "outlier",
    "class",
]  # fmt: skip
Group = Literal["files", "copies", "labels", "outliers", "classes"]


class KindInfo(NamedTuple):
    """The group that a kind belongs to, and what it is in a few words."""

    group: Group
    title: str


# Behind each: what its score means.
KINDS: Mapping[Kind, KindInfo] = {
    "unreadable": KindInfo("files", "cannot be read"),  # 1
    "truncated": KindInfo("files", "the file ends too early"),  # 1
    "placeholder": KindInfo("files", "one picture under many names"),  # 1 - 1 / copies
    "tiny": KindInfo("files", "few pixels"),  # 1 - shorter side / limit
    "shape": KindInfo("files", "much longer than wide"),  # 1 - limit / aspect ratio
    "uniform": KindInfo("files", "nearly one colour"),  # 1 - contrast / limit
    "dark": KindInfo("files", "too dark"),  # 1 - brightness of its lightest parts / limit
    "bright": KindInfo("files", "too bright"),  # the same, of its darkest parts
    "blurred": KindInfo("files", "not sharp"),  # 1 - sharpness / limit
    "copy": KindInfo("copies", "the same pixels as another"),  # 1
    "near-copy": KindInfo("copies", "nearly the same as another"),  # correlation of the two
    "contradiction": KindInfo("copies", "copies with different labels"),  # as of the copy
    "leak": KindInfo("copies", "copies on both sides of the split"),  # as of the copy
    "label": KindInfo("labels", "the class looks wrong"),  # surprise / (that + the expected one)
    "missing": KindInfo("labels", "shows another class, too"),  # how probably it does
    "outlier": KindInfo("outliers", "unlike all others of its class"),  # how far it lies
    "class": KindInfo("classes", "classes with few photos, or too alike"),  # how bad it is
}
assert tuple(KINDS) == get_args(Kind)


def kinds_of(text: str, option: str) -> frozenset[Kind]:
    """The kinds that a text such as "leak,label" or "copies" names, by kind, by group or `all`.

    Raises:
        UsageError: a name that is neither.
    """
    groups: dict[str, set[Kind]] = {"all": set(KINDS)}
    for kind, info in KINDS.items():
        groups.setdefault(info.group, set()).add(kind)
        groups.setdefault(kind, set()).add(kind)
    found = set[Kind]()
    for name in filter(None, map(str.strip, text.split(","))):
        if name not in groups:
            raise UsageError(
                f"{option} {name}: there is no such kind of issue.{did_you_mean(name, groups)} "
                f"There are {', '.join(KINDS)}; files, copies, labels, outliers, classes and all."
            )
        found |= groups[name]
    if not found:
        raise UsageError(f"{option}: name one or more kinds of issues, such as leak,label.")
    return frozenset(found)
