"""The library's `Features`: photos computed by the very model that made the rows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resnest_cli import Features
from resnest_cli.errors import ImageError, UsageError
from tests.conftest import Cli, make_photo
from tests.search.outputs import brute_force, write_output


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    return [make_photo(folder / f"{number}.png", seed=number) for number in range(6)]


def test_photos_find_themselves(
    cli: Cli, photos: list[Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for number, how in enumerate((
        ["--dtype", "float16", "--img-size", "64", "--crop-pct", "0.6", "--no-exif"],
        ["--stage", "2", "--pool", "none", "--crop-mode", "squash", "--interpolation", "bilinear"],
        ["--normalize", "l2", "--crop-mode", "border", "--fast-decode"],
    )):  # fmt: skip
        place = tmp_path / f"{number}.npy"
        assert cli("features", *photos, "-m", tiny_checkpoint, "-o", place, *how).code == 0
        features = Features.open(place)
        rows = features.of([*map(str, photos[2:4])])
        assert rows.dtype == features.rows.dtype
        # One photo a batch instead of six: the last bits may differ.
        np.testing.assert_allclose(rows, features.rows[2:4], rtol=2e-3, atol=1e-3)
        found = features.search(rows, 2, "euclidean")
        assert found.rows[:, 0].tolist() == [2, 3]
        assert features.of(photos[1]).shape == (1, features.rows.shape[1])


def test_search_duplicates_and_nearest(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    rows[30] = rows[4]
    features = Features.open(write_output(tmp_path / "f.npy", rows))
    for metric in ("cosine", "euclidean", "dot"):
        wanted, scores = brute_force(rows[:3], rows, 7, metric)
        found = features.search(rows[:3], 7, metric)
        assert np.array_equal(found.rows, wanted)
        assert np.array_equal(found.scores, scores)
        one = features.search(rows[0], 7, metric)
        assert np.array_equal(one.rows, wanted[:1])
    assert [group.tolist() for group in features.duplicates(0.9999)] == [[4, 30]]
    assert [group.tolist() for group in features.duplicates(0, "euclidean")] == [[4, 30]]
    assert features.scores(4, np.array([4, 30])).tolist() == [1, 1]
    (found,) = features.nearest(2)
    assert found.rows[4, 0] == 30
    for bad in (lambda: features.search(rows[:3], 0), lambda: features.search(rows[:, :5]),
                lambda: features.duplicates(0.9, "dot"), lambda: list(features.nearest(0)),
                lambda: features.search(rows[0], 1, "manhattan"),
                lambda: features.search("dog.jpg")):  # fmt: skip
        with pytest.raises(ValueError, match=r"k must be|which `of` makes|duplicates|metric"):
            bad()


def test_the_model_is_found_by_its_hash_and_no_other_is_taken(
    cli: Cli, photos: list[Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = tmp_path / "mine.safetensors"
    shutil.copy(tiny_checkpoint, model)
    place = tmp_path / "f.npy"
    assert cli("features", *photos, "-m", model, "-o", place).code == 0
    assert Features.open(place).of(photos[0]).shape == (1, 128)
    moved = model.rename(tmp_path / "moved.safetensors")
    sha256 = json.loads(place.with_suffix(".json").read_text())["weights_sha256"]
    with pytest.raises(UsageError, match=r"say with --model where their file is now") as refusal:
        Features.open(place).of(photos[0])
    assert f"made with weights {sha256[:8]} of " in str(refusal.value)
    refused = cli("search", place, photos[0])
    assert (refused.code, refused.out) == (2, "")
    assert "say with --model" in refused.err
    found = cli("search", place, photos[0], "-m", moved, "--format", "json")
    assert found.code == 0
    assert json.loads(found.out)["neighbours"][0]["row"] == 0
    assert cli("search", place, photos[0]).code == 0  # the hash of its new place is remembered
    refused = cli("search", place, photos[0], "-m", "demo")
    assert refused.code == 2
    assert f"{place} was made with weights {sha256[:8]}" in refused.err
    assert "features of two models cannot be compared" in refused.err


def test_another_mean_is_refused(cli: Cli, photos: list[Path], tiny_checkpoint: Path,
                                 tmp_path: Path) -> None:  # fmt: skip
    place = tmp_path / "f.npy"
    assert cli("features", *photos, "-m", tiny_checkpoint, "-o", place).code == 0
    record = json.loads(place.with_suffix(".json").read_text())
    record["preprocessing"]["mean"] = [0.5, 0.5, 0.5]
    place.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"photos with mean \[0.5, 0.5, 0.5\]"):
        Features.open(place).of(photos[0])


def test_the_bundled_model_is_found_by_its_name(cli: Cli, photos: list[Path],
                                                tmp_path: Path) -> None:  # fmt: skip
    place = tmp_path / "f.npy"
    assert cli("features", *photos, "-m", "demo", "-o", place).code == 0
    shutil.rmtree(tmp_path / "resnest_home")
    features = Features.open(place)
    assert features.model == "resnest23t"
    found = cli("search", place, photos[3], "-k", "1")
    assert (found.code, found.err) == (0, "")  # no word on other models
    (photos[0].parent / "broken.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"broken\.png: is empty"):
        features.of([photos[1], photos[0].parent / "broken.png"])


def test_rows_are_searched_without_an_engine(tmp_path: Path) -> None:
    rows = np.eye(3, dtype=np.float32)
    place = write_output(tmp_path / "f.npy", rows)
    code = (
        "import sys; from resnest_cli import Features; f = Features.open(sys.argv[1]); "
        "print(f.search(f.rows[:1], 1).rows.tolist(), [m for m in ('torch', 'onnxruntime', "
        "'sklearn', 'scipy', 'pyarrow', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout == "[[0]] []\n"
