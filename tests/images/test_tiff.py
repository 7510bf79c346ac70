"""TIFF in all its combinations: the colours that were meant, or an error that says why not.

tifffile writes and reads the files; what must come out is computed here from the samples.
"""

import io
import struct
import sys
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.images import take_note
from resnest_cli.images.decode import decode
from tests.images.tiff_files import packed, tiff

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

WIDTH, HEIGHT = 39, 21
SIZE = WIDTH, HEIGHT
NEAR = 2  # of 255

_y, _x = np.mgrid[0:HEIGHT, 0:WIDTH]
ACROSS = _x / (WIDTH - 1)
SHARES = np.stack(  # of white, in up to eight channels; the fourth is never small
    [ACROSS, _y / (HEIGHT - 1), (_x + _y) / (WIDTH + HEIGHT - 2), 1 - 0.7 * ACROSS]
    + [np.full((HEIGHT, WIDTH), share) for share in (0.1, 0.2, 0.4, 0.8)],
    axis=-1,
)
TYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
# photometric, samples, what the extra ones are
COLOURS = {
    "white is zero": ("miniswhite", 1, ()),
    "grey": ("minisblack", 1, ()),
    "grey and alpha": ("minisblack", 2, ("unassalpha",)),
    "grey and more": ("minisblack", 2, ("unspecified",)),
    "RGB": ("rgb", 3, ()),
    "RGBA": ("rgb", 4, ("unassalpha",)),
    "RGB and five more": ("rgb", 8, ("unspecified",) * 5),
    "premultiplied": ("rgb", 4, ("assocalpha",)),
    "premultiplied grey": ("minisblack", 2, ("assocalpha",)),
    "CMYK": ("separated", 4, ()),
}
STORAGE = [  # compression, tiles, predictor
    (None, None, False),
    (None, (16, 16), False),
    ("lzw", None, True),
    ("deflate", (16, 16), True),
    ("zstd", None, False),
    ("packbits", None, False),
    ("lzma", (16, 16), False),
]


def samples(shares: np.ndarray, kind: str) -> np.ndarray:
    """Shares of white in the full range of a type."""
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return shares.astype(dtype)
    least, most = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    # 64 bits are more than a double has.
    top = most - least if dtype.itemsize < 8 else most - least - 2**12
    return (np.floor(shares * top) + least).astype(dtype)


def expected(name: str, stored: np.ndarray, kind: str) -> np.ndarray:
    photometric, _, extra = COLOURS[name]
    if photometric == "separated":
        return 255 * (1 - SHARES[..., :3]) * (1 - SHARES[..., 3:4])
    grey = photometric != "rgb"
    if extra == ("assocalpha",):
        values = stored.astype(float)
        if kind[0] == "i":  # alpha makes no sense there, and is only dropped
            least, most = values[..., :-1].min(), values[..., :-1].max()
            colours = (values[..., :-1] - least) / (most - least)
        else:
            colours = values[..., :-1] / values[..., -1:]
        return 255 * np.clip(colours, 0, 1).repeat(3 if grey else 1, axis=-1)
    colours = 255 * SHARES[..., : 1 if grey else 3].repeat(3 if grey else 1, axis=-1)
    return 255 - colours if photometric == "miniswhite" else colours


def written(values: np.ndarray, order: str = "<", **options: object) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, byteorder=order) as writer:
        writer.write(values, metadata=None, **options)
    return stream.getvalue()


def check(data: bytes, levels: np.ndarray, near: float = NEAR, **options: object) -> None:
    pixels = np.asarray(decode(data, **options)).astype(float)
    if levels.ndim == 2:
        levels = levels[..., None].repeat(3, axis=-1)
    assert pixels.shape == levels.shape
    assert np.abs(pixels - levels).max() <= near


