"""Video: which moments are listed, their pictures, and clips that are damaged."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import ImageError, UsageError
from resnest_cli.images import video
from resnest_cli.images.frames import expanded
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source, iter_sources
from resnest_cli.images.video import moments, picture
from resnest_cli.options import MAX_PIXELS, Every, RunOptions, every_of
from tests.conftest import Cli, make_photo
from tests.images.clips import HEIGHT, WIDTH, clip, colour, turned

pytest.importorskip("av")

KINDS = {"mp4": "libx264", "mkv": "libx264", "avi": "mpeg4", "ts": "mpeg2video", "webm": "libvpx"}
SECOND = Every(1.0, "s")


@pytest.fixture(scope="module", autouse=True)
def decoders() -> Iterator[Decoders]:
    """One for all: it takes a second to start."""
    with Decoders(1) as kept:
        listing.decoders = kept
        yield kept


def listing(path: Path, every: Every = SECOND) -> list[Source]:
    found = iter_sources([str(path)], videos=True)
    return list(expanded(found, RunOptions(every=every), MAX_PIXELS, listing.decoders))


def times(path: Path, every: Every = SECOND) -> list[str]:
    return [source.error or source.name.rpartition("#t=")[2] for source in listing(path, every)]


def shown(source: Source, *, exif: bool = True) -> Image.Image:
    assert source.path is not None
    assert isinstance(source.frame, video.Moment)
    return picture(source.path, source.frame, exif=exif, max_pixels=MAX_PIXELS)


def frames(sources: list[Source]) -> list[int]:
    """The numbers of the frames, by the colour in the right half."""
    table = np.array([colour(number) for number in range(60)])
    pixels = [shown(one).getpixel((WIDTH * 3 // 4, HEIGHT // 2)) for one in sources]
    return [int(np.abs(table - np.array(pixel)).sum(axis=1).argmin()) for pixel in pixels]


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_what_a_player_shows(tmp_path: Path, kind: str) -> None:
    path = clip(tmp_path / f"a.{kind}", codec=KINDS[kind])
    assert times(path) == ["0.0", "1.0", "2.0"]
    assert frames(listing(path)) == [0, 10, 20]
    assert times(path, Every(10, "f")) == ["0.0", "1.0", "2.0"]
    assert times(path, Every(12, "f")) == ["0.0", "1.2", "2.4"]
    quarter = listing(path, Every(0.25, "s"))
    assert frames(quarter) == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]
    order = [quarter[place] for place in (11, 0, 3, 2, 7, 7)]  # back and forth
    assert frames(order) == [27, 0, 7, 5, 17, 17]


def test_long_clips_are_listed_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(clip(tmp_path / "a.mp4"))
    whole = moments(path, Every(1, "f"), 0)
    assert (len(whole.found), whole.finished) == (30, True)
    monkeypatch.setattr(video, "_AT_ONCE", 7)
    pieces, finished = [], False
    while not finished:
        answer = moments(path, Every(1, "f"), len(pieces))
        assert len(answer.found) <= 7
        pieces, finished = pieces + answer.found, answer.finished
    assert pieces == whole.found
    assert moments(path, Every(1, "f"), 3).found == whole.found[3:10]  # another process


TURNS = {"top": (0, 1, -1, 0), "right": (-1, 0, 0, -1), "bottom": (0, -1, 1, 0)}


@pytest.mark.parametrize(("corner", "matrix"), TURNS.items())
def test_rotation_is_honoured(tmp_path: Path, matrix: tuple[int, ...], corner: str) -> None:
    """The white half, on the left, is turned by 90, 180 and 270 degrees clockwise."""
    path = turned(clip(tmp_path / "a.mp4"), matrix)
    (first, *_) = listing(path)
    for exif in (True, False):
        image = shown(first, exif=exif)
        width, height = image.size
        side = corner if exif else "left"
        assert (width > height) is (side in {"left", "right"})
        place = {"left": (2, 2), "top": (2, 2), "right": (width - 3, 2), "bottom": (2, height - 3)}
        assert min(image.getpixel(place[side])) > 200
        opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side]
        assert min(image.getpixel(place[opposite])) < 200


@pytest.mark.parametrize("kind", ["mkv", "mp4", "ts"])
def test_a_cut_clip_gives_what_can_be_read_and_an_error(tmp_path: Path, kind: str) -> None:
    path = clip(tmp_path / f"a.{kind}", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, good, errors = listing(path, Every(0.5, "s")), 0, []
    for source in found:
        if source.error is not None:
            errors.append(source.error)
            continue
        try:
            shown(source)
            good += 1
        except ImageError as error:
            errors.append(str(error))
    assert 3 <= good < 12
    if kind != "ts":  # which does not say how long it is
        assert any("truncated" in error or "cannot be decoded" in error for error in errors)


def test_bytes_that_were_changed_are_errors_of_their_frames(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", 60, codec="libx264", g="10")
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    data[start : start + 400] = bytes(400)
    path.write_bytes(data)
    good, bad = 0, 0
    for source in listing(path, Every(1, "f")):
        try:
            assert source.error is None
            shown(source)
            good += 1
        except (ImageError, AssertionError):
            bad += 1
    assert good >= 20


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"hello" * 100, "is no video that can be read"),
        (b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n#EXT-X-ENDLIST\n", "is no video that can be read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is no video that can be read"),
        (None, "does not exist"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    (source,) = listing(path)
    assert why in (source.error or "")


def test_sound_alone_is_an_error(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        out.mux([*stream.encode(frame), *stream.encode()])
    assert times(path) == ["has no video in it, only sound"]


@pytest.mark.parametrize("text", ["0s", "1", "s", "1.5f", "-1s", "1m", "0f", ""])
def test_every_that_makes_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="how far apart frames of a video are"):
        every_of(text)


def test_predict_and_features_take_videos(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    path, photo = clip(folder / "b.mp4"), make_photo(folder / "a.png")
    how = [folder, "-m", tiny_checkpoint, "--every", "1s"]
    found = cli("predict", *how, "--format", "jsonl")
    expected = [str(photo), *(f"{path}#t={second}.0" for second in range(3))]
    assert [json.loads(line)["input"] for line in found.out.splitlines()] == expected
    assert "1 other file without" in cli("predict", folder, "-m", tiny_checkpoint).err
    assert "--every 1s reads" in cli("predict", path, "-m", tiny_checkpoint).out
    out = tmp_path / "feats.npy"
    assert cli("features", *how, "-o", out, "-j", "2").code == 0
    assert len(np.unique(np.load(out), axis=0)) == 4
    assert "already" in cli("features", *how, "-o", out, "--resume").err
    assert "4 kept" in cli("features", *how, "-o", out, "--update").err


def test_one_answer_for_a_clip(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    path, photo = clip(tmp_path / "b.mkv", 60), make_photo(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    how = [path, photo, "-m", tiny_checkpoint, "--every", "0.5s", "--format", "jsonl"]
    each, mean = cli("predict", *how), cli("predict", *how, "--per-clip")
    frames, clips = ([json.loads(line) for line in one.out.splitlines()] for one in (each, mean))
    good = [one for one in frames if "#t=" in one["input"] and one["status"] == "ok"]
    assert len(good) >= 5
    expected = dict.fromkeys((p["label"] for p in good[0]["predictions"]), 0.0)
    for one in good:
        for found in one["predictions"]:
            expected[found["label"]] += found["probability"] / len(good)
    assert clips[0]["input"] == str(path)
    assert {p["label"]: p["probability"] for p in clips[0]["predictions"]} == {
        label: pytest.approx(share, abs=1e-6) for label, share in expected.items()
    }
    rest = [one for one in frames if one not in good]  # the errors, and the photo
    assert clips[1:] == rest
    assert each.code == mean.code == 3
    assert "say which frames" in cli("predict", path, "--per-clip").err
    assert "--unknown" in cli("predict", *how, "--per-clip", "--unknown", "5%").err
    assert "a record for each" in cli("predict", *how[:-2], "--per-clip", "-o", "x.parquet").err
