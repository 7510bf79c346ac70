"""Photos with detail, their copies, and surveys of them without a network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from resnest_cli.data.labelled_photos import LabelledPhoto, Side
from resnest_cli.inspection.photo_facts import facts_of
from resnest_cli.inspection.survey import Survey

CHANGES = ("scaled", "cropped", "recompressed", "mirrored", "coloured", "several")


def picture(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A picture of shapes of all sizes; another seed, another picture."""
    draw = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cells, weight in ((3, 1.0), (7, 0.7), (15, 0.5), (31, 0.3)):
        grid = draw.integers(0, 256, (cells, cells + 1, 3), dtype=np.uint8)
        layer = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
        total += weight * (np.asarray(layer, float) - 128)
    return Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))


def changed(photo: Image.Image, change: str) -> Image.Image:
    """A copy of a photo that went through one of `CHANGES`; recompressing is for `save`."""
    width, height = photo.size
    if change == "scaled":
        return photo.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    if change == "cropped":
        return photo.crop((round(0.08 * width), round(0.02 * height), width, round(0.93 * height)))
    if change == "mirrored":
        return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if change == "coloured":
        return ImageEnhance.Color(ImageEnhance.Brightness(photo).enhance(1.2)).enhance(0.6)
    if change == "blurred":
        return photo.filter(ImageFilter.GaussianBlur(4))
    if change == "several":
        for one in ("cropped", "mirrored", "coloured", "scaled"):
            photo = changed(photo, one)
    return photo


def save(photo: Image.Image, path: Path, *, quality: int = 92) -> Path:
    """Writes a photo; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.save(path, quality=quality)
    return path


def members(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """The places of the photos of each class."""
    return tuple(np.flatnonzero(labels == label) for label in range(labels.max(initial=-1) + 1))


def survey_of(
    photos: Sequence[Image.Image],
    labels: Sequence[str] | None = None,
    sides: Sequence[Side | None] | None = None,
    features: np.ndarray | None = None,
) -> Survey:
    """A survey of pictures, `0.jpg` and so on, with features of noise unless given."""
    labels = labels or ["a"] * len(photos)
    sides = sides or [None] * len(photos)
    names = tuple(sorted(set(labels)))
    numbers = np.array([names.index(label) for label in labels], np.int64)
    records = [
        LabelledPhoto(f"/data/{number}.jpg", f"{number}.jpg", label, side)
        for number, (label, side) in enumerate(zip(labels, sides, strict=True))
    ]
    if features is None:
        features = np.random.default_rng(0).normal(size=(len(photos), 16))
    return Survey(
        photos=tuple(records),
        labels=numbers,
        class_names=names,
        members=members(numbers),
        facts=np.stack([facts_of(photo) for photo in photos]),
        features=features.astype(np.float32),
    )