def error_of(data: bytes, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", COLOURS)
def test_every_combination(name: str, kind: str) -> None:
    photometric, count, extra = COLOURS[name]
    shares = SHARES[..., :count]
    if extra == ("assocalpha",):
        alpha = SHARES[..., 3:4]
        shares = np.concatenate([shares[..., :-1] * alpha, alpha], axis=-1)
    stored = samples(shares, kind)
    levels = expected(name, stored, kind)
    layouts = ["contig"] if count == 1 else ["contig", "separate"]
    for number, (compression, tile, predictor) in enumerate(STORAGE):
        predicted = predictor and kind not in ("u8", "i8")  # no such thing
        for planar in layouts:
            values = stored[..., 0] if count == 1 else stored
            if planar == "separate":
                values = np.ascontiguousarray(stored.transpose(2, 0, 1))
            for order in "<>":
                data = written(
                    values,
                    order,
                    photometric=photometric,
                    planarconfig=planar if count > 1 else None,
                    extrasamples=extra or None,
                    compression=compression,
                    predictor=predicted or None,
                    tile=tile,
                    rowsperstrip=None if tile else 8,
                )
                if number == 0:
                    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), values)
                check(data, levels)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 14, 15, 20, 30])
def test_packed_samples(bits: int) -> None:
    """Of any number of bits, in both byte orders, the bits of a byte in both orders."""
    for count, photometric in ((1, 0), (1, 1), (3, 2)):
        rows = [[x * (y + 3) * 7919 % 2**bits for x in range(count * WIDTH)] for y in range(HEIGHT)]
        rows[0][0], rows[0][1] = 0, 2**bits - 1
        levels = np.array(rows).reshape(HEIGHT, WIDTH, count) / (2**bits - 1) * 255
        if count == 1:
            levels = levels.repeat(3, axis=-1)
        for order in "<>":
            for fill in (1, 2):
                tags = {258: ("H", (bits,) * count), 262: photometric, 266: fill, 277: count}
                strip = packed(rows, bits, reversed_bits=fill == 2)
                data = tiff(SIZE, [strip], tags, order=order)
                check(data, 255 - levels if photometric == 0 else levels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("scale", [257, 1])
def test_palettes_of_16_and_of_8_bits(bits: int, scale: int) -> None:
    colours = min(2**bits, 256)
    table = np.zeros((3, 2**bits), int)
    table[0, :colours] = np.linspace(0, 255, colours)
    table[1, :colours] = 255 - table[0, :colours]
    indices = (_x * 7 + _y) % colours
    for order in "<>":
        if bits == 16:
            strip = indices.astype(order + "u2").tobytes()
        else:
            strip = packed(indices.tolist(), bits)
        palette = ("H", tuple((table * scale).ravel().tolist()))
        data = tiff(SIZE, [strip], {258: bits, 262: 3, 320: palette}, order=order)
        check(data, table.T[indices])


@pytest.mark.parametrize("kind", ["f4", "u2"])
@pytest.mark.parametrize("order", "<>")
def test_big_tiff(order: str, kind: str) -> None:
    values = samples(SHARES[..., :3], kind)
    tags = {
        258: ("H", (8 * values.itemsize,) * 3),
        262: 2,
        277: 3,
        339: ("H", (3 if kind == "f4" else 1,) * 3),
    }
    data = tiff(SIZE, [values.astype(order + kind).tobytes()], tags, order=order, big=True)
    check(data, 255 * SHARES[..., :3])


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_the_same_whoever_reads(turn: int) -> None:
    tag = [(274, 3, 1, turn, True)]
    plain = written(samples(SHARES[..., :3], "u1"), photometric="rgb", extratags=tag)
    deep = written(samples(SHARES[..., :3], "f4"), photometric="rgb", extratags=tag)
    check(deep, np.asarray(decode(plain)).astype(float))


def test_the_first_page_is_read() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for values in (SHARES[..., :3], 1 - SHARES[..., :3]):
            writer.write(samples(values, "f4"), photometric="rgb", metadata=None)
    check(stream.getvalue(), 255 * SHARES[..., :3])


TWELVE = np.round(4095 * ACROSS).astype("u2")
FLOATS = (100 * ACROSS - 50).astype("f4")


def stated(**tags: float) -> list[tuple[int, int, int, float, bool]]:
    codes = {"least": 340, "most": 341, "max_sample": 281}
    return [(codes[name], 12 if name != "max_sample" else 3, 1, value, True)
            for name, value in tags.items()]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "tags", "levels"),
    [
        (TWELVE, stated(most=4095), 255 * ACROSS),
        (TWELVE, stated(max_sample=4095), 255 * ACROSS),
        (TWELVE, stated(least=1000, most=3000), 255 * np.clip((TWELVE - 1000.0) / 2000, 0, 1)),
        (TWELVE, stated(max_sample=4000), TWELVE / 257),  # a statistic
        (TWELVE, stated(max_sample=1023), TWELVE / 257),  # which is not true
        (TWELVE, stated(least=9, most=9), TWELVE / 257),
        (FLOATS, stated(least=-100, most=100), 255 * (FLOATS + 100) / 200),
        (FLOATS, [], 255 * ACROSS),
        (-TWELVE.astype("i2"), [], 255 * (1 - ACROSS)),
        (-TWELVE.astype("i2"), stated(least=-8191, most=0), 255 * (1 - TWELVE / 8191)),
        (TWELVE.astype("u4") * 16, [], TWELVE / 4095.9 * 255),  # 16 bits in 32
        (TWELVE.astype("u4") * 2**20, [], 255 * ACROSS),
        (np.where(_x == 3, np.nan, ACROSS), [], 255 * np.where(_x == 3, 0, ACROSS)),
        (np.where(_x == 3, np.inf, ACROSS), [], 255 * np.where(_x == 3, 1, ACROSS)),
    ],
)
def test_range(values: np.ndarray, tags: list, levels: np.ndarray) -> None:
    for photometric in ("minisblack", "miniswhite"):
        data = written(values, photometric=photometric, extratags=tags)
        check(data, levels if photometric == "minisblack" else 255 - levels)
    colour = written(values[..., None].repeat(3, -1), photometric="rgb", extratags=tags)
    check(colour, levels)


