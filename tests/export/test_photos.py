"""Which photos check, calibrate and measure."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli.errors import UsageError
from resnest_cli.export.int8 import planned
from resnest_cli.export.parity import batches, evenly, photos_of
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import preprocess
from resnest_cli.model.labels import labels_for
from resnest_cli.model.loading import find_model
from resnest_cli.model.training_photos import TrainingPhotos, digest_of
from tests.conftest import CLASSES, make_photo


def fill(folder: Path, names: tuple[str, ...], count: int) -> Path:
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            make_photo(folder / name / f"{index}.png", seed=100 * place + index)
    return folder


def test_evenly() -> None:
    assert evenly(range(3), 5) == [0, 1, 2]
    assert evenly(range(10), 5) == [1, 3, 5, 7, 9]
    assert evenly(range(100), 4) == [12, 37, 62, 87]
    chosen = evenly(range(1000), 333)
    assert len(set(chosen)) == 333
    assert max(b - a for a, b in itertools.pairwise(chosen)) <= 4


def test_class_folders_that_the_model_knows(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = fill(tmp_path / "data", CLASSES[:3], 4)
    plan = planned(str(data), find_model(str(tiny_checkpoint)), 100)
    assert len(plan.calibration) == len(plan.held_out) == 6
    assert not set(plan.calibration) & set(plan.held_out)
    assert {Path(path).parent.name for path in plan.calibration} == set(CLASSES[:3])
    assert plan.truth is not None
    assert all(CLASSES[plan.truth[path][0]] == Path(path).parent.name for path in plan.held_out)
    (note,) = plan.notes
    assert "Only 6 photos to calibrate" in note
    assert len(planned(str(data), find_model(str(tiny_checkpoint)), 2).calibration) == 2


def test_photos_trained_on_are_told(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = fill(tmp_path / "data", CLASSES[:3], 4)
    trained = TrainingPhotos.of(map(digest_of, photos_of(str(data))[:6]))
    model = replace(find_model(str(tiny_checkpoint)), trained_on=trained)
    plan = planned(str(data), model, 100)
    many = sum(path in photos_of(str(data))[:6] for path in plan.held_out)
    assert 0 < many < 6
    assert f"{many} of the 6 photos that measure top-1" in plan.notes[-1]


def test_folders_named_by_numbers_are_those_of_evaluate(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = fill(tmp_path / "data", tuple(map(str, range(12))), 1)
    known = find_model(str(tiny_checkpoint))
    plan = planned(str(data), replace(known, class_names=labels_for(12)), 100)
    assert plan.truth is not None
    assert plan.truth[str(data / "10" / "0.png")] == (2,)
    assert "sorted order (0, 1, 10, 11, 2" in plan.notes[0]


def test_a_split_of_the_datas_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    fill(tmp_path / "data" / "train", CLASSES[:2], 5)
    fill(tmp_path / "data" / "val", CLASSES[:2], 2)
    plan = planned(str(tmp_path / "data"), find_model(str(tiny_checkpoint)), 100)
    assert {Path(path).parts[-3] for path in plan.calibration} == {"train"}
    assert {Path(path).parts[-3] for path in plan.held_out} == {"val"}
    assert (len(plan.calibration), len(plan.held_out)) == (10, 4)


def test_unknown_folders_give_no_truth(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = fill(tmp_path / "data", ("cat", "penguin"), 3)
    plan = planned(str(data), find_model(str(tiny_checkpoint)), 100)
    assert plan.truth is None
    assert any("'penguin'" in note for note in plan.notes)
    flat = tmp_path / "flat"
    flat.mkdir()
    for index in range(4):
        make_photo(flat / f"{index}.png", seed=index)
    fill(flat, ("cat",), 2)  # beside loose photos a folder is no class
    plan = planned(str(flat), find_model(str(tiny_checkpoint)), 100)
    assert plan.truth is None
    assert len(plan.calibration) + len(plan.held_out) == 6


def test_too_few(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        photos_of(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="no photo"):
        photos_of(str(fill(tmp_path / "none", ("a",), 0)))
    one = fill(tmp_path / "one", ("cat",), 1)
    with pytest.raises(UsageError, match="one photo only"):
        planned(str(one), find_model(str(tiny_checkpoint)), 100)


def test_photos_are_prepared_as_predict_does(tiny_checkpoint: Path, tmp_path: Path) -> None:
    fed = find_model(str(tiny_checkpoint)).preprocessing
    data = fill(tmp_path / "data", ("cat",), 10)
    (data / "cat" / "3.png").write_bytes(b"no photo")
    seen: list[tuple[int, int]] = []
    bad: dict[str, str] = {}
    note = lambda done, total: seen.append((done, total))  # noqa: E731
    read = list(batches(photos_of(str(data)), fed, bad, note))
    paths = [path for names, _ in read for path in names]
    arrays = [array for _, batch in read for array in batch]
    assert len(paths) == len(arrays) == 9
    assert list(bad) == [str(data / "cat" / "3.png")]
    assert seen[-1] == (10, 10)
    for path, array in zip(paths, arrays, strict=True):
        assert (array == preprocess(decode(path), fed)).all()
