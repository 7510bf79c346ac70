"""PNGs of 16 bits: what sBIT says, and the 12 bits that some programs leave in the low ones."""

import numpy as np
import pytest

from resnest_cli.images import take_note
from resnest_cli.images.decode import decode
from tests.images.test_decode import chunk, error_of, png

WIDTH, HEIGHT = 20, 10
GREY, RGB, GREY_ALPHA, RGBA = (0, 1), (2, 3), (4, 2), (6, 4)


def deep(values: np.ndarray, kind: int, sbit: int | None) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    extra = chunk(b"sBIT", bytes([sbit] * values.shape[2])) if sbit else b""
    return png(WIDTH, HEIGHT, 16, kind, rows, extra)


def random(bits: int, channels: int) -> np.ndarray:
    values = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH, channels))
    values[0, 0], values[0, 1] = 2**bits - 1, 1
    return values


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14])
@pytest.mark.parametrize("colours", [GREY, RGB, RGBA])
def test_low_bits_that_sbit_names(colours: tuple[int, int], bits: int) -> None:
    kind, channels = colours
    values = random(bits, channels)
    seen = values[..., :1] if kind == 0 else values[..., :3]
    pixels = np.asarray(decode(deep(values, kind, bits)))
    assert np.abs(pixels - seen / (2**bits - 1) * 255).max() <= 1
    assert take_note() is None


@pytest.mark.parametrize("sbit", [None, 10, 12, 16])
@pytest.mark.parametrize("colours", [GREY, RGB, GREY_ALPHA, RGBA])
def test_high_bits_are_what_the_specification_says(colours: tuple[int, int], sbit: int) -> None:
    kind, channels = colours
    values = random(10, channels) << 6
    seen = values[..., :1] if kind in (0, 4) else values[..., :3]
    pixels = np.asarray(decode(deep(values, kind, sbit)))
    assert np.abs(pixels - seen / 65535 * 255).max() <= 1
    assert take_note() is None
    night = values >> 6 << 4  # very dark, and yet as the specification says
    if sbit == 12 and kind != 4:
        pixels = np.asarray(decode(deep(night >> 2 << 2, kind, sbit)))
        assert pixels.max() <= 255 * night.max() / 65535 + 1


@pytest.mark.parametrize("colours", [GREY, RGB, GREY_ALPHA, RGBA])
def test_low_bits_that_nothing_names_stay_dark_with_a_note(colours: tuple[int, int]) -> None:
    kind, channels = colours
    assert np.asarray(decode(deep(random(12, channels), kind, None))).max() <= 16
    assert str(take_note()).startswith("no sample is above 4095 of 65535, and it is read as it")


def test_grey_with_alpha_in_the_low_bits_is_not_supported() -> None:
    message = "is not supported: a PNG of grey with alpha, in the low bits of 16"
    assert error_of(deep(random(12, 2), 4, 12)) == message
