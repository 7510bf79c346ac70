"""An .onnx network in 8 bits: static quantisation with ONNX Runtime's own tools.

`planned` chooses the photos, `quantized` makes the network, `speeds` measures it on this machine.

Weights and activations become int8 and uint8 with a scale each (per output channel for weights),
between QuantizeLinear and DequantizeLinear, which runtimes turn into integer arithmetic. The ranges
of the activations are the least and largest values on the calibration photos.

Measured with resnest14t on 1,400 of Tiny ImageNet's validation photos, 200 others to calibrate, one
core with AVX-512 VNNI, ONNX Runtime 1.32; photos a second in batches of 8, all in turn:

    what has 8 bits                       same first class    top-1   photos/s
    nothing                                                  50.4 %        741
    everything                                      93.4 %   50.9 %      1,127
    everything, weights 7 bits                      93.6 %   50.1 %      1,122
    convolutions and classifier, 7 bits             92.9 %   50.1 %      1,072
    everything but the attention, 7 bits            92.9 %   50.4 %      1,096
    everything, 7 bits, ranges cut at 99.999 %      93.8 %   50.9 %      1,110

The differences between the last five are chance (one standard error is 0.7 points of agreement).
So everything has 8 bits, and weights use 7 of them (`reduce_range`): processors without VNNI add
products of 8 bits in 16, which overflow, and would give other answers than were measured.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from resnest_cli.errors import EngineError, ResnestError, UsageError
from resnest_cli.export.parity import BATCH, Run, evenly, listed, photos_of
from resnest_cli.files import writing
from resnest_cli.images.batches import Float32
from resnest_cli.model.training_photos import digest_of
from resnest_cli.text import count

if TYPE_CHECKING:
    from onnx import ModelProto

    from resnest_cli.data.labelled_photos import LabelledData
    from resnest_cli.model.loading import Model

MEASURED_AT_MOST = 1000  # photos kept apart from a calibration
_FEW = 50  # to calibrate with
_ROUNDS = 5, 31  # least and most of each network
_SECONDS = 10.0  # for the rounds of one batch size


@dataclass(frozen=True, slots=True)
class PhotoPlan:
    """Which photos calibrate, and which are kept apart to measure; paths.

    `truth` are the classes of each, where the data say them and the model knows them.
    """

    calibration: list[str]
    held_out: list[str]
    truth: dict[str, tuple[int, ...]] | None
    notes: list[str]


def planned(folder: str, model: "Model", most: int) -> PhotoPlan:
    """Chooses at most `most` photos to calibrate, at most half of them all, and others to measure.

    `folder` may be a table of photos as well. Data with a split of their own calibrate on the one
    side and measure on the other.
    """
    every = photos_of(folder, several=model.thresholds is not None)
    listing, truth, notes = _labelled(folder, every, model)
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
        notes.append(f"Only {count(len(calibration), 'photo')} to calibrate with; give a hundred.")
    measured = evenly(held_out, MEASURED_AT_MOST)
    trained = _trained_on(measured, model)
    if trained and truth is not None:
        notes.append(
            f"{trained} of the {len(measured)} photos that measure {_figure(model)} are ones that "
            "the model was trained on: both figures are too good, their difference stands."
        )
    return PhotoPlan(calibration, measured, truth, notes)


def _trained_on(paths: list[str], model: "Model") -> int:
    """How many of the photos the model is known to have learned from."""
    if model.trained_on is None:
        return 0
    known, count = model.trained_on.membership(model.path), 0
    for path in paths:
        with contextlib.suppress(OSError):  # said where it is decoded
            count += known(digest_of(path))
    return count


def _labelled(
    folder: str, every: list[str], model: "Model"
) -> "tuple[LabelledData | None, dict[str, tuple[int, ...]] | None, list[str]]":
    """The photos with labels, and the classes of each; None where not all of them have any."""
    from resnest_cli.evaluation.evaluate import class_indices, folder_names

    no_figure = f"No {_figure(model)}:"
    try:
        listing = listed(folder, several=model.thresholds is not None)
        if model.thresholds is None:
            listing.need_one_label(folder, "export")
    except UsageError:
        return None, None, []
    if len(listing.photos) != len(every):
        return None, None, []
    if model.thresholds is not None and Path(folder).is_dir():
        why = "class folders name one label of each photo. Give a table of all of them."
        return listing, None, [f"{no_figure} {why}"]
    labels = {photo.path: listing.labels_of(photo) for photo in listing.photos}
    try:
        folders = folder_names(folder, listing)
        truth = class_indices(
            chain.from_iterable(labels.values()), model, known_only=True, folders=folders
        )
    except UsageError as error:  # a name that several classes have
        return listing, None, [f"{no_figure} {error}"]
    if truth.unknown:
        known = f"the model does not know {truth.unknown[0]!r}"
        return listing, None, [f"{no_figure} {known}, one of the labels in {folder}."]
    indices = {path: tuple(truth.indices[one] for one in own) for path, own in labels.items()}
    return listing, indices, truth.notes


def _figure(model: "Model") -> str:
    return "top-1" if model.thresholds is None else "mAP"


def quantized(proto: "ModelProto", batches: Iterable[Float32]) -> "ModelProto":
    """The network in 8 bits, calibrated on batches of photos (N, 3, H, W)."""
    import onnx

    try:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as error:
        raise EngineError(f"ONNX Runtime's quantisation cannot be loaded: {error}.") from error

    seen = 0

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            # One by one: every map of the network is kept until its range is known.
            self._photos = (batch[i : i + 1] for batch in batches for i in range(len(batch)))

        def get_next(self) -> dict[str, Any] | None:
            nonlocal seen
            photo = next(self._photos, None)
            seen += photo is not None
            return None if photo is None else {"photos": photo}

    try:
        temporary = tempfile.TemporaryDirectory(prefix="resnest-int8-")
        with writing(Path(tempfile.gettempdir())), temporary as folder, _silent():
            target = Path(folder) / "int8.onnx"
            quantize_static(
                proto,
                str(target),
                Photos(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
            )
            return onnx.load(str(target))
    except ResnestError:
        raise
    except Exception as error:
        if not seen:
            raise ResnestError("no photo to calibrate with can be read.") from error
        raise EngineError(f"ONNX Runtime cannot quantise the network: {error}.") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the tools' advice to prepare the model: its batch norms are folded already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def speeds(runs: Mapping[str, Run], photos: Float32) -> dict[str, dict[str, float]]:
    """Milliseconds for one photo and photos a second in batches of 8, of each network.

    Medians of rounds in which all take turns, after one that does not count. `photos` are at least
    one, float32 (N, 3, H, W).
    """
    batch = np.resize(photos, (BATCH, *photos.shape[1:]))
    alone, many = (_medians(runs, batch[:size]) for size in (1, BATCH))
    return {
        name: {"ms": alone[name] * 1e3, "photos_per_second": BATCH / many[name]} for name in runs
    }


def _medians(runs: Mapping[str, Run], batch: Float32) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(batch)
    least, most = _ROUNDS
    start = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - start > _SECONDS:
            break
        for name, run in runs.items():
            before = time.perf_counter()
            run(batch)
            taken[name].append(time.perf_counter() - before)
    return {name: median(times) for name, times in taken.items()}
