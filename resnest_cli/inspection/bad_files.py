"""Photos that are no use as they are: not readable, tiny, dark, blurred, and the like."""

from typing import TYPE_CHECKING

from resnest_cli.inspection.issues import Issue
from resnest_cli.inspection.survey import Survey

if TYPE_CHECKING:
    from resnest_cli.data.issue_kinds import Kind


def file_issues(survey: Survey) -> list[Issue]:
    """What is wrong with single files; see the table of limits above."""
    found = []
    for photo, kind in survey.bad:
        what: Kind = "truncated" if kind == "truncated" else "unreadable"
        found.append(
            Issue(photo.name, what, 1.0, detail=photo.error, label=photo.label, side=photo.side)
        )
    return found
