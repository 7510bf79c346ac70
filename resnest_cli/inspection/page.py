"""The page of `resnest check --html`: what was found, as pictures side by side."""

from collections.abc import Sequence

from resnest_cli.data.issue_kinds import KINDS, Kind
from resnest_cli.inspection.check import Findings
from resnest_cli.inspection.issues import COLUMNS, Issue, counts, csv_row_of
from resnest_cli.report.issues_page import (
    MOST_OF_A_KIND,
    IssueCard,
    IssueSection,
    IssuesPage,
    PhotoTile,
)
from resnest_cli.report.pages import PageTable
from resnest_cli.text import count, csv_row, percent


def issues_page(findings: Findings) -> IssuesPage:
    """The worst issues of each kind; those of classes as a table."""
    survey = findings.survey
    flagged = len({issue.path for issue in findings.issues if issue.kind != "class"})
    photos = {photo.name: photo for photo in survey.photos}
    photos |= {photo.name: photo for photo, _ in survey.bad}
    paths = {name: photo.path for name, photo in photos.items()}
    labels = {name: photo.label for name, photo in photos.items()}
    number = count(findings.photos, "photo")
    page = IssuesPage(
        title=f"{findings.job.data}: what is wrong with it",
        subtitle=f"{number} of {count(len(survey.class_names), 'class', 'classes')}, looked at "
        f"with {findings.model}. Nothing was deleted or moved.",
        header=csv_row(COLUMNS).rstrip("\n"),
        figures=[
            ("Photos with an issue", f"{flagged:,}", percent(flagged / max(1, findings.photos))),
            *_figures(findings.issues),
        ],
        notes=[*findings.notes, *([] if findings.issues else ["Nothing was found."])],
    )
    for kind in KINDS:
        found = [issue for issue in findings.issues if issue.kind == kind]
        if found and kind != "class":
            shown = [_card(issue, paths, labels) for issue in found[:MOST_OF_A_KIND]]
            page.sections.append(IssueSection(kind, KINDS[kind].title, shown, len(found)))
    if classes := [issue for issue in findings.issues if issue.kind == "class"]:
        rows = [[one.path, one.partner, one.detail, f"{one.score:.2f}"] for one in classes]
        columns = ["Class", "Other class", "What", "Score"]
        page.tables.append(PageTable("Classes", columns, rows, frozenset({3})))
    return page


def _figures(issues: Sequence[Issue]) -> list[tuple[str, str, str]]:
    """The number of issues of each group of kinds, with those of each kind."""
    found = counts(issues)
    groups: dict[str, list[Kind]] = {}
    for kind, info in KINDS.items():
        groups.setdefault(info.group, []).append(kind)
    figures = []
    for group, kinds in groups.items():
        each = [f"{found[kind]:,} {kind}" for kind in kinds if found[kind]]
        note = ", ".join(each) if len(kinds) > 1 else ""
        figures.append((group.capitalize(), f"{sum(found[kind] for kind in kinds):,}", note))
    return figures


def _card(issue: Issue, paths: dict[str, str], labels: dict[str, str]) -> IssueCard:
    partner = None
    if issue.partner in paths:
        partner = PhotoTile(issue.partner, labels[issue.partner], paths[issue.partner])
    side = f" ({issue.side})" if issue.side else ""
    suggested = f"Rather {issue.suggestion}? " if issue.kind == "label" else ""
    try:
        row = csv_row_of(issue).rstrip("\n")
        row.encode("utf-8")
    except UnicodeEncodeError:  # no page can hold such a name
        row = ""
    return IssueCard(
        PhotoTile(issue.path, f"{issue.label}{side}", paths.get(issue.path, "")),
        partner,
        issue.label,
        issue.side or "",
        suggested + (issue.detail or f"score {issue.score:.3f}"),
        row,
    )
