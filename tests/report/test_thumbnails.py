"""Thumbnails in pages, of all that records may name."""

import base64
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from resnest_cli.report.thumbnails import Thumbnails
from tests.conftest import make_photo
from tests.images.clips import animation, clip, colour


def test_thumbnails_are_small_and_of_local_photos_only(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "1.jpg", (900, 700))
    found = Thumbnails().of(str(photo))
    assert found is not None
    assert found.startswith("data:image/jpeg;base64,")
    assert len(found) < 20_000
    assert Thumbnails().of("https://example.org/1.jpg") is None
    assert Thumbnails().of(str(tmp_path / "gone.jpg")) is None
    (tmp_path / "bad.jpg").write_bytes(b"no")
    assert Thumbnails().of(str(tmp_path / "bad.jpg")) is None


def test_thumbnails_of_members_frames_and_moments(tmp_path: Path) -> None:
    clip(tmp_path / "c.mp4")
    animation(tmp_path / "s.tif")
    gif = animation(tmp_path / "a.gif")
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(gif, "in/a.gif")
        archive.add(make_photo(tmp_path / "1.jpg", (90, 70)), "1.jpg")

    thumbnails = Thumbnails()

    def seen(name: str) -> tuple[int, int, int]:
        found = thumbnails.of(f"{tmp_path}/{name}")
        assert found is not None, name
        image = Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2])))
        pixel: tuple[int, int, int] = image.getpixel((image.width * 3 // 4, image.height // 2))
        return pixel

    for number in (0, 3, 5, 2):
        frame = f"a.gif#frame={number + 1}"
        scan, film = f"s.tif#page={number + 1}", f"c.mp4#t={number / 10}"
        for name in (frame, scan, f"all.tar.gz/in/{frame}", film):
            assert np.allclose(seen(name), colour(number), atol=40), name
    assert seen("all.tar.gz/in/a.gif") == seen("a.gif") == seen("a.gif#frame=1")
    assert seen("c.mp4") == seen("c.mp4#t=0.0")
    assert seen("all.tar.gz/1.jpg") == seen("1.jpg")
    for gone in ("all.tar.gz/2.jpg", "all.tar.gz", "a.gif#frame=9", "a.gif#t=1.0", "b.gif#frame=1"):
        assert thumbnails.of(f"{tmp_path}/{gone}") is None
    thumbnails.close()
    shutil.copy(gif, tmp_path / "odd#frame=2")  # a file that is called so
    assert seen("odd#frame=2") == seen("a.gif")
