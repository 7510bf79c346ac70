"""Copies: pairs of every kind of change are found, others are not; groups, classes and sides."""

import io

import numpy as np
import pytest
from PIL import Image

from resnest_cli.inspection import neighbours
from resnest_cli.inspection.alignment import similarity
from resnest_cli.inspection.copies import find_copies
from resnest_cli.inspection.issues import Issue
from resnest_cli.inspection.neighbours import candidates
from resnest_cli.inspection.photo_facts import facts_of
from resnest_cli.signals import StoppedError
from tests.inspection.making import CHANGES, changed, picture, survey_of


def recompressed(photo: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def copy_of(photo: Image.Image, change: str) -> Image.Image:
    return recompressed(changed(photo, change), 25 if change == "recompressed" else 85)


def of_kind(issues: list[Issue], kind: str) -> dict[str, str]:
    """Paths with their partners."""
    return {issue.path: issue.partner for issue in issues if issue.kind == kind}


def test_similarity_of_copies_and_of_others() -> None:
    photos = [picture(seed) for seed in range(6)]
    copies = [copy_of(photo, change) for photo, change in zip(photos, CHANGES, strict=True)]
    thumbnails = np.stack([facts_of(photo)["thumbnail"] for photo in [*photos, *copies]])
    pairs = np.array([(place, place + 6) for place in range(6)])
    alike = similarity(thumbnails, pairs)
    assert alike.min() > 0.9, dict(zip(CHANGES, alike, strict=True))
    other = similarity(thumbnails, np.array([(a, b) for a in range(6) for b in range(a + 1, 6)]))
    assert other.max() < 0.5
    assert similarity(thumbnails, pairs[:, ::-1]) == pytest.approx(alike, abs=0.05)


def test_every_change_is_found_and_nothing_else() -> None:
    photos = [picture(seed) for seed in range(60)]
    copies = [copy_of(photos[place], change) for place, change in enumerate(CHANGES)]
    # Features of noise: pictures alone find them, at 60 photos with 8 neighbours each.
    found = find_copies(survey_of([*photos, *copies]))
    near = of_kind(found.issues, "near-copy")
    pairs = {frozenset(pair) for pair in near.items()}
    assert pairs == {frozenset((f"{place}.jpg", f"{60 + place}.jpg")) for place in range(6)}
    assert len(near) == 6
    assert {issue.kind for issue in found.issues} == {"near-copy"}
    assert all(0.9 <= issue.score <= 1 for issue in found.issues)
    groups = found.groups
    assert all(groups[place] == groups[60 + place] for place in range(6))
    assert len(set(groups.tolist())) == 60


def test_identical_pixels_are_copies_of_the_one_that_is_kept() -> None:
    first, other = picture(1), picture(2)
    twin = Image.fromarray(np.asarray(first).copy())
    small = first.resize((60, 45))
    found = find_copies(survey_of([small, first, twin, other]))
    assert of_kind(found.issues, "copy") == {"2.jpg": "1.jpg"}
    assert of_kind(found.issues, "near-copy") == {"0.jpg": "1.jpg"}  # the larger one is kept
    assert {issue.group for issue in found.issues} == {1}
    assert [issue.score for issue in found.issues if issue.kind == "copy"] == [1.0]


def test_contradictions_name_the_class_of_most() -> None:
    photos = [picture(1), changed(picture(1), "scaled"), changed(picture(1), "mirrored")]
    found = find_copies(survey_of([*photos, picture(5)], ["cat", "cat", "dog", "dog"]))
    (issue,) = [one for one in found.issues if one.kind == "contradiction"]
    assert (issue.path, issue.label, issue.suggestion) == ("2.jpg", "dog", "cat")
    assert issue.partner in {"0.jpg", "1.jpg"}
    found = find_copies(survey_of([photos[0], photos[2], picture(5)], ["cat", "dog", "dog"]))
    both = of_kind(found.issues, "contradiction")
    assert both == {"0.jpg": "1.jpg", "1.jpg": "0.jpg"}
    assert all(one.suggestion == "" for one in found.issues if one.kind == "contradiction")


def test_leaks_are_those_that_do_not_train() -> None:
    photos = [changed(picture(1), "mirrored"), picture(1), picture(2), picture(2), picture(3)]
    sides = ["train", "val", "test", "val", "train"]
    found = find_copies(survey_of(photos, None, sides))
    assert of_kind(found.issues, "leak") == {"1.jpg": "0.jpg", "2.jpg": "3.jpg"}
    # The one that trains is kept, although the other is as large.
    assert of_kind(found.issues, "near-copy") == {"1.jpg": "0.jpg"}


def test_one_picture_under_many_classes_is_a_placeholder() -> None:
    photos = [picture(9) for _ in range(4)] + [picture(seed) for seed in range(4)]
    labels = ["a", "b", "c", "a", "a", "b", "c", "c"]
    found = find_copies(survey_of(photos, labels))
    assert set(of_kind(found.issues, "placeholder")) == {f"{n}.jpg" for n in range(4)}
    assert not of_kind(found.issues, "copy")
    # Of one class they are copies like others.
    found = find_copies(survey_of(photos, ["a"] * 4 + labels[4:]))
    assert len(of_kind(found.issues, "copy")) == 3
    assert not of_kind(found.issues, "placeholder")


@pytest.mark.parametrize("width", [24, 64])  # fewer than the photos, and more
def test_blocks_of_any_size_give_the_same_neighbours(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    draw = np.random.default_rng(3)
    features = draw.normal(size=(90, width)).astype(np.float32)
    thumbnails = draw.integers(0, 256, (90, 32, 32), dtype=np.uint8)
    places = np.arange(0, 90, 2)
    whole = candidates(features, thumbnails, places)
    assert set(np.unique(whole)) == set(places)
    assert (whole[:, 0] < whole[:, 1]).all()
    # As all pairs give them, by features.
    mean = features[places] / np.linalg.norm(features[places], axis=1, keepdims=True)
    mean -= mean.mean(axis=0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    cosines = mean @ mean.T
    np.fill_diagonal(cosines, -2)
    nearest = {tuple(sorted((places[a], places[b]))) for a, b in enumerate(cosines.argmax(axis=1))}
    assert nearest <= set(map(tuple, whole.tolist()))
    monkeypatch.setattr(neighbours, "_ROWS", 7)
    monkeypatch.setattr(neighbours, "_COLUMNS", 11)
    assert np.array_equal(candidates(features, thumbnails, places), whole)


def test_few_photos_and_flat_ones() -> None:
    flat = Image.new("RGB", (50, 50), (90, 90, 90))
    grey = Image.new("RGB", (50, 50), (91, 91, 91))
    assert not find_copies(survey_of([picture(1)])).issues
    assert not find_copies(survey_of([flat, grey, picture(1)])).issues  # nothing to compare


def test_a_stop_is_answered() -> None:
    def check() -> None:
        raise StoppedError("interrupted")

    with pytest.raises(StoppedError):
        find_copies(survey_of([picture(seed) for seed in range(4)]), check=check)