@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
def test_a_dark_photo_leaves_a_note(photometric: str) -> None:
    values = TWELVE if photometric == "minisblack" else TWELVE[..., None].repeat(3, -1)
    take_note()
    decode(written(values, photometric=photometric))
    note = take_note()
    assert note is not None
    assert note.startswith("no sample is above 4095 of 65535")
    assert take_note() is None
    decode(written(values, photometric=photometric, extratags=stated(most=4095)))
    decode(written(values * 16, photometric=photometric))
    decode(written(values * 0, photometric=photometric))
    assert take_note() is None


RAW = np.zeros((HEIGHT, WIDTH), "u1")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (written(SHARES[..., 0].astype("c8"), photometric="minisblack"), "of complex numbers"),
        (written(RAW, photometric="cfa"), "a colour filter array (a raw photo: develop it first)"),
        (written(RAW, photometric="logl"), "in LogL"),
        (written(RAW, photometric="mask"), "a transparency mask"),
        (written(samples(SHARES, "u1"), photometric="minisblack", planarconfig="contig",
                 extrasamples=["unspecified"] * 7), "with 8 bands whose colours it does not name"),
        (written(samples(SHARES[..., :3], "u1"), photometric="rgb", compression="jpeg2000"),
         "3 x 8 bits, compressed by JPEG 2000"),
        (tiff(SIZE, [bytes(3 * WIDTH * HEIGHT)], {258: ("H", (8, 8, 8)), 262: 6, 277: 3}),
         "in YCbCr whose colours are subsampled and not compressed"),
        (tiff(SIZE, [bytes(6 * WIDTH * HEIGHT)], {258: ("H", (16,) * 3), 262: 8, 277: 3}),
         "in L*a*b* with 3 x 16 bits"),
        (tiff(SIZE, [bytes(9 * WIDTH * HEIGHT)], {258: ("H", (24,) * 3), 262: 2, 277: 3}),
         "of 24-bit integers"),
        (tiff(SIZE, [bytes(9 * WIDTH * HEIGHT)], {258: ("H", (8, 16, 8)), 262: 2, 277: 3}),
         "whose samples differ in their bits"),
        (tiff(SIZE, [bytes(WIDTH * HEIGHT)], {258: 8, 262: 2, 277: 1}),
         "with 1 sample for each pixel, too few"),
        (tiff(SIZE, [bytes(4 * WIDTH * HEIGHT)],
              {258: ("H", (8,) * 4), 262: 5, 277: 4, 332: 2}), "in other inks than CMYK"),
        (tiff(SIZE, [bytes(WIDTH * HEIGHT)], {258: 8}), "that does not say what its colours are"),
    ],
)  # fmt: skip
def test_not_supported(data: bytes, reason: str) -> None:
    message = error_of(data)
    assert message.startswith("is not supported: a TIFF ")
    assert reason in message


