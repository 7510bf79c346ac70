"""What can be wrong with the photos of a data set: kinds, one record for each finding, and files.

An `Issue` is one finding about one photo (or, of kind `class`, about a class). Its score lies in
[0, 1], 1 the surest or worst, and ranks issues of one kind; between kinds it says nothing.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from resnest_cli.data.labelled_photos import Side
from resnest_cli.errors import UsageError
from resnest_cli.text import csv_rows, did_you_mean

Kind = Literal[
    "unreadable", "truncated", "placeholder", "tiny", "shape", "uniform", "dark", "bright",
    "blurred", "copy", "near-copy", "contradiction", "leak", "label", "outlier", "class",
]  # fmt: skip
Group = Literal["files", "copies", "labels", "outliers", "classes"]

COLUMNS = ("path", "kind", "score", "partner", "suggestion", "detail")  # of issues.csv


class KindInfo(NamedTuple):
    """The group that a kind belongs to, what it is in a few words, and what its score means."""

    group: Group
    title: str
    score: str


KINDS: Mapping[Kind, KindInfo] = {
    "unreadable": KindInfo("files", "cannot be read", "1"),
    "truncated": KindInfo("files", "the file ends too early", "1"),
    "placeholder": KindInfo(
        "files", "one picture under many names", "how many there are: 1 - 1 / copies"
    ),
    "tiny": KindInfo("files", "few pixels", "1 - shorter side / limit"),
    "shape": KindInfo("files", "much longer than wide", "1 - limit / aspect ratio"),
    "uniform": KindInfo("files", "nearly one colour", "1 - contrast / limit"),
    "dark": KindInfo("files", "too dark", "1 - brightness of its lightest parts / limit"),
    "bright": KindInfo("files", "too bright", "the same, of its darkest parts"),
    "blurred": KindInfo("files", "blurred", "1 - sharpness / limit"),
    "copy": KindInfo("copies", "the same pixels as another", "1"),
    "near-copy": KindInfo("copies", "nearly the same as another", "correlation of the two"),
    "contradiction": KindInfo("copies", "copies under several classes", "as of the copy"),
    "leak": KindInfo("copies", "copies on both sides of the split", "as of the copy"),
    "label": KindInfo("labels", "the class looks wrong", "1 - probability of its own class"),
    "outlier": KindInfo("outliers", "unlike all others of its class", "how far it lies"),
    "class": KindInfo("classes", "classes with few photos, or too alike", "how bad it is"),
}
assert tuple(KINDS) == get_args(Kind)


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding about the photo `path`, its name in the data, as a run's `split.csv` has it.

    `partner` is the name of the other photo, where there is one, `suggestion` what to do: for a
    label the class that fits better, else words. `detail` says what was seen. `label` and `side`
    are the photo's own. `group` numbers the groups of copies from 1; 0 is none. Of kind `class`
    `path` and `partner` are classes.
    """

    path: str
    kind: Kind
    score: float
    partner: str = ""
    suggestion: str = ""
    detail: str = ""
    label: str = ""
    side: Side | None = None
    group: int = 0


def ranked(issues: Iterable[Issue]) -> list[Issue]:
    """Kinds in their order, in each the worst first."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(issues, key=lambda one: (order[one.kind], -one.score, one.group, one.path))


def counts(issues: Iterable[Issue]) -> dict[Kind, int]:
    """How many issues there are of each kind, in the order of kinds; 0 where there are none."""
    found = Counter(issue.kind for issue in issues)
    return {kind: found[kind] for kind in KINDS}


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


def csv_text(issues: Sequence[Issue]) -> str:
    """`issues.csv`: a row for each issue, as they are ranked."""
    rows = [
        (one.path, one.kind, round(one.score, 4), one.partner, one.suggestion, one.detail)
        for one in issues
    ]
    return csv_rows([COLUMNS, *rows])


def json_text(summary: Mapping[str, Any]) -> str:
    """`summary.json`."""
    return json.dumps(summary, indent=2) + "\n"
