"""What `resnest check` does: labelled photos -> issues, ranked.

    list the photos    as `finetune` does (`data.class_folders`), all sides of a split
    look at each       once (`survey`): facts, thumbnail, features; kept in the cache
    then               files, copies, labels, outliers, classes: each a list of `Issue`

Whatever can be computed from what is kept is computed again each time: it takes a moment beside
decoding.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli import __version__
from resnest_cli.data.class_folders import list_data
from resnest_cli.data.issue_kinds import KINDS
from resnest_cli.data.label_sets import LabelCounts, count_labels, most_together
from resnest_cli.data.labelled_photos import AS_FOUND, Reading
from resnest_cli.data.shards import is_shards
from resnest_cli.errors import UsageError, need
from resnest_cli.images.pool import Decoders
from resnest_cli.inspection.issues import Issue, counts, csv_text, ranked
from resnest_cli.options import ModelOptions, RunOptions
from resnest_cli.progress import Progress, silent
from resnest_cli.report.pages import write_texts
from resnest_cli.text import count

if TYPE_CHECKING:
    from resnest_cli.data.labelled_photos import LabelledData
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.inspection.survey import Int64, Survey

_BELIEVED = 0.2  # of the photos may have labels that look wrong

Make = Callable[..., "Classifier"]  # of a model


@dataclass(frozen=True, slots=True)
class CheckJob:
    """What was asked for; see the options of `resnest check`."""

    data: str
    options: RunOptions
    model: ModelOptions
    reading: Reading = AS_FOUND


@dataclass(frozen=True, slots=True)
class Findings:
    """The issues, ranked; what the data are; and notes for the user to read.

    `label_counts` has a side or all photos by its title, where a photo may have several labels.
    """

    job: CheckJob
    issues: tuple[Issue, ...]
    survey: "Survey"
    model: str
    notes: tuple[str, ...]
    label_counts: Mapping[str, LabelCounts] = field(default_factory=dict)

    @property
    def photos(self) -> int:
        """How many photos there are, readable or not."""
        return len(self.survey.photos) + len(self.survey.bad)


def check_data(
    job: CheckJob,
    make: Make,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> Findings:
    """Looks over labelled photos. `make` gives a classifier; `check` may raise to stop.

    Raises:
        UsageError: the data have no photos, or are tar shards.
        ResnestError: the model or the data cannot be had.
        StoppedError: as `check` raised it; what was found of photos is kept.
    """
    listing = _listed(job)
    # Only now: these import numpy.
    from resnest_cli.inspection.bad_files import file_issues
    from resnest_cli.inspection.copies import find_copies
    from resnest_cli.inspection.survey import Surveyor

    need("sklearn", "check")  # before anything slow begins
    classifier = make(job.model, ready_for="features")
    with Decoders.of(job.options, job.model) as decoders:
        how = job.options.batch_size, job.options.workers
        surveyor = Surveyor(classifier, decoders, *how)
        survey = surveyor.survey(job.data, listing, progress, check)
    issues, notes = file_issues(survey)
    if survey.photos:
        copies = find_copies(survey, progress, check)
        issues += copies.issues
        issues += _of_features(survey, copies.groups, progress, check)
    issues, model = _without_consequences(issues), classifier.model.name
    issues = [replace(issue, also=survey.also.get(issue.path, ())) for issue in issues]
    notes = [*listing.notes, *notes, *_doubts(issues, len(survey.photos), model)]
    return Findings(
        job, tuple(ranked(issues)), survey, model, tuple(notes), _counted(listing, survey)
    )


def _counted(listing: "LabelledData", survey: "Survey") -> Mapping[str, LabelCounts]:
    """How often labels stand on each side, where a photo may have several."""
    sides = dict.fromkeys(photo.side for photo in survey.photos) if listing.multi_label else {}
    return {
        (side or "photos").capitalize(): count_labels(
            listing.labels_of(photo) for photo in survey.photos if photo.side == side
        )
        for side in sides
    }


def _doubts(issues: list[Issue], photos: int, model: str) -> list[str]:
    """A note where so many labels look wrong that the features must be at fault."""
    wrong = len({issue.path for issue in issues if KINDS[issue.kind].group == "labels"})
    if wrong <= _BELIEVED * photos:
        return []
    return [
        f"label: {wrong:,} of {count(photos, 'photo')} look wrong, too many to believe: features "
        f"of {model} hardly tell these classes apart. Give another --model, or more photos."
    ]


def _without_consequences(issues: list[Issue]) -> list[Issue]:
    """The issues less those that another of the photo explains.

    A placeholder is of one colour, unlike its class, and so on; a blank page is bright as well.
    """
    placeholders = {issue.path for issue in issues if issue.kind == "placeholder"}
    uniform = {issue.path for issue in issues if issue.kind == "uniform"}
    return [
        issue
        for issue in issues
        if issue.kind in {"placeholder", "leak", "class"}
        or not (
            issue.path in placeholders
            or (issue.path in uniform and issue.kind in {"bright", "outlier"})
        )
    ]


def _of_features(
    survey: "Survey",
    groups: "Int64",
    progress: Progress,
    check: Callable[[], None],
) -> list[Issue]:
    """What the features say of labels, odd photos and classes."""
    from resnest_cli.inspection import label_sets, labels
    from resnest_cli.inspection.classes import class_issues
    from resnest_cli.inspection.outliers import outlier_issues

    features, members, names = survey.features, survey.members, survey.class_names
    how: dict[str, Any] = {"groups": groups, "progress": progress, "check": check}
    about = names, survey.photos, groups
    if survey.multi_label:
        probabilities = label_sets.out_of_sample(features, members, **how)
        wrong = list(label_sets.label_issues(probabilities, features, members, *about))
        probabilities = label_sets.likelihood_ratios(probabilities, members)
    else:
        probabilities = labels.out_of_sample(features, survey.labels, len(names), **how)
        wrong = labels.label_issues(probabilities, features, survey.labels, *about)
    apart_from = {issue.path for issue in wrong}
    odd = outlier_issues(features, members, survey.photos, apart_from=apart_from, **how)
    return [*wrong, *odd, *class_issues(probabilities, members, names, groups)]


def _listed(job: CheckJob) -> "LabelledData":
    """The photos of the data, of all sides."""
    if is_shards(job.data):
        raise UsageError(
            f"{job.data}: are tar shards; check looks at photos in files, which it can name and "
            "you can mend. Give the class folders or the table that the shards were packed from."
        )
    return list_data(job.data, job.reading)


def summary(findings: Findings) -> dict[str, Any]:
    """`summary.json`, and `--format json`: counts, the worst of each kind, how it was made."""
    survey = findings.survey
    found = counts(findings.issues)
    return {
        "data": findings.job.data,
        "photos": findings.photos,
        "readable": len(survey.photos),
        "classes": len(survey.class_names),
        **({"labels": _as_json(findings.label_counts)} if survey.multi_label else {}),
        "model": findings.model,
        "version": __version__,
        "issues": {kind: number for kind, number in found.items() if number},
        "flagged": len({one.path for one in findings.issues if one.kind != "class"}),
        "worst": {
            kind: [_record(one) for one in findings.issues if one.kind == kind][:5]
            for kind in KINDS
            if found[kind]
        },
        "notes": list(findings.notes),
    }


def _as_json(counts: Mapping[str, LabelCounts]) -> dict[str, Any]:
    """Of each side how many photos there are of each label, and of the commonest pairs."""
    pairs = most_together(counts.values())
    return {
        title.lower(): {
            "photos": side.photos,
            "unlabelled": side.unlabelled,
            "counts": dict(sorted(side.labels.items())),
            "together": [[*pair, side.pairs[pair]] for pair in pairs],
        }
        for title, side in counts.items()
    }


def write_findings(folder: Path, findings: Findings) -> None:
    """Writes `issues.csv` and `summary.json`, each whole or not at all."""
    as_json = json.dumps(summary(findings), indent=2) + "\n"
    write_texts(folder, {"issues.csv": csv_text(findings.issues), "summary.json": as_json})


def _record(issue: Issue) -> dict[str, Any]:
    return {
        "path": issue.path, "score": round(issue.score, 4), "partner": issue.partner,
        "suggestion": issue.suggestion, "detail": issue.detail,
        "class": issue.label, "split": issue.side,
    }  # fmt: skip
