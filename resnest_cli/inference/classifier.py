"""From inputs to records: decode, preprocess, run the engine, rank. The command is built on it."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property, partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ImageError, UsageError
from resnest_cli.images import take_note
from resnest_cli.images.batches import Photo as Found
from resnest_cli.images.batches import Preparation, Prepared, Stopwatch, prepared_batches
from resnest_cli.images.sources import Source, with_bytes
from resnest_cli.inference.engine import (
    Engine,
    Output,
    TorchOptions,
    check_device_name,
    check_engine_name,
    check_gpu_decode,
    create_engine,
)
from resnest_cli.inference.extraction import Extraction, Head, Pool, without_infinite
from resnest_cli.inference.photos import Photo, as_source, as_sources, is_one, several
from resnest_cli.inference.ranking import Record, rank, record_of
from resnest_cli.model.loading import find_model
from resnest_cli.model.variants import Preprocessing, preprocessing_from_dict
from resnest_cli.net import Access
from resnest_cli.options import DEFAULT_MODEL, MAX_PIXELS, Amp, CropMode, EngineName, Interpolation

if TYPE_CHECKING:
    from resnest_cli.images.pool import Decoders
    from resnest_cli.inference.unknown import Unknown

Float32 = NDArray[np.float32]
Item = TypeVar("Item")

# ONNX Runtime on two cores, resnest50d, ms per photo in batches of 1, 2, 4, 8, 16 and 32: 45, 42,
# 40, 40, 41 and 43; memory grows with the batch.
DEFAULT_BATCH_SIZE = 8
DEFAULT_WORKERS = 1


class BatchOptions(TypedDict, total=False):
    """How sources are read, in batches of `batch_size` while the network runs on others.

    `workers` threads decode, or wait for `decoders` where there are such: with as many workers. A
    `stopwatch` times all steps. Where a GPU decodes, threads of this process do, as they must.
    """

    batch_size: int
    workers: int
    decoders: "Decoders | None"
    stopwatch: Stopwatch | None


class Classifier:
    """A network that is ready to classify photos.

        classifier = Classifier("resnest101e")
        classifier.predict("dog.jpg", topk=5).predictions[0].label

    Of a model that gives a photo several labels, or none, `model.thresholds` are not None, and
    records have `labels`, those whose probability (a sigmoid) is at least the class's threshold.

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
        gpu_decode: decode JPEGs on the GPU that the network runs on; see `images.gpu`.
        tta: average the logits of each photo and its mirror image (test-time augmentation).
        access: how weights and photos may be fetched (mirror, offline, progress).
        ready_for: the first output that will be asked for; others take a moment, once.
        trust_onnx: run an .onnx that is not made as `resnest export` makes them.
        background: for programs: get the engine ready while the first photo is decoded, and run it
            in a thread of its own, so that a signal need not wait for a batch.

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
        background: bool = False,
    ) -> None:
        special: TorchOptions = {"amp": amp, "compiled": compiled, "graphs": graphs}
        check_device_name(device)  # before weights are fetched
        check_engine_name(engine, device, **special)
        if gpu_decode:
            check_gpu_decode(engine, device, fast_decode)
            engine = "torch"
        access = access or Access()
        self.notify = access.notify
        self.compiled, self.graphs = compiled, graphs
        self._tta = tta
        self._offline = access.offline
        self._noted = False
        source = None if weights is None else str(weights)
        self.model = find_model(
            str(model), source=source, labels=labels, access=access, trust_onnx=trust_onnx,
            for_classes="logits" in ready_for,
        )  # fmt: skip
        changes = {"size": img_size, "crop_pct": crop_pct, "interpolation": interpolation}
        self.preprocessing = _changed(self.model.preprocessing, changes)
        if ready_for == "logits" and not self.model.num_classes:
            ready_for = "features"  # whatever asks for more raises that there is no classifier
        grey = self._takes_grey(gpu_decode)
        sized = replace(self.model, preprocessing=self.preprocessing)
        how = sized, device, engine, self.notify, ready_for
        self._create_engine = partial(create_engine, *how, **special)
        if self.model.exported:
            self._feed_what_it_takes(img_size)
        elif gpu_decode or not background:
            background = background or self.engine.device != "cpu"
        # As `map` does it; a signal need not wait for what runs in a thread of its own, nor does
        # the next batch for an accelerator.
        self._map = ThreadPoolExecutor(1).map if background else map
        fed = self.preprocessing, crop_mode or self.model.crop_mode, exif
        self.preparation: Preparation
        if not gpu_decode:
            self.preparation = Preparation(*fed, fast_decode, grey, max_pixels)
            return
        from resnest_cli.images.gpu import DevicePreparation

        if not (gpu := self.engine.device).startswith("cuda"):
            raise UsageError(f"--gpu-decode needs an NVIDIA GPU; the device is {gpu}.")
        self.preparation = DevicePreparation(*fed, max_pixels=max_pixels, device=gpu)
        self.preparation.check()

    def _takes_grey(self, gpu_decode: bool) -> bool:
        """Whether the network has one input channel; UsageError where photos do not fit it."""
        if self.model.grey and gpu_decode:
            raise UsageError(
                f"{self.model.path}: the network sees photos in grey, and --gpu-decode gives them "
                "in colour. Leave it out."
            )
        return self.model.grey

    def _feed_what_it_takes(self, asked: int | None) -> None:
        """Takes over the size of photos that was fixed in an exported network."""
        side = getattr(self.engine, "side", None)
        if side is None or side == self.preprocessing.size:
            return
        only = f"{self.model.path} takes photos of {side} x {side} pixels only:"
        if asked is not None:
            raise UsageError(f"{only} leave out --img-size.")
        self.notify(
            f"{only} they are prepared for that, not for the {self.preprocessing.size} that it "
            "names."
        )
        self.preprocessing = replace(self.preprocessing, size=side)

    @cached_property
    def engine(self) -> Engine:
        """What runs the network."""
        return self._create_engine()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, by index."""
        return self.model.class_names

    @overload
    def predict(
        self, photos: Photo, *, topk: int = ..., threshold: float = ...,
        unknown: float | None = ...,
    ) -> Record: ...  # fmt: skip

    @overload
    def predict(
        self, photos: list[Photo] | tuple[Photo, ...], *, topk: int = ..., threshold: float = ...,
        unknown: float | None = ...,
    ) -> list[Record]: ...  # fmt: skip

    @overload
    def predict(
        self, photos: Iterator[Photo], *, topk: int = ..., threshold: float = ...,
        unknown: float | None = ...,
    ) -> Iterator[Record]: ...  # fmt: skip

    def predict(
        self, photos: Photo | Iterable[Photo], *, topk: int = 5, threshold: float = 0.0,
        unknown: float | None = None,
    ) -> Record | list[Record] | Iterator[Record]:  # fmt: skip
        """The `topk` most probable classes of one photo, a list of them, or an iterator.

        A photo is a path, a URL, the bytes of an image file, a PIL image, or an array uint8
        (H, W, 3) in RGB or (H, W) in grey. Classes less probable than `threshold` are left out. Of
        several labels those that are selected come whatever `topk` is. One photo gives a record, a
        list a list, an iterator an iterator that reads on as it is asked.
        With `unknown`, an accepted share of false alarms such as 0.05, records have `unknown`,
        whether the photo shows something else than the training photos, and `distance`.

        Raises:
            ValueError: `topk` is below 1, or `threshold` outside of [0, 1].
            UsageError: `unknown` is outside of (0, 0.5], or too small for the checkpoint.
            CheckpointError: the checkpoint keeps nothing that `unknown` could use.
            TypeError: something that is no photo.
            ImageError: the one photo cannot be read. In a list or an iterator such a photo gives a
                record with its error, and the others are not affected.
        """
        if topk < 1 or not 0 <= threshold <= 1:
            raise ValueError(f"bad topk {topk} or threshold {threshold}")
        how: dict[str, Any] = {"topk": topk, "threshold": threshold, "unknown": unknown}
        if is_one(photos):
            record = next(self.records([as_source(photos)], **how))
            if record.error is not None:
                raise ImageError(f"{record.input}: {record.error}", kind=record.kind)
            return record
        answers = self.records(as_sources(photos), **how)
        return list(answers) if isinstance(photos, list | tuple) else answers

    def logits(self, photos: Photo | Iterable[Photo]) -> Float32:
        """Logits float32 (N, classes) of N photos, or (1, classes) of one; photos as in `predict`.

        Raises:
            ImageError: a photo cannot be read, or the network gives no finite numbers; names it.
            CheckpointError: the network has no classifier.
        """
        rows = []
        for record, logits in self.answers(as_sources(photos), topk=1):
            if logits is None:
                raise ImageError(f"{record.input}: {record.error}", kind=record.kind)
            rows.append(logits)
        return np.stack(rows) if rows else np.empty((0, self.model.num_classes), np.float32)

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
        photos = several(photos)
        found = self._feature_rows(photos, extraction)
        if not isinstance(photos, list | tuple):
            return found
        rows = []
        for row in found:
            if isinstance(row, ImageError):
                raise row
            rows.append(row)
        shape = extraction.row_shape(self.model, self.preprocessing.size)
        return np.stack(rows) if rows else np.empty((0, *shape), np.float32)

    def _feature_rows(
        self, photos: Iterable[Photo], extraction: Extraction
    ) -> Iterator[Float32 | ImageError]:
        for group, rows in self.feature_groups(as_sources(photos), extraction):
            found = iter(rows)
            for item in group:
                error = f"{item.source.name}: {item.error}"
                yield ImageError(error, kind=item.kind or "other") if item.error else next(found)

    def feature_groups(
        self,
        sources: Iterable[Source],
        extraction: Extraction,
        *,
        tta: bool = False,
        batch_size: int = DEFAULT_BATCH_SIZE,
        workers: int = DEFAULT_WORKERS,
        decoders: "Decoders | None" = None,
        stopwatch: Stopwatch | None = None,
    ) -> Iterator[tuple[list[Prepared], NDArray[Any]]]:
        """Consecutive batches of sources, each with the rows of its readable photos, in order.

        A photo whose row is not finite becomes one with an error. See `BatchOptions`, too. An
        accelerator is at work on a batch while the next is put together, and the rows of the one
        before are used; on a CPU that would take memory and no less time.
        """
        shape = extraction.row_shape(self.model, self.preprocessing.size)
        elsewhere = None if self.preparation.on_gpu else decoders
        prepare = partial(self.prepare, decoders=elsewhere, stopwatch=stopwatch)
        # One batch waits ready while the network runs on another and a third is decoded.
        ahead = 2 * batch_size + workers
        sources = with_bytes(sources)
        found = prepared_batches(sources, prepare, size=batch_size, workers=workers, ahead=ahead)
        # The engine gets ready while the first photo is decoded.
        network = partial(mean_with_mirrored, self.engine.output) if tta else self.engine.output
        stacked = getattr(self.engine, "stacked", np.stack)

        def run(batch: Float32) -> tuple[Float32, NDArray[Any]]:
            start = time.perf_counter()
            out = network(batch, extraction.output)
            rows = extraction.rows(out, self.model)
            if stopwatch is not None:
                stopwatch.add("network", time.perf_counter() - start)
            assert rows.shape == (len(batch), *shape)
            return out, rows

        def begun() -> Iterator[tuple[list[Prepared], Iterator[tuple[Float32, NDArray[Any]]]]]:
            for group in found:
                for item in group:
                    if item.note is not None:
                        self.note(item.source, item.note)
                arrays = [item.photo for item in group if item.photo is not None]
                yield group, self._map(run, [stacked(arrays)] if arrays else [])

        for group, running in _ahead(begun(), 0 if self.engine.device == "cpu" else 1):
            rows = np.empty((0, *shape), extraction.dtype)
            for out, rows in running:
                if not np.isfinite(rows).all():
                    group, rows = without_infinite(group, rows, out)  # noqa: PLW2901
            yield group, rows

    def records(
        self,
        sources: Iterable[Source],
        *,
        topk: int = 5,
        threshold: float = 0.0,
        reject_below: float = 0.0,
        unknown: float | None = None,
        **reading: Unpack[BatchOptions],
    ) -> Iterator[Record]:
        """One record per source, in order, as batches finish while the next photos are decoded.

        Classes less probable than `threshold` are left out; with `reject_below` above 0 a record
        says whether its best class is less probable than that, with `unknown`, a share of false
        alarms, whether the photo is farther from the training photos than that allows.
        """
        how = topk, threshold, reject_below, unknown
        return (record for record, _ in self.answers(sources, *how, **reading))

    def answers(
        self,
        sources: Iterable[Source],
        topk: int = 5,
        threshold: float = 0.0,
        reject_below: float = 0.0,
        unknown: float | None = None,
        **reading: Unpack[BatchOptions],
    ) -> Iterator[tuple[Record, Float32 | None]]:
        """The records of `records`, each with its logits float32 (classes,); None for an error."""
        if reject_below > 0 and self.model.thresholds is not None:
            raise UsageError(
                f"--reject-below: {self.model.name} gives a photo several labels, or none, each by "
                "its own threshold. Leave it out."
            )
        strange = None if unknown is None else self._strangeness(unknown)
        return self._answers(sources, topk, threshold, reject_below, strange, reading)

    def _strangeness(self, share: float) -> "tuple[Unknown, float]":
        """What the checkpoint keeps of its training photos, and the threshold for this share."""
        from resnest_cli.inference.unknown import Unknown
        from resnest_cli.options import share_of

        kept = Unknown.of(self.model)
        if self.preprocessing != self.model.preprocessing:
            self.notify(
                "--unknown: photos are prepared otherwise than while training, so that the share "
                "of false alarms may be another."
            )
        return kept, kept.threshold(share_of(share))

    def _answers(
        self, sources: Iterable[Source], topk: int, threshold: float, reject_below: float,
        strange: "tuple[Unknown, float] | None", reading: BatchOptions,
    ) -> Iterator[tuple[Record, Float32 | None]]:  # fmt: skip
        model, head = self.model, Extraction(head="logits")
        several = model.thresholds is not None
        if strange is not None:
            from resnest_cli.inference.unknown import FeaturesAndLogits

            head = FeaturesAndLogits()
        for group, rows in self.feature_groups(sources, head, tta=self._tta, **reading):
            logits = rows
            about: Iterator[dict[str, Any]] = repeat({})
            if strange is not None:
                features, logits = np.split(rows, [-model.num_classes], axis=1)
                about = iter(strange[0].told(features, logits, strange[1]))
            ranked = rank(logits, model.class_names, topk, model.temperature, model.thresholds)
            answers = zip(ranked, logits, about)  # noqa: B905 - the last may have no end
            for item in group:
                name = item.source.name
                if item.error is not None:
                    kind = item.kind or "other"
                    yield Record(name, model.name, item.error, kind=kind, several=several), None
                    continue
                found, row, more = next(answers)
                record = record_of(
                    name, model, found, threshold=threshold, reject_below=reject_below, **more
                )
                yield record, row

    def read(self, source: Source) -> "Found":
        """What there is to decode: a path, bytes, or an open image; ImageError for a bad source."""
        if source.error is not None:
            raise ImageError(source.error, kind=source.kind or "other")
        if source.url is not None:
            from resnest_cli.images.remote import fetch_photo

            return fetch_photo(source.url, offline=self._offline)
        if source.image is not None:
            return source.image
        if source.path is None:
            assert source.data is not None
            return source.data
        if source.path.startswith(("/dev/", "/proc/")):  # may be another file in a decoder
            from resnest_cli.images.decode import read_file

            found = read_file(source.path)
            return found if isinstance(found, bytes) else Path(found).read_bytes()
        return source.path

    def prepare(
        self, source: Source, *, decoders: "Decoders | None" = None,
        stopwatch: Stopwatch | None = None,
    ) -> tuple[Float32, str | None]:  # fmt: skip
        """Reads and preprocesses a source: float32 (3, size, size), and a note on it if any.

        Raises:
            ImageError: whatever is wrong with the source.
        """
        start = time.perf_counter()
        photo = self.read(source)
        fetched = time.perf_counter() - start
        if decoders is not None and isinstance(photo, str | bytes):
            array, reading, decoding = decoders.run(self.preparation.timed, photo, source.frame)
        else:
            array, reading, decoding = self.preparation.timed(photo, source.frame)
        if stopwatch is not None:
            stopwatch.add("read", fetched + reading)
            stopwatch.add("decode", decoding)
        return array, take_note()

    def note(self, source: Source, text: str | None) -> None:
        """Notifies of a remark about a photo that could be read; of the first one only."""
        if text is not None and not self._noted:
            self._noted = True
            self.notify(f"{source.name}: {text}.")


def _ahead(items: Iterator[Item], count: int) -> Iterator[Item]:
    """Yields the items, each after `count` more were taken."""
    taken: deque[Item] = deque()
    for item in items:
        taken.append(item)
        if len(taken) > count:
            yield taken.popleft()
    yield from taken


def mean_with_mirrored(
    network: Callable[[Float32, Output], Float32], batch: Float32, output: Output
) -> Float32:
    """What a network gives for photos (N, 3, H, W), averaged with that for their mirror images."""
    mirrored = np.ascontiguousarray(batch[..., ::-1])
    with np.errstate(over="ignore", invalid="ignore"):  # shows as no finite number
        return (network(batch, output) + network(mirrored, output)) / np.float32(2)


def _changed(preprocessing: Preprocessing, changes: dict[str, Any]) -> Preprocessing:
    """The preprocessing with what is not None changed; UsageError where that is out of range."""
    wanted = {name: value for name, value in changes.items() if value is not None}
    try:
        return preprocessing_from_dict(asdict(preprocessing) | wanted)
    except ValueError as error:
        raise UsageError(f"{error}.") from error