def test_without_tifffile_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(samples(SHARES[..., :3], "f4"), photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    message = (
        "is a TIFF of 3 x 32 floating-point bits, which needs tifffile (extra tiff), which is not "
        "installed. Run: pip install tifffile imagecodecs"
    )
    assert error_of(data) == message
    check(written(samples(SHARES[..., 0], "u2"), photometric="minisblack"), 255 * ACROSS)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("kind", ["u1", "f4"])
def test_truncated_or_missing_strips_are_an_error(compression: str | None, kind: str) -> None:
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH, 3))
    data = written(samples(noise, kind), photometric="rgb", compression=compression, rowsperstrip=4)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
    whole = np.asarray(decode(data))
    cut = [data[:-1], data[: len(data) * 3 // 4]]
    for code, shares in ((273, (0,)), (279, (0, 0.3, 0.95))):  # where a strip is, and its length
        tag = tags[code]
        width = tag.valuebytecount // tag.count
        at = tag.valueoffset + 2 * width
        new = [int(tag.value[2] * share).to_bytes(width, "little") for share in shares]
        cut += [data[:at] + value + data[at + width :] for value in new]
    errors = 0
    for damaged in cut:
        try:
            pixels = np.asarray(decode(damaged))
        except ImageError:
            errors += 1
        else:  # nothing was lost but what follows the last pixel; or a length that is known anyway
            np.testing.assert_array_equal(pixels, whole)
    assert errors >= (2 if compression is None else 4)


def test_a_cut_jpeg_inside_is_an_error() -> None:
    stream = io.BytesIO()
    photo = Image.fromarray(samples(SHARES[..., :3], "u1"))
    photo.save(stream, "TIFF", compression="jpeg", tiffinfo={278: 8})
    data = stream.getvalue()
    check(data, np.asarray(photo).astype(float), near=60)
    end = data.index(b"\xff\xd9", data.index(b"\xff\xda"))
    assert "has no end" in error_of(data[:end] + b"\0\1" + data[end + 2 :])


def test_limits_before_memory_is_spent() -> None:
    huge = tiff(SIZE, [b"\0"], {258: ("H", (32,) * 3), 262: 2, 277: 3, 339: 3})
    for tag, value in ((256, 60_000), (257, 60_000)):
        at = huge.index(struct.pack("<HHI", tag, 4, 1))
        huge = huge[: at + 8] + struct.pack("<I", value) + huge[at + 12 :]
    assert "has 60000 x 60000 pixels" in error_of(huge)
    deep = tiff(SIZE, [b"\0"], {258: ("H", (64,) * 4), 262: 2, 277: 4, 339: 3})
    assert "4 x 64 bits, more than 16 bytes" in error_of(deep, max_pixels=WIDTH * HEIGHT)
    tiles = {322: ("I", (60_000,)), 323: ("I", (60_000,)), 258: 8, 262: 1}
    assert "its tiles are much larger" in error_of(tiff(SIZE, [b"\0"], tiles))


def test_any_tags_are_a_photo_or_an_error() -> None:
    random = np.random.default_rng(1)
    good = [
        written(samples(SHARES[..., :3], kind), photometric="rgb", compression=compression)
        for kind in ("u1", "u2", "f4")
        for compression in (None, "deflate", "zstd")
    ]
    for number in range(600):
        data = bytearray(good[number % len(good)])
        for _ in range(random.integers(1, 4)):
            data[random.integers(4, 300)] = random.integers(256)
        with suppress(ImageError):
            assert decode(bytes(data), max_pixels=2**20).mode == "RGB"
