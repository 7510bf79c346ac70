import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from resnest_cli.errors import ImageError
from resnest_cli.images import preprocess as module
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import preprocess
from resnest_cli.model.variants import VARIANTS, Preprocessing
from tests.images.conftest import make_photo

PUBLISHED = sorted(
    {variant.preprocessing for variant in VARIANTS.values() if variant.hub}, key=repr
)
OTHERS = [
    Preprocessing(224, 1.0, "bicubic"),
    Preprocessing(33, 0.5, "bilinear", (0.1, 0.5, 0.9), (0.3, 0.2, 0.7)),
    Preprocessing(1, 0.6, "bicubic"),
]
ODD_SIZES = [
    (1, 1), (2, 3), (3, 2), (1, 40), (40, 1), (5000, 3), (3, 5000), (5000, 1), (1, 5000),
    (99, 100), (224, 224), (225, 224), (223, 225), (255, 256), (256, 256), (256, 257), (320, 320),
    (448, 448), (500, 375), (375, 501), (1023, 777), (1200, 40), (41, 1200), (352, 353),
]  # fmt: skip
# The reference blows strips up before it crops: the longest would take it gigabytes or seconds.
AFFORDABLE = [size for size in ODD_SIZES if max(size) / min(size) < 100]


def reference(image, config, crop_mode="center"):
    """timm's evaluation transform, the independent reference."""
    from timm.data import create_transform

    transform = create_transform(
        (3, config.size, config.size),
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=config.crop_pct,
        crop_mode=crop_mode,
    )
    return transform(image).numpy()


def assert_same(image, config, crop_mode="center"):
    got = preprocess(image, config, crop_mode=crop_mode)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, reference(image, config, crop_mode), strict=True)


@pytest.mark.parametrize("config", PUBLISHED + OTHERS, ids=str)
def test_odd_sizes_equal_timm(config):
    for size in AFFORDABLE:
        assert_same(make_photo(*size), config)


@pytest.mark.slow  # the reference needs gigabytes and seconds for each
@pytest.mark.parametrize("config", PUBLISHED[:3], ids=str)
@pytest.mark.parametrize("size", [(5000, 3), (3, 5000), (5000, 1), (1, 5000)])
def test_extreme_strips_equal_timm(config, size):
    assert_same(make_photo(*size), config)


@pytest.mark.parametrize("config", [PUBLISHED[0], *OTHERS[:2]], ids=str)
@pytest.mark.parametrize("crop_mode", ["border", "squash"])
def test_crop_modes_equal_timm(config, crop_mode):
    for size in AFFORDABLE:
        assert_same(make_photo(*size), config, crop_mode)


@pytest.mark.parametrize("config", PUBLISHED, ids=str)
def test_real_photos_equal_timm(config):
    data = pytest.importorskip("skimage.data")
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        assert_same(Image.fromarray(getattr(data, name)()).convert("RGB"), config)


@pytest.mark.parametrize("config", PUBLISHED, ids=str)
def test_shared_photos_equal_timm_on_the_uprighted_image(shared_photos, config):
    for path in shared_photos:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        photo = decode(path)
        assert photo.tobytes() == upright.tobytes()
        assert_same(photo, config)


def test_published_configurations():
    assert [(c.size, c.crop_pct, c.interpolation) for c in PUBLISHED] == [
        (224, 0.875, "bicubic"),
        (224, 0.875, "bilinear"),
        (256, 0.875, "bilinear"),
        (320, 0.909, "bicubic"),
        (416, 0.928, "bicubic"),
    ]


