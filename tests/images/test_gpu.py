"""`--gpu-decode`, run on the CPU: the same photos, nearly the same pixels, the same errors."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli.errors import EngineError, ImageError
from resnest_cli.images import gpu
from resnest_cli.images.batches import Preparation
from resnest_cli.images.decode import UPRIGHT
from resnest_cli.images.gpu import Batcher, DevicePreparation, turned
from resnest_cli.model.variants import Preprocessing
from resnest_cli.options import CropMode, Interpolation

CAT = Path(__file__).parents[1] / "data" / "cat.jpg"
SMALL = Preprocessing(64, 0.875, "bilinear")
CLOSE = 5.0  # of 255: what roundings make of a pixel, at most


def jpeg(mode: str = "RGB", size: tuple[int, int] = (300, 200), **options: object) -> bytes:
    buffer = io.BytesIO()
    with Image.open(CAT) as image:
        image.convert(mode).resize(size).save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def apart(one: np.ndarray, two: np.ndarray, config: Preprocessing = SMALL) -> float:
    """The largest difference, in steps of 255."""
    std = np.asarray(config.std, np.float32)[:, None, None]
    return float(np.abs((one - two) * std).max() * 255)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what the device has decoded."""
    found: list[int] = []
    original = gpu._decoded

    def noted(photos: list[bytes], device: str) -> list[torch.Tensor]:
        pixels = original(photos, device)
        found.extend(map(len, photos))
        return pixels

    monkeypatch.setattr(gpu, "_decoded", noted)
    return found


@pytest.mark.parametrize("crop_mode", ["center", "border", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 200), (200, 301), (40, 30), (72, 72)])
def test_nearly_the_pixels_of_the_ordinary_way(
    decoded: list[int],
    size: tuple[int, int],
    interpolation: Interpolation,
    crop_mode: CropMode,
) -> None:
    config = Preprocessing(64, 0.875, interpolation)
    data = jpeg(size=size)
    found = DevicePreparation(config, crop_mode, device="cpu")(data)
    wanted = Preparation(config, crop_mode)(data)
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert apart(found, wanted, config) <= CLOSE
    assert len(decoded) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(decoded: list[int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(exif=exif)
    for upright in (True, False):
        found = DevicePreparation(SMALL, exif=upright, device="cpu")(data)
        assert apart(found, Preparation(SMALL, exif=upright)(data)) <= CLOSE
    assert len(decoded) == 2


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_turned_is_pils_transpose(orientation: int) -> None:
    pixels = np.arange(3 * 4 * 3, dtype=np.uint8).reshape(4, 3, 3)  # (H, W, 3)
    wanted = np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[orientation])).transpose(2, 0, 1)
    found = turned(torch.from_numpy(pixels).permute(2, 0, 1), orientation)
    assert np.array_equal(found.numpy(), wanted)


def test_grey_is_decoded_there_and_other_photos_go_the_ordinary_way(decoded: list[int]) -> None:
    grey = jpeg("L")
    assert apart(DevicePreparation(SMALL, device="cpu")(grey), Preparation(SMALL)(grey)) <= CLOSE
    assert len(decoded) == 1
    buffer = io.BytesIO()
    with Image.open(CAT) as image:
        image.save(buffer, "PNG")
    strip = jpeg(size=(2, 4000))
    for data in (jpeg("CMYK"), buffer.getvalue(), strip):
        found = DevicePreparation(SMALL, device="cpu")(data)
        assert np.array_equal(found, Preparation(SMALL)(data))


@pytest.mark.parametrize(
    "data", [b"", b"no photo", jpeg()[:2000], b"\xff\xd8\xff" + bytes(500) + b"\xff\xd9"]
)
def test_errors_are_those_of_the_ordinary_way(data: bytes) -> None:
    with pytest.raises(ImageError) as ordinary:
        Preparation(SMALL)(data)
    with pytest.raises(ImageError) as found:
        DevicePreparation(SMALL, device="cpu")(data)
    assert str(found.value) == str(ordinary.value)


def test_paths_and_open_images(tmp_path: Path, decoded: list[int]) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    preparation = DevicePreparation(SMALL, device="cpu")
    assert apart(preparation(str(path)), Preparation(SMALL)(str(path))) <= CLOSE
    assert len(decoded) == 1
    with Image.open(path) as image:
        assert np.array_equal(preparation(image), Preparation(SMALL)(image))
    with pytest.raises(ImageError, match="does not exist"):
        preparation(str(tmp_path / "none.jpg"))


def test_what_waits_is_done_together() -> None:
    begun, go_on = threading.Event(), threading.Event()
    sizes: list[int] = []

    def work(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        begun.set()
        assert go_on.wait(20)
        if 7 in numbers:
            raise ValueError("seven")
        return [number * number for number in numbers]

    together = Batcher(work, most=4)
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(together, 2)
        assert begun.wait(20)
        others = [threads.submit(together, number) for number in (3, 4, 5, 6, 8)]
        while len(together._waiting) < 5:
            pass
        go_on.set()
        assert [one.result() for one in (first, *others)] == [4, 9, 16, 25, 36, 64]
        assert sizes == [1, 4, 1]
        with pytest.raises(ValueError, match="seven"):
            threads.submit(together, 7).result()


def test_a_photo_that_is_refused_takes_no_other_with_it(decoded: list[int]) -> None:
    """Whole by its markers, but of no JPEG's content."""
    good, bad = jpeg(), b"\xff\xd8\xff" + bytes(500) + b"\xff\xd9"
    one, none, other = DevicePreparation(SMALL, device="cpu").batch(
        [(good, 1), (bad, 1), (good, 1)]
    )
    assert none is None
    assert one is not None
    assert other is not None
    assert apart(one, Preparation(SMALL)(good)) <= CLOSE
    assert np.array_equal(other, one)


def test_a_device_that_decodes_nothing_is_told_before_the_first_photo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    DevicePreparation(SMALL, device="cpu").check()

    def refuse(*_: object) -> None:
        raise RuntimeError("not compiled with nvJPEG\nand more")

    monkeypatch.setattr(gpu, "_decoded", refuse)
    with pytest.raises(EngineError, match=r"on cuda: not compiled with nvJPEG\. Leave out --gpu"):
        DevicePreparation(SMALL).check()
