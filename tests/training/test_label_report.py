"""What a run's page has of several labels: thresholds, pairs, the worst photos first."""

from pathlib import Path

import numpy as np
import pytest

from resnest_cli.evaluation import thresholds
from resnest_cli.inference.ranking import Record
from resnest_cli.report.pages import Page
from resnest_cli.training.label_report import LabelAnswers
from resnest_cli.training.state import BestLabelAnswers

NAMES = ("cat", "dog", "sun")
TRUTH = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 1, 0]], np.bool_)
PROBABILITIES = np.array(
    [[0.9, 0.2, 0.1], [0.1, 0.95, 0.2], [np.nan] * 3, [0.2, 0.1, 0.4], [0.15, 0.6, 0.3]], np.float32
)


@pytest.fixture
def answers() -> LabelAnswers:
    return LabelAnswers.of(BestLabelAnswers(TRUTH, PROBABILITIES), NAMES, None)


def test_classes_and_pairs(answers: LabelAnswers) -> None:
    """The third photo was lost."""
    assert answers.places.tolist() == [0, 1, 3, 4]
    there = answers.places
    assert answers.limits == thresholds.fitted(TRUTH[there], PROBABILITIES[there])
    classes, pairs = answers.tables()
    assert [row[:2] for row in classes.rows] == [["cat", "2"], ["dog", "1"], ["sun", "0"]]
    assert pairs.rows == [["cat", "dog", "1"]]


def test_wanted_precision() -> None:
    strict = LabelAnswers.of(BestLabelAnswers(TRUTH, PROBABILITIES), NAMES, 1.0)
    assert strict.limits[1] == thresholds.NEVER  # the surest dog is none


def test_the_worst_photo_comes_first_with_what_is_missing_and_too_many(
    answers: LabelAnswers, tmp_path: Path
) -> None:
    limited = LabelAnswers(NAMES, answers.places, answers.truth, answers.probabilities,
                           (0.18, 0.5, 0.5))  # fmt: skip
    found = list(limited.mistakes(9))
    assert [place for place, _, _ in found] == [1, 3]
    assert [one[0] for one in limited.mistakes(1)] == [1]
    _, answer, truth = found[0]
    assert [(one.label, one.selected, one.rank) for one in answer] == [
        ("dog", True, 1), ("cat", False, 2)
    ]  # fmt: skip
    assert truth == ["cat"]
    page = Page("run", "")
    for place, predictions, labels in found:
        page.add(Record(f"{place}.png", "m", predictions=predictions, several=True), labels)
    page.add(Record("right.png", "m", several=True), [], right=True)
    assert [(card["truth"], card["wrong"], card["state"]) for card in page.cards] == [
        ("cat", "missing: cat; too many: dog", "wrong"),
        ("no label", "too many: cat", "wrong"),
        ("no label", "", "right"),
    ]
    page.write(tmp_path / "page.html")
    assert "it has cat<br>missing: cat; too many: dog" in (tmp_path / "page.html").read_text()
