"""The survey: photos are looked at once, and what was seen outlives stops, kills and damage."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from resnest_cli import Classifier
from resnest_cli.data.class_folders import list_data
from resnest_cli.images.pool import Decoders
from resnest_cli.inspection import survey as survey_module
from resnest_cli.inspection.survey import Survey, Surveyor
from resnest_cli.signals import StoppedError
from tests.inspection.making import picture, save

Look = Callable[..., Survey]


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> Classifier:
    return Classifier(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(2) as pool:
        yield pool


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of six photos, one of them cut off, and one that is none."""
    for seed in range(12):
        save(picture(seed, (64, 48)), tmp_path / "data" / "ab"[seed % 2] / f"{seed:02}.jpg")
    cut = tmp_path / "data" / "a" / "04.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    (tmp_path / "data" / "b" / "99.jpg").write_bytes(b"no photo")
    return tmp_path / "data"


@pytest.fixture
def look(classifier: Classifier, decoders: Decoders, data: Path) -> Look:
    def run(check: Callable[[], None] = lambda: None) -> Survey:
        listing = list_data(str(data))
        return Surveyor(classifier, decoders, 4, 2).survey(str(data), listing, check=check)

    return run


def test_facts_features_and_bad_photos(look: Look, data: Path, classifier: Classifier) -> None:
    found = look()
    assert found.computed == 13
    assert len(found.photos) == 11
    assert found.class_names == ("a", "b")
    assert found.labels.tolist() == [0] * 5 + [1] * 6
    kinds = {photo.name: kind for photo, kind in found.bad}
    assert kinds == {"a/04.jpg": "truncated", "b/99.jpg": "not an image"}
    assert all(photo.error for photo, _ in found.bad)
    one = found.facts[0]
    assert (one["width"], one["height"]) == (64, 48)
    assert one["bytes"] == (data / "a" / "00.jpg").stat().st_size
    assert isinstance(found.features, np.memmap)
    expected = classifier.features([photo.path for photo in found.photos])
    assert found.features == pytest.approx(expected, abs=1e-4)


def test_a_second_run_looks_at_what_changed_alone(look: Look, data: Path) -> None:
    first = look()
    assert isinstance(first.features, np.memmap)
    features = Path(str(first.features.filename))
    written = features.stat().st_mtime_ns
    again = look()
    assert again.computed == 2  # those that cannot be read may be mended
    assert features.stat().st_mtime_ns == written
    assert np.array_equal(first.features, again.features)
    assert np.array_equal(first.facts, again.facts)
    save(picture(77, (64, 48)), data / "a" / "02.jpg")
    save(picture(4, (64, 48)), data / "a" / "04.jpg")  # which is mended
    (data / "b" / "01.jpg").unlink()
    save(picture(78, (64, 48)), data / "b" / "00.jpg")
    (data / "b" / "99.jpg").unlink()
    third = look()
    assert third.computed == 3
    assert not third.bad
    assert [photo.name for photo in third.photos][:6] == [f"a/{n:02}.jpg" for n in range(0, 12, 2)]
    old, new = ({p.name: row for p, row in zip(s.photos, s.features, strict=True)}
                for s in (first, third))  # fmt: skip
    assert np.array_equal(old["a/00.jpg"], new["a/00.jpg"])
    assert not np.array_equal(old["a/02.jpg"], new["a/02.jpg"])


def test_a_stop_keeps_what_was_done_and_changes_no_bit(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = look()
    monkeypatch.setenv("RESNEST_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(survey_module, "CHUNK", 4)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoppedError("interrupted")

    with pytest.raises(StoppedError):
        look(check)
    (folder,) = (tmp_path / "other" / "check").iterdir()
    assert len(list(folder.glob("chunk-*.npy"))) == 2
    # A chunk that a failing disk has cut is looked at again.
    damaged = folder / "chunk-00001.npy"
    os.truncate(damaged, damaged.stat().st_size - 100)
    found = look()
    assert found.computed == 13 - 4 + 1  # but for the first chunk, of which one cannot be read
    assert found.features.tobytes() == whole.features.tobytes()
    assert found.facts.tobytes() == whole.facts.tobytes()
    names = sorted(path.name.partition("-")[0] for path in folder.iterdir())
    assert names == ["features", "photos.npy"]


def test_another_network_has_its_own(look: Look, data: Path, decoders: Decoders) -> None:
    look()
    other = Classifier("demo", device="cpu", img_size=48)
    photos = list_data(str(data))
    found = Surveyor(other, decoders, 4, 2).survey(str(data), photos)
    assert found.computed == 13
    assert found.features.shape == (11, 1024)
    assert look().computed == 2


def test_nothing_readable(classifier: Classifier, decoders: Decoders, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.jpg").write_bytes(b"no photo")
    photos = list_data(str(tmp_path / "data"))
    for _ in range(2):
        found = Surveyor(classifier, decoders, 4, 2).survey(str(tmp_path / "data"), photos)
        assert len(found.bad) == 2
        assert found.features.shape[0] == 0
