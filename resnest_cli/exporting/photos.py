"""The user's photos for a check or a calibration: chosen evenly, preprocessed as `predict` does.

They are decoded in a replaceable process with limits (`images.isolation`): a photo on which a
decoder crashes is one that cannot be read, and the export goes on.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images.batches import Preparation, groups, prepared
from resnest_cli.images.isolation import IsolatedDecoder
from resnest_cli.images.sources import Source, iter_sources
from resnest_cli.model.training_photos import digest_of
from resnest_cli.model.variants import Preprocessing

if TYPE_CHECKING:
    from resnest_cli.data.listing import Listing
    from resnest_cli.model.loading import Model

Float32 = NDArray[np.float32]
T = TypeVar("T")

BATCH = 8
MEASURED_AT_MOST = 1000  # photos kept apart from a calibration
_AHEAD = 3 * BATCH
_FEW = 50  # to calibrate with


def photos_of(folder: str) -> list[str]:
    """The paths of all photos in a folder and below it, in order.

    Raises:
        UsageError: there is no such folder, or no photo in it.
        ResnestError: a folder cannot be read.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"{folder}: there is no such folder of photos.")
    found = []
    for source in iter_sources([folder]):
        if source.path is None:
            raise ResnestError(f"{source.name} {source.error}.")
        found.append(source.path)
    if not found:
        raise UsageError(f"{folder}: no photo in it has a known image extension.")
    return found


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, in order, spread over all of them."""
    if len(items) <= most:
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * most)] for index in range(most)]


class Reader:
    """Reads photos in batches; counts those that cannot be read. A context manager."""

    def __init__(
        self, preprocessing: Preprocessing, progress: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        self.unreadable: dict[str, str] = {}  # path -> why
        self._preparation = Preparation(preprocessing)
        self._progress = progress
        self._decoder = IsolatedDecoder(1)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def batches(self, paths: Sequence[str]) -> Iterator[tuple[list[str], Float32]]:
        """The paths and the arrays, float32 (N, 3, size, size), of up to `BATCH` photos a time."""
        sources = (Source(path, path=path) for path in paths)
        items = prepared(sources, self._prepare, workers=1, ahead=_AHEAD)
        done = 0
        for group in groups(items, BATCH):
            good = [item for item in group if item.photo is not None]
            self.unreadable |= {i.source.name: i.error for i in group if i.error is not None}
            if good:
                arrays = [item.photo for item in good if item.photo is not None]
                yield [item.source.name for item in good], np.stack(arrays)
            done += len(group)
            self._progress(done, len(paths))

    def _prepare(self, _index: int, source: Source) -> Float32:
        assert source.path is not None
        return self._decoder.submit(self._preparation, source.path).result()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which photos calibrate, and which are kept apart to measure; paths.

    `truth` is the class of each, where the folder is one of class folders that the model knows.
    """

    calibration: list[str]
    held_out: list[str]
    truth: dict[str, int] | None
    notes: list[str]


def planned(folder: str, model: "Model", most: int) -> Plan:
    """Chooses at most `most` photos to calibrate, at most half of them all, and others to measure.

    Data with a split of their own calibrate on the one side and measure on the other.

    Raises:
        UsageError: there are fewer than two photos.
    """
    every = photos_of(folder)
    listing, truth, notes = _class_folders(folder, every, model)
    sides = {photo.path: photo.side for photo in listing.photos} if listing else {}
    paths = list(sides) or every
    held_out = [path for path in paths if sides.get(path) in {"val", "test"}]
    if held_out:
        calibration = evenly([path for path in paths if sides[path] in {None, "train"}], most)
    else:
        if len(paths) < 2:
            raise UsageError(
                f"{folder}: has one photo only. Half of the photos calibrate at most, the others "
                "say what it costs: give a hundred or more."
            )
        calibration = evenly(paths, min(most, len(paths) // 2))
        used = set(calibration)
        held_out = [path for path in paths if path not in used]
    if len(calibration) < _FEW:
        notes.append(f"{len(calibration)} photo(s) are few to calibrate with; give a hundred.")
    measured = evenly(held_out, MEASURED_AT_MOST)
    trained = _trained_on(measured, model)
    if trained and truth is not None:
        notes.append(
            f"{trained} of the {len(measured)} photos that measure top-1 are ones that the model "
            "was trained on: both figures are too good, their difference stands."
        )
    return Plan(calibration, measured, truth, notes)


def _trained_on(paths: list[str], model: "Model") -> int:
    """How many of the photos the model is known to have learned from."""
    if model.trained_on is None:
        return 0
    known, count = model.trained_on.membership(model.path), 0
    for path in paths:
        with contextlib.suppress(OSError):  # told where it is decoded
            count += known(digest_of(path))
    return count


def _class_folders(
    folder: str, every: list[str], model: "Model"
) -> "tuple[Listing | None, dict[str, int] | None, list[str]]":
    """The photos by class, and the class of each; None where they are not all in such folders."""
    from resnest_cli.data.class_folders import list_data
    from resnest_cli.evaluation.truth import class_indices, folder_names

    try:
        listing = list_data(folder)
    except UsageError:
        return None, None, []
    if len(listing.photos) != len(every):
        return None, None, []
    try:
        labels = {photo.label for photo in listing.photos}
        folders = folder_names(folder, listing)
        truth = class_indices(labels, model, known_only=True, folders=folders)
    except UsageError as error:  # a name that several classes have
        return listing, None, [f"No top-1: {error}"]
    if truth.unknown:
        known = f"the model does not know {truth.unknown[0]!r}"
        return listing, None, [f"No top-1: {known}, one of the folders in {folder}."]
    indices = {photo.path: truth.indices[photo.label] for photo in listing.photos}
    return listing, indices, truth.notes
