"""What is wrong with the photos of a data set: a record for each finding, and files of them.

An `Issue` is one finding about one photo (or, of kind `class`, about a class). Its score lies in
[0, 1], 1 the surest or worst, and ranks issues of one kind; between kinds it says nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resnest_cli.data.issue_kinds import KINDS, Kind
from resnest_cli.data.labelled_photos import Side
from resnest_cli.text import csv_row

COLUMNS = ("path", "kind", "score", "partner", "suggestion", "detail")  # of issues.csv


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding about the photo `path`, its name in the data, as a run's `split.csv` has it.

    `partner` is the name of the other photo, where there is one, `suggestion` what to do: for a
    label the class that fits better, else words. `detail` says what was seen. `label` and `side`
    are the photo's own. `group` numbers the groups of copies from 1; 0 is none. Of kind `class`
    `path` and `partner` are classes. `also` are names of files that are the same photo in other
    class folders: they are left out together.
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
    also: Sequence[str] = ()


def ranked(issues: Iterable[Issue]) -> list[Issue]:
    """Kinds in their order, in each the worst first."""
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(issues, key=lambda one: (order[one.kind], -one.score, one.group, one.path))


def counts(issues: Iterable[Issue]) -> dict[Kind, int]:
    """How many issues there are of each kind, in the order of kinds; 0 where there are none."""
    found = Counter(issue.kind for issue in issues)
    return {kind: found[kind] for kind in KINDS}


def csv_text(issues: Sequence[Issue]) -> str:
    """`issues.csv`: a row for each issue, as they are ranked, and for each of its files."""
    return csv_row(COLUMNS) + "".join(map(csv_rows_of, issues))


def csv_rows_of(issue: Issue) -> str:
    """The row of an issue, or the rows of all files of its photo, with line breaks."""
    what = (issue.kind, round(issue.score, 4), issue.partner, issue.suggestion, issue.detail)
    return "".join(csv_row((path, *what)) for path in (issue.path, *issue.also))