@pytest.mark.parametrize("config", PUBLISHED + OTHERS, ids=str)
def test_windowed_resampling_equals_pillow(config, monkeypatch):
    """The arithmetic for strips, checked on shapes that PIL can do, too."""
    images = [make_photo(*size) for size in AFFORDABLE if max(size) < 1024]
    expected = [preprocess(image, config) for image in images]
    monkeypatch.setattr(module, "_cost", lambda *_: 2**62)
    monkeypatch.setattr(module, "_FILTERS", None)
    for image, pixels in zip(images, expected, strict=True):
        np.testing.assert_array_equal(preprocess(image, config), pixels)


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (3, 9000), (12000, 5)])
def test_strips_equal_pillow(size, monkeypatch):
    image, config = make_photo(*size), Preprocessing(32, 0.875, "bicubic")
    expected = preprocess(image, config)
    monkeypatch.setattr(module, "_PLAIN_BYTES", 0)
    used = []
    real = module._resample_window
    monkeypatch.setattr(module, "_resample_window", lambda *args: used.append(size) or real(*args))
    np.testing.assert_array_equal(preprocess(image, config), expected)
    assert used == [size]


def test_a_real_strip_equals_timm():
    """Strips past the limit, yet affordable once for the reference."""
    for width, height in ((5000, 3), (2, 2500)):
        image, config = make_photo(width, height), Preprocessing(112, 0.875, "bicubic")
        new_size = module.resized_size(width, height, config, "center")
        assert module._cost(image, *new_size, "bicubic") > module._PLAIN_BYTES
        assert_same(image, config)


STRIP = """
import resource, sys, time
from PIL import Image, ImageOps
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import preprocess
from resnest_cli.model.variants import Preprocessing

preprocess(Image.new("RGB", (640, 480), (9, 8, 7)), Preprocessing(416, 0.928, "bicubic"))
unit = 1 if sys.platform == "darwin" else 1024
for size in [(1, 5000), (5000, 1), (1, 65500), (65500, 2), (20_000_000, 1), (1, 20_000_000)]:
    image = Image.new("RGB", size, (9, 8, 7))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    preprocess(image, Preprocessing(416, 0.928, "bicubic"))
    seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / 2**20
    print(size, round(grown), "MB", round(seconds, 2), "s")
    assert grown < 64 and seconds < 5
assert not {"torch", "torchvision", "typer", "rich", "requests"} & set(sys.modules)
"""


def test_strips_need_little_memory_and_time():
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", STRIP],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_border_keeps_a_pixel_where_timm_fails():
    image, config = make_photo(5000, 3), Preprocessing(224, 1.0)
    with pytest.raises(ValueError, match="must be > 0"):
        reference(image, config, "border")
    result = preprocess(image, config, crop_mode="border")
    fill = preprocess(Image.new("RGB", (1, 1), (124, 116, 104)), config)[:, 0, 0]
    differs = (result != fill[:, None, None]).any(axis=0)
    assert differs.any(axis=1).nonzero()[0].tolist() == [111]  # one row, in the middle


def test_strip_too_long_to_squash_is_an_error():
    image = Image.new("RGB", (1, 3_000_000))
    with pytest.raises(ImageError, match="a strip too long to squash: 1 x 3000000"):
        preprocess(image, Preprocessing(), crop_mode="squash")
    assert preprocess(image, Preprocessing()).shape == (3, 224, 224)


def test_other_modes_are_refused():
    with pytest.raises(ValueError, match="RGB image, not L"):
        preprocess(Image.new("L", (9, 9)), Preprocessing())
    with pytest.raises(ValueError, match="crop_mode must be"):
        preprocess(make_photo(9, 9), Preprocessing(), crop_mode="centre")


def test_the_photo_is_left_alone():
    image = make_photo(224, 224)
    before = image.tobytes()
    preprocess(image, Preprocessing(224, 1.0))
    assert image.tobytes() == before


def test_every_setting_acts():
    image = make_photo(400, 300)
    base = Preprocessing(64, 0.875, "bilinear")
    results = [
        preprocess(image, base),
        preprocess(image, Preprocessing(64, 0.875, "bicubic")),
        preprocess(image, Preprocessing(64, 0.8, "bilinear")),
        preprocess(image, Preprocessing(64, 0.875, "bilinear", mean=(0.4, 0.456, 0.406))),
        preprocess(image, Preprocessing(64, 0.875, "bilinear", std=(0.2, 0.224, 0.225))),
        preprocess(image, base, crop_mode="squash"),
        preprocess(image, base, crop_mode="border"),
    ]
    for index, first in enumerate(results):
        assert all((first != other).any() for other in results[index + 1 :])
