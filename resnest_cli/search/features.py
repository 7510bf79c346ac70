"""What `resnest features` wrote, to be searched: the library's `Features`."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ImageError
from resnest_cli.progress import Progress, silent
from resnest_cli.search.feature_files import Names, Stored, read_features
from resnest_cli.search.nearest import Metric, NearestRows, Neighbours
from resnest_cli.search.recorded_model import arguments, check, extraction_of

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.inference.photos import Photo


class Features:
    """Features of N photos on disk, which `resnest features` wrote; opened with `Features.open`.

        features = Features.open("feats.npy")
        found = features.search(features.of(["dog.jpg"]), k=3)
        [features.names[row] for row in found.rows[0]], found.scores[0]

    The rows are mapped, not read: an output may be larger than memory. Results are exact, and equal
    scores stand in the order of the rows; see `search.nearest`. Maps (`--pool none`) are compared
    as one long row each.

    Metrics: "cosine", similarities in [-1, 1]; "dot", similarities; "euclidean", distances.
    """

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._nearest = dict[Metric, NearestRows]()

    @classmethod
    def open(cls, place: str | os.PathLike[str]) -> Self:
        """Opens feats.npy, .npz, .csv or .parquet with its record beside it, or a Ray folder.

        Raises:
            UsageError: it is no finished output of `resnest features`, has no record, or holds
                logits or probabilities.
            ResnestError: it is damaged, or cannot be read.
        """
        return cls(read_features(place))

    @property
    def names(self) -> Names:
        """The input of each row, N in all: names as `features` was given them."""
        return self._stored.names

    @property
    def failed(self) -> dict[str, str]:
        """Inputs that have no row, with their errors; the first 100,000."""
        return self._stored.failed

    @property
    def record(self) -> dict[str, Any]:
        """What `feats.json` says: model, weights, preprocessing, versions."""
        return self._stored.record

    @property
    def place(self) -> str:
        """The file or folder, as it was named."""
        return self._stored.place

    @property
    def model(self) -> str:
        """The id of the variant that made them."""
        return str(self.record["model"])

    @property
    def rows(self) -> NDArray[np.float16] | NDArray[np.float32]:
        """All rows (N, columns), mapped, read only."""
        return self._stored.rows

    def __len__(self) -> int:
        return len(self.rows)

    def row_of(self, name: str) -> int | None:
        """The first row of an input of this name; None where there is none."""
        return next((row for row, other in enumerate(self.names) if other == name), None)

    def search(
        self, queries: NDArray[Any], k: int = 5, metric: Metric = "cosine", *,
        without: NDArray[np.int64] | None = None,
    ) -> Neighbours:  # fmt: skip
        """The `k` nearest rows of each of m queries, the nearest first.

        `queries` are rows of the same model, floats (m, columns) or one (columns,), such as `of`
        makes and `rows` has; `without` (m,) names a row for each that is left out. Gives `rows`
        int64 (m, k) and `scores` float64 (m, k), or all where there are fewer. A query that is not
        finite has none: -1 and NaN.

        Raises:
            ValueError: `k` is below 1, or the queries have another shape.
        """
        queries = np.asarray(queries)
        if queries.ndim == 1:
            queries = queries[None]
        if queries.ndim != 2 or queries.shape[1] != self.rows.shape[1]:
            raise ValueError(
                f"queries must be rows (m, {self.rows.shape[1]}), which `of` makes of photos; "
                f"not {queries.shape}"
            )
        _check_k(k)
        return self._by(metric).search(queries, k, without=without)

    def nearest(self, k: int = 5, metric: Metric = "cosine") -> Iterator[Neighbours]:
        """The `k` nearest other rows of every row, in order, for at most 4,096 rows at a time."""
        _check_k(k)
        return self._by(metric).nearest(k)

    def duplicates(
        self, threshold: float = 0.95, metric: Metric = "cosine", *, progress: Progress = silent
    ) -> list[NDArray[np.int64]]:
        """Groups of rows that are alike: each int64 (n,), n >= 2, in order.

        Rows are in one group if their similarity is at least `threshold` (their distance at most,
        for euclidean), or if others lead from one to the other in such steps. All pairs are
        compared.

        Raises:
            ValueError: `metric` is "dot", by which a row need not be most like itself.
        """
        if metric == "dot":
            raise ValueError("duplicates are found by cosine or euclidean")
        return self._by(metric).groups(threshold, progress)

    def scores(
        self, row: int, others: NDArray[np.int64], metric: Metric = "cosine"
    ) -> NDArray[np.float64]:
        """The score of one row with others (n,): float64 (n,)."""
        return self._by(metric).score(row, others)

    def of(self, photos: "Photo | Iterable[Photo]") -> NDArray[np.float16] | NDArray[np.float32]:
        """Rows (m, columns) of photos, of the model that made these features, as they were made.

        Photos as in `Classifier.predict`.

        Raises:
            ImageError: a photo cannot be read; names it.
            UsageError: the model is not found, or is another one now.
        """
        from resnest_cli.inference.photos import as_sources

        made: list[NDArray[Any]] = [self.rows[:0]]
        sources = as_sources(photos)
        for group, rows in self.classifier.feature_groups(sources, extraction_of(self.record)):
            for item in group:
                if item.error is not None:
                    raise ImageError(f"{item.source.name}: {item.error}", kind=item.kind or "other")
            made.append(rows.reshape(len(rows), -1))
        return np.concatenate(made)

    @cached_property
    def classifier(self) -> "Classifier":
        """The model that made these features, with its preprocessing; loaded when first asked for.

        Raises:
            UsageError: it is not found, or is another one now.
        """
        from resnest_cli.inference.classifier import Classifier

        output = extraction_of(self.record).output
        found = Classifier(**arguments(self.record, self.place), ready_for=output)
        check(found, self.record, self.place)
        return found

    def _by(self, metric: Metric) -> NearestRows:
        if metric not in {"cosine", "dot", "euclidean"}:
            raise ValueError(f"no such metric: {metric!r}")
        if metric not in self._nearest:
            self._nearest[metric] = NearestRows(self.rows, metric)
        return self._nearest[metric]


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be 1 or more, not {k}")
