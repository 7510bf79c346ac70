"""Pages of a TIFF and frames of animations: which there are, and their pictures."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import ImageError, UsageError
from resnest_cli.images.frames import count_pictures, expanded, frame_of
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import iter_sources
from resnest_cli.options import ALL_FRAMES, MAX_PIXELS, RunOptions, frames_of
from tests.conftest import Cli, make_photo
from tests.images.clips import animation, colour
from tests.images.test_archives import packed

LOSSLESS = {"webp": {"lossless": True}, "avif": {"quality": 100, "subsampling": "4:4:4"}}
KINDS = ["gif", "webp", "png", "tif", "avif"]


def made(folder: Path, kind: str, count: int = 6) -> Path:
    return animation(folder / f"a.{kind}", count, **LOSSLESS.get(kind, {}))


@pytest.fixture(scope="module", autouse=True)
def decoders() -> Iterator[Decoders]:
    """One for all: it takes a second to start."""
    with Decoders(1) as kept:
        names.decoders = kept
        yield kept


def names(*inputs: Path | str, frames: int = ALL_FRAMES) -> list[str]:
    sources = iter_sources(map(str, inputs), archives=True)
    found = expanded(sources, RunOptions(frames=frames), MAX_PIXELS, names.decoders)
    return [Path(one.name).name + (f": {one.error}" if one.error else "") for one in found]


def picture(photo: Path | bytes, frame: int) -> Image.Image:
    photo = photo if isinstance(photo, bytes) else str(photo)
    return frame_of(photo, frame, exif=True, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_has_its_own_picture(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind)
    word = "page" if kind == "tif" else "frame"
    assert count_pictures(str(path), MAX_PIXELS) == (6, word)
    for photo in (path, path.read_bytes()):
        for number in (0, 1, 2, 5, 3, 3):  # on, over some, back, and again
            found = picture(photo, number)
            assert found.mode == "RGB"
            assert found.size == (40, 30)
            assert np.allclose(found.getpixel((20, 15)), colour(number), atol=4)


def test_which_frames_are_listed(tmp_path: Path) -> None:
    path, photo = made(tmp_path, "gif"), make_photo(tmp_path / "b.jpg")
    assert names(path, photo) == [*(f"a.gif#frame={n}" for n in range(1, 7)), "b.jpg"]
    assert names(path, frames=3) == ["a.gif#frame=1", "a.gif#frame=3", "a.gif#frame=5"]
    assert names(path, frames=1) == ["a.gif#frame=1"]
    assert len(names(path, frames=99)) == 6
    assert names(made(tmp_path, "tif", 2)) == ["a.tif#page=1", "a.tif#page=2"]
    archive = packed(tmp_path / "x.zip", {"sub/a.gif": path.read_bytes()})
    assert names(archive, frames=2) == ["a.gif#frame=1", "a.gif#frame=4"]


def test_what_cannot_be_looked_into_is_an_error(tmp_path: Path) -> None:
    text = tmp_path / "b.gif"
    text.write_text("hello")
    assert names(text) == ["b.gif: is not an image: starts with 'hello'"]
    assert names("none.gif") == ["none.gif: does not exist"]
    assert "is an address: --frames reads files of this machine" in names("http://h/a.gif")[0]


@pytest.mark.parametrize("kind", ["gif", "tif"])
def test_a_cut_file_gives_what_can_be_read_and_an_error(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    count, good = count_pictures(str(path), MAX_PIXELS).number, 0
    for number in range(count):
        try:
            picture(path, number)
        except ImageError as error:
            assert "truncated" in str(error)  # noqa: PT017 - some are not
        else:
            good += 1
    assert 2 <= good == count - 1 < 6


def test_a_tiff_whose_pages_lead_in_a_circle_ends(tmp_path: Path) -> None:
    path = made(tmp_path, "tif", 2)
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        image.seek(1)
        places = image._TiffImageFile__first, image._frame_pos[1]
    start = places[1] + 2 + 12 * int.from_bytes(data[places[1] : places[1] + 2], "little")
    data[start : start + 4] = places[1].to_bytes(4, "little")
    path.write_bytes(data)
    assert count_pictures(str(path), MAX_PIXELS) == (2, "page")


def test_frames_of_too_many_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="--max-pixels"):
        frame_of(str(made(tmp_path, "gif")), 1, exif=True, max_pixels=100)


@pytest.mark.parametrize("text", ["0", "-1", "some", "1.5", ""])
def test_frames_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="neither a number of frames"):
        frames_of(text)


def test_predict_and_features_take_frames(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = made(tmp_path, "gif")
    how = [path, "-m", tiny_checkpoint, "--frames", "all"]
    found = cli("predict", *how, "--format", "csv", "-k", "1")
    assert [line.split(",")[0] for line in found.out.splitlines()[1:]] == [
        f"{path}#frame={number}" for number in range(1, 7)
    ]
    assert len({line.split(",")[-1] for line in found.out.splitlines()[1:]}) == 6
    out = tmp_path / "feats.npy"
    assert cli("features", *how, "-o", out).code == 0
    assert len(np.unique(np.load(out), axis=0)) == 6
    assert "already" in cli("features", *how, "-o", out, "--resume").err
    other = cli("features", path, "-m", tiny_checkpoint, "--frames", "2", "-o", out, "--resume")
    assert "input 2 was" in other.err
    assert "are for --runner local" in cli("predict", *how, "-o", "x/", "--runner", "ray").err


def test_a_file_that_is_named_twice_has_two_answers(
    cli: Cli, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    path = made(tmp_path, "tif", 2)
    how = ["--frames", "all", "--per-clip", "--format", "jsonl", "-m", tiny_checkpoint]
    done = cli("predict", path, path, *how)
    first, second = done.out.splitlines()
    assert first == second


def test_photos_alone_need_none_of_this(tmp_path: Path) -> None:
    code = (
        "import sys; import resnest_cli.inference.classifier; from resnest_cli.images.inputs "
        "import listed; from resnest_cli.images.sources import SourceStats; from "
        "resnest_cli.options import RunOptions; list(listed(RunOptions(('a.jpg', 'x')), "
        "SourceStats())); print({'av', 'tarfile', 'resnest_cli.images.frames'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
