"""What `resnest check` found, as people read it; on stdout."""

import shlex
import shutil
from collections.abc import Mapping
from typing import Any

from resnest_cli.data.issue_kinds import KINDS, Kind
from resnest_cli.output.sink import emit
from resnest_cli.text import count, printable, printable_name, shortened

_FEW = 3  # of each kind
_KIND, _FOUND = 13, 7  # columns
_LEAST = 14  # columns of a name, and of what was seen


def show_issues(summary: Mapping[str, Any]) -> None:
    """How many photos and issues there are, and of each kind the worst."""
    photos = count(summary["photos"], "photo")
    classes = count(summary["classes"], "class", "classes")
    flagged = f"{summary['flagged']:,} with an issue" if summary["issues"] else "nothing was found"
    lines = [f"{printable_name(summary['data'])}: {photos} of {classes}, {flagged}"]
    width = max(_LEAST, (shutil.get_terminal_size().columns - 6) // 2)
    for kind, number in summary["issues"].items():
        lines.append(f"\n{kind:<{_KIND}}{number:>{_FOUND},}  {KINDS[kind].title}")
        for one in summary["worst"][kind][:_FEW]:
            name, what = shortened(one["path"], width), shortened(_what(kind, one), width)
            line = f"  {name:<{width}}  {what}"
            lines.append(line.rstrip())
    emit(printable("\n".join(lines)) + "\n")


def _what(kind: Kind, one: Mapping[str, Any]) -> str:
    """What was seen, or the photo or class that it is like, in a few words."""
    if KINDS[kind].group == "files":
        return str(one["detail"])
    if kind == "label" and one["partner"]:
        return f"looks like {one['suggestion']}"
    if kind == "missing":
        return f"looks like {one['suggestion']}, too"
    if kind == "label":
        return f"{one['suggestion']}: {one['detail']}"
    if kind == "class" and one["partner"]:
        return f"hard to tell from {one['partner']}"
    return str(one["partner"] or one["detail"])


def what_next(found: bool, data: str, folder: str | None) -> str:
    """What to do with issues, or with none."""
    command = f"resnest finetune {shlex.quote(data)}"
    if not found:
        return f"Train on them: {command}"
    if folder is None:
        return (
            "-o DIR writes all of them to DIR/issues.csv; --html FILE shows the photos. "
            "`resnest finetune` leaves out what stands in such a list: --exclude DIR/issues.csv"
        )
    return (
        "Look through issues.csv and take out what is fine; leave out the rest with:\n"
        f"  {command} --exclude {shlex.quote(f'{folder}/issues.csv')}"
    )
