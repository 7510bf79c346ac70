"""Small data to pack, and shards as others make them."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from resnest_cli.data.dataset import DataSet, load_dataset
from resnest_cli.data.pack import Packed, PackJob, pack
from resnest_cli.progress import silent
from tests.conftest import make_photo

CLASSES, PHOTOS = 3, 10


def make_data(folder: Path, photos: int = PHOTOS) -> Path:
    """Three classes of ten photos."""
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(photos):
            path = folder / f"class{label}" / f"{index}.jpg"
            make_photo(path, (50, 40), seed=100 * label + index)
    return folder


def job(output: Path, **changes: object) -> PackJob:
    settings: dict = {
        "output": output, "val_split": 0.2, "seed": 0, "shard_bytes": 10**6,
        "photos_per_shard": 5, "workers": 1, "overwrite": False,
    }  # fmt: skip
    return PackJob(**settings | changes)


def load(data: Path) -> DataSet:
    return load_dataset(str(data), val_split=0.2, seed=0)


def packed(data: Path, output: Path, **changes: object) -> Packed:
    """Packs without a word."""
    return pack(job(output, **changes), load(data), silent, lambda: None)


def files(folder: Path) -> dict[str, bytes]:
    """Everything that is there, by name; nothing where there is no folder."""
    there = folder.iterdir() if folder.exists() else ()
    return {path.name: path.read_bytes() for path in there if path.name != ".lock"}


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar file as another program writes it."""
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def others(folder: Path, data: Path, name: str = "train-{}.tar", shards: int = 2) -> str:
    """Shards without an index, with files of other kinds beside the photos; their pattern."""
    folder.mkdir(exist_ok=True)
    photos = sorted(data.rglob("*.jpg"), key=lambda path: path.name)
    for number in range(shards):
        members = [("notes.txt", b"made by somebody else")]
        for path in photos[number::shards]:
            key = f"./photos/{path.parent.name}-{path.stem}"
            members += [
                (f"{key}.jpg", path.read_bytes()),
                (f"{key}.json", b"{}"),
                (f"{key}.cls", path.parent.name[-1:].encode() + b"\n"),
            ]
        write_tar(folder / name.format(number), members)
    return str(folder / name.format(f"{{0..{shards - 1}}}"))
