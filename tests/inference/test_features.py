"""Features against timm on the same weights, and what the library gives."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from resnest_cli import Classifier
from resnest_cli.errors import ImageError, UsageError
from resnest_cli.inference.extraction import Extraction
from tests.conftest import make_photo

KINDS = [
    {},
    {"pool": "none"},
    *({"stage": n, "pool": "none"} for n in range(5)),
    *({"stage": n, "pool": "avg"} for n in (0, 4)),
    {"head": "logits"},
    {"head": "probabilities"},
]


@pytest.fixture(scope="module")
def weights(seeded_weights: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "lively.pth"
    path.write_bytes(seeded_weights)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.png", (100, 80), seed=i) for i in range(3)]


@pytest.fixture(scope="module")
def expected(weights: Path, photos: list[Path]):
    """What timm's guide to feature extraction gives for a kind, (N, ...)."""
    from PIL import Image

    state = torch.load(weights)

    def load(**options) -> torch.nn.Module:
        network = timm.create_model("resnest14d", **options).eval()
        network.load_state_dict(state, strict=not options)
        return network

    whole, maps = load(), load(features_only=True, out_indices=(0, 1, 2, 3, 4))
    headless = load(num_classes=0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=whole))
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in photos])

    @cache  # for both engines
    def compute(pool: str = "avg", stage: int | None = None, head: str | None = None):
        with torch.inference_mode():
            if head:
                logits = whole(batch)
                return logits if head == "logits" else logits.softmax(1)
            if stage is not None:
                found = maps(batch)[stage]
                return found if pool == "none" else found.mean((2, 3))
            return headless(batch) if pool == "avg" else headless.forward_features(batch)

    return compute


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_equal_to_timm_on_the_same_weights(
    engine: str, weights: Path, photos: list[Path], expected
) -> None:
    classifier = Classifier("resnest14d", weights=str(weights), engine=engine)
    for kind in KINDS:
        theirs = expected(**kind).numpy()
        ours = classifier.features(list(photos), **kind)
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape == (3, *theirs.shape[1:])
        shape = Extraction(**kind).row_shape(classifier.model, 224)
        assert shape == theirs.shape[1:], kind
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert error < 1e-5, (engine, kind, error)


@pytest.mark.parametrize("size", [33, 48, 63, 64, 65, 97])
def test_shapes_of_maps_are_known_beforehand(tiny_checkpoint: Path, photo: Path, size: int) -> None:
    classifier = Classifier(str(tiny_checkpoint), img_size=size)
    for stage in range(5):
        found = classifier.features(photo, stage=stage, pool="none")
        assert found.shape[1:] == Extraction("none", stage).row_shape(classifier.model, size)


def test_one_photo_a_list_and_an_iterator(tiny_checkpoint: Path, tmp_path: Path) -> None:
    classifier = Classifier(str(tiny_checkpoint))
    paths = [make_photo(tmp_path / f"{i}.png", seed=i) for i in range(20)]
    matrix = classifier.features(paths)
    assert (matrix.shape, matrix.dtype) == ((20, 128), np.float32)
    tolerance = {"rtol": 0, "atol": 1e-5 * np.abs(matrix).max()}
    np.testing.assert_allclose(classifier.features(paths[7]), matrix[7:8], **tolerance)
    assert classifier.features([]).shape == (0, 128)
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield paths[len(asked) % 20]

    rows = classifier.features(endless())
    first = [next(rows) for _ in range(3)]
    assert len(asked) < 60
    np.testing.assert_allclose(np.stack(first), matrix[1:4], **tolerance)


def test_a_photo_that_cannot_be_read(tiny_checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    classifier = Classifier(str(tiny_checkpoint))
    gone = tmp_path / "gone.jpg"
    with pytest.raises(ImageError, match=r"gone\.jpg: does not exist"):
        classifier.features([photo, gone])
    with pytest.raises(ImageError):
        classifier.features(gone)
    rows = list(classifier.features(iter([photo, gone, photo])))
    assert isinstance(rows[1], ImageError)
    assert "gone.jpg" in str(rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


def test_kinds_that_do_not_exist(tiny_checkpoint: Path, photo: Path) -> None:
    classifier = Classifier(str(tiny_checkpoint))
    for kind in ({"stage": 5}, {"stage": -1}, {"head": "logits", "stage": 1},
                 {"head": "logits", "pool": "none"}):  # fmt: skip
        with pytest.raises(UsageError):
            classifier.features(photo, **kind)


def test_l2_is_torchs_normalize() -> None:
    maps = np.random.default_rng(0).standard_normal((2, 5, 3, 3)).astype(np.float32)
    maps[0, :, 1, 1] = 0
    ours = Extraction("none", 1, normalize="l2").rows(maps)
    theirs = torch.nn.functional.normalize(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_nothing_is_compiled_or_computed_beyond_what_is_asked_for(
    tiny_checkpoint: Path, photo: Path
) -> None:
    from resnest_cli.inference import onnx_cache

    Classifier(str(tiny_checkpoint), ready_for="map1").features(photo, stage=1)
    assert [file.origin["outputs"] for file in onnx_cache.compiled_files()] == [["map1"]]
    small = onnx_cache.compiled_files()[0].bytes
    classifier = Classifier(str(tiny_checkpoint))
    classifier.features(photo, stage=1)
    classifier.features(photo, stage=4)
    sizes = {tuple(f.origin["outputs"]): f.bytes for f in onnx_cache.compiled_files()}
    assert small < sizes[("map4",)] < sizes[("logits",)] + 10_000


def test_the_runner_imports_no_engine_before_it_needs_one() -> None:
    import subprocess

    code = (
        "import sys, resnest_cli.jobs.local, resnest_cli.jobs.assemble\n"
        "print(*{'torch', 'onnxruntime', 'pyarrow', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
