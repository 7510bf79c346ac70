"""What `resnest check` found, as people read it; on stdout."""

from collections.abc import Mapping, Sequence
from typing import Any

from resnest_cli.output.sink import emit, show_table
from resnest_cli.text import count, printable_name, shortened

_FEW = 3  # of each kind


def show_issues(summary: Mapping[str, Any]) -> None:
    """Counts by kind with the worst of each, and what to do next."""
    found = summary["issues"]
    what = f"{count(summary['photos'], 'photo')} of {count(summary['classes'], 'class', 'classes')}"
    emit(f"{printable_name(summary['data'])}: {what}\n")
    if not found:
        emit("\nNothing was found.\n")
        return
    rows: list[Sequence[str]] = []
    for kind, number in found.items():
        for place, one in enumerate(summary["worst"][kind][:_FEW]):
            partner = one["suggestion"] or one["partner"] or one["detail"]
            head = [kind, f"{number:,}"] if place == 0 else ["", ""]
            rows.append([*head, shortened(one["path"], 30), shortened(partner, 30)])
    emit("\n")
    show_table(("Kind", "Found", "Photo", ""), rows, "lrll")
