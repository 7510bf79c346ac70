"""Every photo of a data set looked at once: its facts, its features, or why it cannot be read.

What was found is kept below `$RESNEST_HOME/check/`, a folder for each data set and network; see
`kept_photos`. A photo is known by its path, size and time of change: a later run looks at what is
new or changed, and at what could not be read; one that was stopped goes on.
"""

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from resnest_cli import paths
from resnest_cli.data.labelled_photos import LabelledData, LabelledPhoto
from resnest_cli.data.split import merged_copies
from resnest_cli.errors import CheckpointError, ErrorKind, ImageError, reason
from resnest_cli.files import lock_file, writing
from resnest_cli.images import take_note
from resnest_cli.images.batches import Prepared, prepared_batches
from resnest_cli.images.sources import Source
from resnest_cli.inference.ranking import NOT_FINITE
from resnest_cli.inspection import photo_facts
from resnest_cli.inspection.kept_photos import KEPT, KEY_BYTES, KeptPhotos
from resnest_cli.inspection.photo_facts import Facts, look
from resnest_cli.progress import Progress, silent

if TYPE_CHECKING:
    from resnest_cli.images.pool import Decoders
    from resnest_cli.inference.classifier import Classifier

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# What a kill may lose: so many photos, about, or seconds of work.
CHUNK = 512
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Survey:
    """N readable photos of K classes, row by row, and those that cannot be read.

    `labels` int64 (N,) are indices into `class_names`, which are sorted; where a photo may have
    several (`multi_label`), the same number for photos with the same ones. `members` has the places
    of the photos of each class, int64, in order; `facts` FACTS (N,); `features` float32 (N, D),
    pooled, a memory map, or rows of one. Each of `bad` has its error, and its kind beside it.
    `also` names, by a photo's name, files with its content in other class folders. `computed`
    counts the photos that were looked at now.
    """

    photos: tuple[LabelledPhoto, ...]
    labels: Int64
    class_names: tuple[str, ...]
    members: tuple[Int64, ...]
    facts: Facts
    features: Float32
    multi_label: bool = False
    bad: tuple[tuple[LabelledPhoto, ErrorKind], ...] = ()
    also: Mapping[str, Sequence[str]] = field(default_factory=dict)
    computed: int = 0


@dataclass(frozen=True, slots=True)
class Surveyor:
    """Looks at photos: `workers` decoders, then the network in batches."""

    classifier: "Classifier"
    decoders: "Decoders"
    batch_size: int
    workers: int

    def survey(
        self,
        data: str,
        listing: LabelledData,
        progress: Progress = silent,
        check: Callable[[], None] = lambda: None,
    ) -> Survey:
        """What there is to say of the photos of `data`; `check` may raise to stop.

        Copies in several class folders are one photo with all of their labels where a photo may
        have several, as for training; here the same pixels in as many bytes are copies.

        Raises:
            ResnestError: the folder of the cache cannot be written.
            StoppedError: as `check` raised it; what was done is kept.
        """
        folder, photos = self.folder(data), listing.photos
        busy = f"{data}: another `resnest check` is at work on these data. Wait for that."
        with writing(folder, then="RESNEST_HOME names another place."):
            paths.private_folder(folder)
            with lock_file(folder / ".lock", busy=busy):
                kept = KeptPhotos(folder, self._width)
                stats = [_stat(photo.path) for photo in photos]
                keys = [_key(photo.path, *stat) for photo, stat in zip(photos, stats, strict=True)]
                missing = [place for place, key in enumerate(keys) if not kept.has(key)]
                self._look(photos, keys, missing, kept, progress, check)
                found, features = kept.in_order(keys)
        found["facts"]["bytes"] = [size for size, _ in stats]
        return _survey(listing, Path(data).is_dir(), found, features, len(missing))

    @property
    def _width(self) -> int:
        from resnest_cli.inference.extraction import Extraction

        model, size = self.classifier.model, self.classifier.preprocessing.size
        return Extraction().row_shape(model, size)[0]

    def folder(self, data: str) -> Path:
        """Where what was found in these data by this network is kept."""
        model, preparation = self.classifier.model, self.classifier.preparation
        try:
            weights = model.sha256()
        except OSError as error:
            raise CheckpointError(f"{model.path} cannot be read: {reason(error)}.") from error
        how = {
            "version": photo_facts.VERSION,
            "data": os.path.realpath(data),
            "weights": weights,
            "preparation": asdict(preparation) | {"max_pixels": None},
            "engine": asdict(self.classifier.engine.fingerprint(self.batch_size)),
        }
        digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode("utf-8", "surrogateescape"))
        return paths.resnest_home() / "check" / digest.hexdigest()[:16]

    def _look(
        self,
        photos: Sequence[LabelledPhoto],
        keys: Sequence[bytes],
        missing: Sequence[int],
        kept: KeptPhotos,
        progress: Progress,
        check: Callable[[], None],
    ) -> None:
        """Looks at the photos of these places and keeps what it finds, whatever ends it."""
        facts: dict[str, Facts] = {}
        sources = (Source(str(place), path=photos[place].path) for place in missing)
        prepare = partial(self._prepare, facts)
        size, done, failed = min(self.batch_size, len(photos)), 0, 0
        ahead = 2 * size + self.workers
        chunk: list[tuple[Facts, Float32 | None]] = []
        begun = time.monotonic()
        batches = prepared_batches(sources, prepare, size=size, workers=self.workers, ahead=ahead)
        try:
            for group in batches:
                rows = self._rows(group, size)
                for item, (row, error) in zip(group, rows, strict=True):
                    name = item.source.name
                    chunk.append(
                        (_record(keys[int(name)], item, facts.pop(name, None), error), row)
                    )
                    failed += bool(error)
                done += len(group)
                if len(chunk) >= CHUNK or time.monotonic() - begun > _SECONDS:
                    kept.add(chunk)
                    chunk, begun = [], time.monotonic()
                progress(done, len(missing), failed=failed, title="Looking at photos")
                check()
        finally:
            kept.add(chunk)

    def _prepare(self, facts: dict[str, Facts], source: Source) -> tuple[Float32, str | None]:
        assert source.path is not None
        if source.path.startswith(("/dev/", "/proc/")):
            raise ImageError("is no regular file", kind="not an image")
        looked = self.decoders.run(look, self.classifier.preparation, source.path)
        facts[source.name] = looked.facts
        return looked.array, take_note()

    def _rows(self, group: list[Prepared], size: int) -> list[tuple[Float32 | None, str]]:
        """The features (D,) of each photo, or why it has none.

        The network always sees `size` photos, so that a row has the same bits whatever else was
        left to be looked at.
        """
        arrays = [item.photo for item in group if item.photo is not None]
        if not arrays:
            return [(None, item.error or "") for item in group]
        batch = np.zeros((size, *arrays[0].shape), np.float32)
        batch[: len(arrays)] = arrays
        found = iter(self.classifier.engine.output(batch, "features"))
        rows: list[tuple[Float32 | None, str]] = []
        for item in group:
            if item.photo is None:
                rows.append((None, item.error or ""))
                continue
            row = next(found)
            rows.append((row, "") if np.isfinite(row).all() else (None, NOT_FINITE))
        return rows


