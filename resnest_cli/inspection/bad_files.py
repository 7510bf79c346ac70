"""Photos that are no use as they are: not readable, tiny, of one colour, dark, blurred.

What cannot be read is an issue wherever it occurs. The others are measured, and flagged beyond a
limit that is the stricter one of two: of all photos, and of these data, in which handwritten digits
may be 8 pixels wide, and X-rays dark, without being worse than the others.

    kind      measured                                    limit   of these data
    tiny      shorter side in pixels                      64      a third of the median
    shape     longer side / shorter side                  4       twice the 95th percentile
    uniform   contrast: standard deviation of grey        8       a quarter of the median
              or share of the commonest grey              0.9     half of the rest beyond the 95th
    dark      grey of its lightest parts (95 % below)     50      a third of the median
    bright    255 less that of its darkest (5 % below)    50      a third of the median
    blurred   variance of the Laplacian / contrast²       0.3     a third of the median, and
                                                                  4 robust deviations in logarithms

Greys are from 0 to 255. Of each of these kinds at most `_SHARE` of the photos are flagged, the
worst, and a note says so: what is usual is no issue.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli.data.issue_kinds import Kind
from resnest_cli.inspection.issues import Issue
from resnest_cli.inspection.photo_facts import Facts
from resnest_cli.inspection.survey import Survey

Float64 = NDArray[np.float64]

_SHARE, _FEW = 0.02, 5  # of the photos, and photos, that may be flagged in any case
_NOISE = 10.0  # squared levels: what rounding adds to a contrast


class _Measure(NamedTuple):
    """A kind: what is measured of N photos, the limit, from which less is worse, and the words."""

    kind: Kind
    values: Float64
    limit: float
    detail: list[str]


def file_issues(survey: Survey) -> tuple[list[Issue], list[str]]:
    """What is wrong with single files, and notes for the user."""
    found = [
        Issue(
            photo.name,
            "truncated" if kind == "truncated" else "unreadable",
            1.0,
            suggestion="leave out",
            detail=photo.error,
            label=photo.label,
            side=photo.side,
        )
        for photo, kind in survey.bad
    ]
    notes = []
    most = max(_FEW, int(_SHARE * len(survey.photos)))
    for measure in _measures(survey.facts) if len(survey.photos) else ():
        flagged = np.flatnonzero(measure.values < measure.limit)
        if len(flagged) > most:
            notes.append(
                f"{measure.kind}: {len(flagged):,} photos are beyond the limit, too many to be "
                f"exceptions; the worst {most:,} are listed."
            )
        worst = flagged[np.argsort(measure.values[flagged], kind="stable")][:most]
        found += [_issue(survey, measure, int(place)) for place in worst]
    return found, notes


def _issue(survey: Survey, measure: _Measure, place: int) -> Issue:
    photo = survey.photos[place]
    score = float(np.clip(1 - measure.values[place] / measure.limit, 0, 1))
    detail = measure.detail[place]
    return Issue(
        photo.name, measure.kind, score, suggestion="look at it", detail=detail,
        label=photo.label, side=photo.side,
    )  # fmt: skip


def _measures(facts: Facts) -> Iterator[_Measure]:
    """All kinds that are measured, as numbers of which less is worse."""
    sides = np.stack((facts["width"], facts["height"])).astype(np.float64)
    size = [f"{w} x {h} pixels" for w, h in zip(facts["width"], facts["height"], strict=True)]
    shorter, ratio = sides.min(0), sides.min(0) / sides.max(0)
    yield _Measure("tiny", shorter, min(64, np.median(shorter) / 3), size)
    yield _Measure("shape", ratio, min(1 / 4, np.percentile(ratio, 5) / 2), size)
    contrast = facts["contrast"].astype(np.float64)
    yield _uniform(contrast, facts["flat"].astype(np.float64))
    for kind, values, word in (
        ("dark", facts["high"].astype(np.float64), "lightest parts: grey {:.0f} of 255"),
        ("bright", 255 - facts["low"].astype(np.float64), "darkest parts: grey {:.0f} of 255"),
    ):
        shown = values if kind == "dark" else 255 - values
        detail = [word.format(value) for value in shown]
        limit = min(50.0, float(np.median(values)) / 3)
        yield _Measure("dark" if kind == "dark" else "bright", values, limit, detail)
    sharp = facts["sharpness"] / (contrast**2 + _NOISE)
    logs = np.log(sharp + 1e-6)
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle))
    limit = min(0.3, float(np.exp(middle)) * min(1 / 3, float(np.exp(-4 * spread))))
    flat = contrast < min(8, np.median(contrast) / 4)  # there is nothing to be sharp
    detail = [f"sharpness {value:.3g}, usual {np.exp(middle):.3g}" for value in sharp]
    yield _Measure("blurred", np.where(flat, np.inf, sharp), limit, detail)


def _uniform(contrast: Float64, flat: Float64) -> _Measure:
    """Nearly one colour: by contrast, or by how much of the photo has the same grey."""
    by_contrast = contrast / min(8.0, float(np.median(contrast)) / 4 + 1e-9)
    usual = float(np.percentile(flat, 95))
    by_share = (1 - flat) / min(0.1, (1 - usual) / 2 + 1e-9)
    detail = [
        f"contrast {one:.1f} of 255, {share:.0%} of one grey"
        for one, share in zip(contrast, flat, strict=True)
    ]
    return _Measure("uniform", np.minimum(by_contrast, by_share), 1.0, detail)
