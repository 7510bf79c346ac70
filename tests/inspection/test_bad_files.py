"""Bad files: what sticks out is flagged, what is usual in the data is not."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.inspection.bad_files import file_issues
from tests.inspection.making import changed, picture, survey_of

USUAL = [picture(seed) for seed in range(30)]


def flagged(odd: Sequence[Image.Image], usual: Sequence[Image.Image] = USUAL) -> dict:
    """The kinds of issues by place among the odd ones, and of the usual ones by -1."""
    issues, _ = file_issues(survey_of([*odd, *usual]))
    found: dict = {}
    for issue in issues:
        place = int(issue.path.removesuffix(".jpg"))
        found.setdefault(place if place < len(odd) else -1, set()).add(issue.kind)
        assert 0 < issue.score <= 1
    return found


ODD = {
    "tiny": picture(50).resize((32, 24)),
    "shape": picture(51, (700, 90)),
    "uniform": Image.fromarray((np.asarray(picture(52)) // 40 + 120).astype(np.uint8)),
    "dark": ImageEnhance.Brightness(picture(53)).enhance(0.12),
    "bright": Image.fromarray((235 + np.asarray(picture(54)) // 13).astype(np.uint8)),
    "blurred": changed(picture(55), "blurred"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_sticks_out(kind: str) -> None:
    found = flagged([ODD[kind]])
    assert kind in found.pop(0)
    assert not found


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "shape"])
def test_what_is_usual_in_the_data_is_no_issue(kind: str) -> None:
    def made(seed: int) -> Image.Image:
        array = np.asarray(picture(seed))
        return {
            "tiny": lambda: picture(seed).resize((8, 8)),
            "uniform": lambda: Image.fromarray((array // 40 + 120).astype(np.uint8)),
            "dark": lambda: ImageEnhance.Brightness(picture(seed)).enhance(0.12),
            "bright": lambda: Image.fromarray((235 + array // 13).astype(np.uint8)),
            "blurred": lambda: changed(picture(seed), "blurred"),
        }[kind]()

    assert not flagged([], [made(seed) for seed in range(30)])


def test_one_grey_nearly_everywhere_is_uniform() -> None:
    page = np.full((90, 120, 3), 255, np.uint8)
    page[40:44, 20:100:2] = 0  # a line of text
    assert "uniform" in flagged([Image.fromarray(page)])[0]


def test_photos_as_sharp_as_the_others_are_not_blurred() -> None:
    assert not flagged([], [picture(0)] * 4)
    assert not flagged([], [picture(0)])
    sharp = [picture(0)] * 8
    assert flagged([changed(picture(1), "blurred")], sharp) == {0: {"blurred"}}


def test_what_cannot_be_read_and_what_ends_too_early() -> None:
    bad = [
        (LabelledPhoto("/d/x.jpg", "x.jpg", "a", None, error="is truncated: 3 bytes"), "truncated"),
        (LabelledPhoto("/d/y.jpg", "y.jpg", "a", None, error="is empty (0 bytes)"), "empty"),
    ]
    issues, notes = file_issues(replace(survey_of(USUAL), bad=tuple(bad)))
    assert [(one.path, one.kind, one.detail) for one in issues] == [
        ("x.jpg", "truncated", "is truncated: 3 bytes"),
        ("y.jpg", "unreadable", "is empty (0 bytes)"),
    ]
    assert not notes


def test_at_most_a_few_are_flagged_and_a_note_says_so() -> None:
    dark = [ImageEnhance.Brightness(picture(seed)).enhance(0.1) for seed in range(100, 112)]
    issues, notes = file_issues(survey_of([*dark, *USUAL]))
    assert sum(issue.kind == "dark" for issue in issues) == 5
    assert any(note.startswith("dark: 12 photos are beyond the limit") for note in notes)