def _record(key: bytes, item: Prepared, facts: Facts | None, error: str) -> Facts:
    """A photo as it is kept, KEPT ()."""
    record = np.zeros((), KEPT)
    record["key"] = np.void(key)
    record["error"] = error.encode("utf-8", "surrogateescape")[:256]
    record["kind"] = (item.kind or "other").encode() if error else b""
    if facts is not None:
        record["facts"] = facts
    return record


def _stat(path: str) -> tuple[int, int]:
    """The size of a file in bytes, and its time of change in ns; -1 where nobody can say."""
    try:
        found = os.stat(path)  # noqa: PTH116 - quicker, and there may be a million of them
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _key(path: str, size: int, changed: int) -> bytes:
    text = f"{size} {changed} {os.path.abspath(path)}"  # noqa: PTH100 - links are not followed
    data = text.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


def _survey(
    listing: LabelledData, folder: bool, found: NDArray[np.void], features: Float32, computed: int
) -> Survey:
    """What was found, KEPT in the order of the photos, as records."""
    good = found["kind"] == b""
    readable = [photo for photo, well in zip(listing.photos, good, strict=True) if well]
    bad = [
        (
            replace(listing.photos[place], error=found["error"][place].decode("utf-8", "replace")),
            cast("ErrorKind", found["kind"][place].decode()),
        )
        for place in np.flatnonzero(~good).tolist()
    ]
    facts, also = found["facts"][good], dict[str, list[str]]()
    if listing.multi_label and folder:
        readable, rows, also = _merged(listing, readable, facts)
        if len(rows) < len(facts):
            facts, features = facts[rows], features[rows]
    texts = sorted({photo.label for photo in (*readable, *(photo for photo, _ in bad))})
    number = {text: place for place, text in enumerate(texts)}
    names = {label for photo in listing.photos for label in listing.labels_of(photo)}
    members: dict[str, list[int]] = {name: [] for name in sorted(names)}
    for place, photo in enumerate(readable):
        for label in listing.labels_of(photo):
            members[label].append(place)
    return Survey(
        photos=tuple(readable),
        labels=np.array([number[photo.label] for photo in readable], np.int64),
        class_names=tuple(members),
        members=tuple(np.array(places, np.int64) for places in members.values()),
        facts=facts,
        features=features,
        multi_label=listing.multi_label,
        bad=tuple(bad),
        also=also,
        computed=computed,
    )


def _merged(
    listing: LabelledData, photos: Sequence[LabelledPhoto], facts: Facts
) -> tuple[list[LabelledPhoto], list[int], dict[str, list[str]]]:
    """One photo for all of the same content, its row among `facts`, and the names of the others."""
    known = [
        replace(photo, digest=one["pixels"].tobytes() + one["bytes"].tobytes())
        for photo, one in zip(photos, facts, strict=True)
    ]
    names = defaultdict[tuple[bytes, str | None], list[str]](list)
    for photo in known:
        names[photo.digest, photo.side].append(photo.name)
    merged = merged_copies(known, listing, listing.notes)
    row = {photo.name: place for place, photo in enumerate(photos)}
    also = {same[0]: same[1:] for same in names.values() if same[1:]}
    return merged, [row[photo.name] for photo in merged], also
