"""From inputs to records: decode, preprocess, run the engine, rank. The command is built on it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ImageError, UsageError
from resnest_cli.images.batches import Photo as Found
from resnest_cli.images.batches import Preparation, Prepared, groups, prepared
from resnest_cli.images.limits import MAX_PIXELS
from resnest_cli.images.preprocess import CropMode
from resnest_cli.images.sources import Source
from resnest_cli.inference.engine import (
    EngineName,
    Output,
    check_device_name,
    check_engine_name,
    create_engine,
)
from resnest_cli.inference.extraction import BEYOND_FLOAT16, Extraction, Head, Pool
from resnest_cli.inference.photos import SINGLE, Photo, as_source, as_sources
from resnest_cli.inference.ranking import rank
from resnest_cli.inference.records import NOT_FINITE, Record
from resnest_cli.inference.run_options import Amp
from resnest_cli.model.loading import find_model
from resnest_cli.model.variants import DEFAULT_MODEL, Interpolation, preprocessing_from_dict
from resnest_cli.model.weights import Access

if TYPE_CHECKING:
    from resnest_cli.inference.stopwatch import Stopwatch

Float32 = NDArray[np.float32]
Prepare = Callable[[int, Source], Float32]

# ONNX Runtime on two cores, resnest50d, ms per photo in batches of 1, 2, 4, 8, 16 and 32: 45, 42,
# 40, 40, 41 and 43; memory grows with the batch.
DEFAULT_BATCH_SIZE = 8
DEFAULT_WORKERS = 1


class Classifier:
    """A network that is ready to classify photos.

        classifier = Classifier("resnest101e")
        classifier.predict("dog.jpg", topk=5).predictions[0].label

    Args:
        model: id or alias of a variant, a name of the hub, or the path of a folder with a
            config.json, of a checkpoint or of an exported .onnx.
        weights: path, URL or name of the hub of other weights for a named variant.
        labels: file of class names, one a line, instead of the model's own.
        device: auto, cpu, cuda, cuda:1 or mps.
        engine: auto, torch or onnx.
        amp: "bfloat16" or "float16" convolutions instead of float32 ("off"); torch engine.
        compiled: run the network through torch.compile; takes a minute before the first batch.
        graphs: record the network as a CUDA graph for the first batch's size.
        img_size, crop_pct, interpolation: other preprocessing than the model's.
        crop_mode: "center", "border" or "squash" instead of the model's own; see
            `images.preprocess.preprocess`.
        exif: turn photos upright as their EXIF orientation says.
        max_pixels: photos of more are an error; one takes up to 12 bytes of memory for each.
        fast_decode: decode large JPEGs at reduced scale; see `images.batches.Preparation`.
        gpu_decode: decode JPEGs on the GPU that the network runs on; see `images.device_decode`.
        tta: average the logits of each photo and its mirror image (test-time augmentation).
        access: how weights and photos may be fetched (mirror, offline, progress).
        ready_for: the first output that will be asked for; others take a moment, once.
        trust_onnx: run an .onnx that is not made as `resnest export` makes them.

    Raises:
        ResnestError: the model, its weights, its labels or the device cannot be had.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        weights: str | Path | None = None,
        labels: str | Path | None = None,
        device: str = "auto",
        engine: EngineName = "auto",
        amp: Amp = "off",
        compiled: bool = False,
        graphs: bool = False,
        img_size: int | None = None,
        crop_pct: float | None = None,
        interpolation: Interpolation | None = None,
        crop_mode: CropMode | None = None,
        exif: bool = True,
        max_pixels: int = MAX_PIXELS,
        fast_decode: bool = False,
        gpu_decode: bool = False,
        tta: bool = False,
        access: Access | None = None,
        ready_for: Output = "logits",
        trust_onnx: bool = False,
    ) -> None:
        check_device_name(device)  # before weights are fetched
        check_engine_name(engine, device, amp=amp, compiled=compiled, graphs=graphs)
        if gpu_decode:
            _check_gpu_decode(engine, device, fast_decode)
        access = access or Access()
        self.model = find_model(
            str(model),
            source=None if weights is None else str(weights),
            labels=labels,
            access=access,
            trust_onnx=trust_onnx,
        )
        changes = {"size": img_size, "crop_pct": crop_pct, "interpolation": interpolation}
        settings = asdict(self.model.preprocessing)
        settings |= {name: value for name, value in changes.items() if value is not None}
        try:
            self.preprocessing = preprocessing_from_dict(settings)
        except ValueError as error:
            raise UsageError(f"{error}.") from error
        channels = self.model.in_channels
        if channels not in {1, 3} or (gpu_decode and channels != 3):
            raise UsageError(
                f"{self.model.path}: the network takes {channels} channels; photos have 3, or 1 in "
                "grey without --gpu-decode. Give another --model."
            )
        self.preparation = Preparation(
            self.preprocessing,
            crop_mode or self.model.crop_mode,
            exif,
            fast_decode,
            grey=channels == 1,
            max_pixels=max_pixels,
        )
        self.notify = access.notify
        sized = replace(self.model, preprocessing=self.preprocessing)
        if ready_for == "logits" and not self.model.num_classes:
            ready_for = "features"  # what asks for more is told that there is no classifier
        self.engine = create_engine(
            sized,
            device,
            "torch" if gpu_decode else engine,
            access.notify,
            ready_for,
            amp=amp,
            compiled=compiled,
            graphs=graphs,
        )
        if self.model.exported:
            self._feed_what_it_takes(img_size)
        if gpu_decode:
            self.preparation = self._decoding_on_gpu()
        self.compiled = compiled
        self._tta = tta
        self._offline = access.offline
        self._noted = False

    def _feed_what_it_takes(self, asked: int | None) -> None:
        """Takes over the size of photos that was fixed in an exported network.

        Raises:
            UsageError: another was asked for.
        """
        side = getattr(self.engine, "side", None)
        if side is None or side == self.preprocessing.size:
            return
        if asked is not None:
            raise UsageError(
                f"{self.model.path} takes photos of {side} x {side} pixels only: leave out "
                "--img-size."
            )
        self.notify(
            f"{self.model.path} takes photos of {side} x {side} pixels only: they are prepared for "
            f"that, not for the {self.preprocessing.size} that it names."
        )
        self.preprocessing = replace(self.preprocessing, size=side)
        self.preparation = replace(self.preparation, preprocessing=self.preprocessing)

    def _decoding_on_gpu(self) -> Preparation:
        from resnest_cli.images.device_decode import DevicePreparation

        device = self.engine.device
        if not device.startswith("cuda"):
            raise UsageError(f"--gpu-decode needs an NVIDIA GPU; the device is {device}.")
        plain = self.preparation
        return DevicePreparation(
            plain.preprocessing,
            plain.crop_mode,
            plain.exif,
            max_pixels=plain.max_pixels,
            device=device,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, by index."""
        return self.model.class_names

    @overload
    def predict(self, photos: Photo, *, topk: int = ..., threshold: float = ...) -> Record: ...

    @overload
    def predict(
        self, photos: list[Photo] | tuple[Photo, ...], *, topk: int = ..., threshold: float = ...
    ) -> list[Record]: ...

    @overload
    def predict(
        self, photos: Iterator[Photo], *, topk: int = ..., threshold: float = ...
    ) -> Iterator[Record]: ...

    def predict(
        self,
        photos: Photo | Iterable[Photo],
        *,
        topk: int = 5,
        threshold: float = 0.0,
    ) -> Record | list[Record] | Iterator[Record]:
        """The `topk` most probable classes of one photo, a list of them, or an iterator.

        A photo is a path, a URL, the bytes of an image file, a PIL image, or an array uint8
        (H, W, 3) in RGB or (H, W) in grey. Classes less probable than `threshold` are left out. One
        photo gives a record, a list a list, an iterator an iterator that reads on as it is asked.

        Raises:
            ValueError: `topk` is below 1, or `threshold` outside of [0, 1].
            TypeError: something that is no photo.
            ImageError: the one photo cannot be read. In a list or an iterator such a photo gives a
                record with its error, and the others are not affected.
        """
        if topk < 1 or not 0 <= threshold <= 1:
            raise ValueError(f"bad topk {topk} or threshold {threshold}")
        if isinstance(photos, SINGLE):
            record = next(self.records([as_source(photos)], topk=topk, threshold=threshold))
            if record.error is not None:
                raise ImageError(f"{record.input}: {record.error}")
            return record
        answers = self.records(as_sources(photos), topk=topk, threshold=threshold)
        return list(answers) if isinstance(photos, list | tuple) else answers

    def logits(self, photos: Photo | Iterable[Photo]) -> Float32:
        """Logits float32 (N, classes) of N photos, or (1, classes) of one; photos as in `predict`.

        Raises:
            ImageError: a photo cannot be read, or the network gives no finite numbers; names it.
            CheckpointError: the network has no classifier.
        """
        self.model.need_classifier()
        sources = as_sources([photos] if isinstance(photos, SINGLE) else photos)
        rows = []
        for group in self._groups(sources, DEFAULT_BATCH_SIZE, DEFAULT_WORKERS):
            checked, logits = self._run(group)
            for item in checked:
                if item.error is not None:
                    raise ImageError(f"{item.source.name}: {item.error}")
            rows.append(logits)
        return np.concatenate(rows) if rows else np.empty((0, self.model.num_classes), np.float32)

    @overload
    def features(
        self,
        photos: Photo | list[Photo] | tuple[Photo, ...],
        *,
        pool: Pool = ...,
        stage: int | None = ...,
        head: Head | None = ...,
    ) -> Float32: ...

    @overload
    def features(
        self,
        photos: Iterator[Photo],
        *,
        pool: Pool = ...,
        stage: int | None = ...,
        head: Head | None = ...,
    ) -> Iterator[Float32 | ImageError]: ...

    def features(
        self,
        photos: Photo | Iterable[Photo],
        *,
        pool: Pool = "avg",
        stage: int | None = None,
        head: Head | None = None,
    ) -> Float32 | Iterator[Float32 | ImageError]:
        """Features of N photos: float32 (N, 2048), pooled before the classifier, by default.

        `pool="none"` gives maps (N, 2048, h, w), `stage` 0 to 4 the maps of that stage (pooled or
        not), `head` "logits" or "probabilities" (N, classes); timm's names and numbers. Photos as
        in `predict`: one gives (1, ...), a list (N, ...). An iterator gives an iterator, for what
        does not fit in memory: one row (...) for each photo, in order, as it is asked, and in place
        of the row of a photo that cannot be read its `ImageError`, not raised: the others are not
        affected. `tta` does not act here.

        Raises:
            ImageError: a photo of a list cannot be read; names it.
            UsageError: a stage that does not exist, or options that exclude each other.
        """
        extraction = Extraction(pool, stage, head)
        if not isinstance(photos, SINGLE) and not isinstance(photos, list | tuple):
            return self._feature_rows(photos, extraction)
        rows = []
        listed = [photos] if isinstance(photos, SINGLE) else photos
        for row in self._feature_rows(listed, extraction):
            if isinstance(row, ImageError):
                raise row
            rows.append(row)
        if rows:
            return np.stack(rows)
        return np.empty((0, *extraction.row_shape(self.model, self.preprocessing.size)), np.float32)

    def _feature_rows(
        self, photos: Iterable[Photo], extraction: Extraction
    ) -> Iterator[Float32 | ImageError]:
        for group, rows in self.feature_groups(as_sources(photos), extraction):
            found = iter(rows)
            for item in group:
                if item.error is None:
                    yield next(found)
                else:
                    yield ImageError(f"{item.source.name}: {item.error}")

    def feature_groups(
        self,
        sources: Iterable[Source],
        extraction: Extraction,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        workers: int = DEFAULT_WORKERS,
        first: int = 0,
        prepare: Prepare | None = None,
        stopwatch: "Stopwatch | None" = None,
    ) -> Iterator[tuple[list[Prepared], NDArray[Any]]]:
        """Consecutive batches of sources, each with the rows of its readable photos, in order.

        A photo whose row is not finite becomes one with an error.
        `prepare`, `first` and `workers` as in `records`; a `stopwatch` is told the network's time.
        """
        shape = extraction.row_shape(self.model, self.preprocessing.size)
        running = stopwatch.running if stopwatch else lambda _: nullcontext()
        for group in self._groups(sources, batch_size, workers, first, prepare):
            arrays = [item.photo for item in group if item.photo is not None]
            rows = np.empty((0, *shape), extraction.dtype)
            if arrays:
                with running("network"):
                    out = self.engine.output(np.stack(arrays), extraction.output)
                    rows = extraction.rows(out, self.model.temperature)
                assert rows.shape == (len(arrays), *shape)
                group, rows = _finite(group, rows, out)  # noqa: PLW2901
            yield group, rows

    def records(
        self,
        sources: Iterable[Source],
        *,
        topk: int = 5,
        threshold: float = 0.0,
        reject_below: float = 0.0,
        batch_size: int = DEFAULT_BATCH_SIZE,
        workers: int = DEFAULT_WORKERS,
        first: int = 0,
        prepare: Prepare | None = None,
    ) -> Iterator[Record]:
        """One record per source, in order, as batches finish while the next photos are decoded.

        Classes less probable than `threshold` are left out; with `reject_below` above 0 a record
        says whether its best class is less probable than that.
        `workers` threads decode; `prepare` replaces what they do, and is given each source's index,
        counted from `first`.
        """
        answers = self.answers(
            sources, topk=topk, batch_size=batch_size, workers=workers, first=first, prepare=prepare
        )
        for record, _ in answers:
            if not record.predictions or (threshold <= 0 and reject_below <= 0):
                yield record
                continue
            kept = tuple(p for p in record.predictions if p.probability >= threshold)
            unsure = record.predictions[0].probability < reject_below if reject_below > 0 else None
            yield replace(record, predictions=kept, unsure=unsure)

    def answers(
        self,
        sources: Iterable[Source],
        *,
        topk: int = 5,
        batch_size: int = DEFAULT_BATCH_SIZE,
        workers: int = DEFAULT_WORKERS,
        first: int = 0,
        prepare: Prepare | None = None,
    ) -> Iterator[tuple[Record, Float32 | None]]:
        """The records of `records`, each with its logits float32 (classes,); None for an error.

        Raises:
            CheckpointError: the network has no classifier.
        """
        self.model.need_classifier()
        for read in self._groups(sources, batch_size, workers, first, prepare):
            group, logits = self._run(read)
            names, temperature = self.class_names, self.model.temperature
            ranked = iter(rank(logits, names, topk, temperature) if len(logits) else ())
            rows = iter(logits)
            for item in group:
                if item.error is not None:
                    yield Record(item.source.name, self.model.name, error=item.error), None
                else:
                    record = Record(item.source.name, self.model.name, predictions=next(ranked))
                    yield record, next(rows)

    def prepare(self, _index: int, source: Source) -> Float32:
        """Reads and preprocesses one source: float32 (3, size, size).

        Raises:
            ImageError: whatever is wrong with it.
        """
        return self.preparation(self.read(source))

    def read(self, source: Source) -> "Found":
        """What there is to decode: a path, bytes (fetched where it is a URL), or an open image.

        Raises:
            ImageError: the photo cannot be fetched.
        """
        if source.url is not None:
            from resnest_cli.images.remote import fetch_photo

            return fetch_photo(source.url, offline=self._offline)
        if source.image is not None:
            return source.image
        found = source.path if source.path is not None else source.data
        assert found is not None
        return found

    def _groups(
        self,
        sources: Iterable[Source],
        batch_size: int,
        workers: int,
        first: int = 0,
        prepare: Prepare | None = None,
    ) -> Iterator[list[Prepared]]:
        # One batch waits ready while the network runs on another and a third is decoded.
        ahead = 2 * batch_size + workers
        prepare = prepare or self.prepare
        items = prepared(sources, prepare, workers=workers, ahead=ahead, first=first)
        for group in groups(items, batch_size):
            for item in group:
                self.note(item.source, item.note)
            yield group

    def note(self, source: Source, text: str | None) -> None:
        """Says what is worth saying about a photo that could be read, of the first such only."""
        if text is not None and not self._noted:
            self._noted = True
            self.notify(f"{source.name}: {text}.")

    def _run(self, group: list[Prepared]) -> tuple[list[Prepared], Float32]:
        """The group with an error where logits are not finite, and the others' logits, in order."""
        arrays = [item.photo for item in group if item.photo is not None]
        if not arrays:
            return group, np.empty((0, self.model.num_classes), np.float32)
        batch = np.stack(arrays)
        logits = self.engine.logits(batch)
        if self._tta:
            mirrored = self.engine.logits(np.ascontiguousarray(batch[..., ::-1]))
            with np.errstate(over="ignore", invalid="ignore"):  # shows as no finite number
                logits = (logits + mirrored) / np.float32(2)
        return _finite(group, logits, logits)


def _finite(
    group: list[Prepared], rows: NDArray[Any], out: Float32
) -> tuple[list[Prepared], NDArray[Any]]:
    """The group with an error for each photo whose row is not finite, and the rows that are.

    `out` is what the engine gave for them, before it was rounded.
    """
    if np.isfinite(rows).all():
        return group, rows
    good, before = ([bool(np.isfinite(row).all()) for row in array] for array in (rows, out))
    fine = iter(zip(good, before, strict=True))
    checked = []
    for item in group:
        well, rounded = next(fine) if item.photo is not None else (True, True)
        error = BEYOND_FLOAT16 if rounded else NOT_FINITE
        checked.append(item if well else item._replace(photo=None, error=error))
    return checked, rows[good]


def _check_gpu_decode(engine: str, device: str, fast_decode: bool) -> None:
    """Raises UsageError for what --gpu-decode does not go with; before weights are fetched."""
    if fast_decode:
        raise UsageError("--gpu-decode and --fast-decode exclude each other: choose one.")
    if engine == "onnx" or device in {"cpu", "mps"}:
        where = "--engine onnx" if engine == "onnx" else f"--device {device}"
        raise UsageError(f"--gpu-decode needs an NVIDIA GPU and torch: leave out {where}.")
