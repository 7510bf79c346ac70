"""The page of `resnest check --html`: what was found, as pictures side by side."""

from collections.abc import Iterator, Mapping, Sequence

from resnest_cli.data.issue_kinds import KINDS, Kind
from resnest_cli.data.label_sets import most_together, shown_label, split_labels
from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.inspection.check import Findings
from resnest_cli.inspection.issues import COLUMNS, Issue, counts, csv_rows_of
from resnest_cli.inspection.survey import Survey
from resnest_cli.report.issues_page import (
    MOST_OF_A_KIND,
    IssueCard,
    IssueSection,
    IssuesPage,
    PhotoTile,
)
from resnest_cli.report.pages import PageTable
from resnest_cli.text import count, csv_row, percent, short_name


def issues_page(findings: Findings) -> IssuesPage:
    """The worst issues of each kind; those of classes as a table."""
    survey = findings.survey
    flagged = len({issue.path for issue in findings.issues if issue.kind != "class"})
    photos = {photo.name: photo for photo in survey.photos}
    photos |= {photo.name: photo for photo, _ in survey.bad}
    number = count(findings.photos, "photo")
    page = IssuesPage(
        title=f"{short_name(findings.job.data)}: what is wrong with it",
        subtitle=f"{number} of {count(len(survey.class_names), 'class', 'classes')}, looked at "
        f"with {short_name(findings.model)}. Nothing was deleted or moved.",
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
            shown = [_card(issue, photos, survey) for issue in found[:MOST_OF_A_KIND]]
            page.sections.append(IssueSection(kind, KINDS[kind].title, shown, len(found)))
    if classes := [issue for issue in findings.issues if issue.kind == "class"]:
        rows = [[one.path, one.partner, one.detail, f"{one.score:.2f}"] for one in classes]
        columns = ["Class", "Other class", "What", "Score"]
        page.tables.append(PageTable("Classes", columns, rows, frozenset({3})))
    page.tables += _label_tables(findings)
    return page


def _label_tables(findings: Findings) -> Iterator[PageTable]:
    """How often labels stand, alone and together, where a photo may have several."""
    sides = findings.label_counts.values()
    if not sides:
        return
    columns = list(findings.label_counts)
    numbers = frozenset(range(1, len(columns) + 1))
    rows = [
        [name, *(f"{side.labels[name]:,}" for side in sides)]
        for name in findings.survey.class_names
    ]
    rows.append([shown_label(""), *(f"{side.unlabelled:,}" for side in sides)])
    yield PageTable("Labels", ["Class", *columns], rows, numbers)
    pairs = [
        [", ".join(pair), *(f"{side.pairs[pair]:,}" for side in sides)]
        for pair in most_together(sides)
    ]
    yield PageTable("Together most often", ["Classes", *columns], pairs, numbers)


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


def _card(issue: Issue, photos: Mapping[str, LabelledPhoto], survey: Survey) -> IssueCard:
    partner, label = None, shown_label(issue.label)
    if other := photos.get(issue.partner):
        partner = PhotoTile(other.name, shown_label(other.label), other.path)
    side = f" ({issue.side})" if issue.side else ""
    asked = {"label": "Rather {}? ", "missing": "Also {}? "}.get(issue.kind, "")
    try:
        rows = csv_rows_of(issue).rstrip("\n")
        rows.encode("utf-8")
    except UnicodeEncodeError:  # no page can hold such a name
        rows = ""
    return IssueCard(
        PhotoTile(issue.path, f"{label}{side}", photos[issue.path].path),
        partner,
        (split_labels(issue.label) if survey.multi_label else ()) or (label,),
        issue.side or "",
        asked.format(issue.suggestion) + (issue.detail or f"score {issue.score:.3f}"),
        rows,
    )
