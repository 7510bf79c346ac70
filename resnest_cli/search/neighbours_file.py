"""The nearest of every row as a file for other programs: neighbours.npz.

    rows    int64 (N, k): the nearest other rows of each row, the nearest first
    scores  float64 (N, k): their similarities, or distances

With fewer than k other rows, k is their number. A row that is not finite has -1 and NaN.

It is written as it is computed, so that memory does not grow with N, and appears when it is whole.
"""

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from resnest_cli.files import atomic_file, writing
from resnest_cli.jobs.formats import npy_header
from resnest_cli.progress import Progress
from resnest_cli.search.features import Features
from resnest_cli.search.nearest import Metric

_NEVER = (1980, 1, 1, 0, 0, 0)  # the time of a ZIP's members: the same rows give the same bytes


def write_neighbours(
    path: Path, features: Features, k: int, metric: Metric, progress: Progress
) -> None:
    """Writes `path`; ResnestError where that is not possible."""
    count, width = len(features), max(0, min(k, len(features) - 1))
    with (
        writing(path),
        tempfile.TemporaryFile(dir=path.parent) as later,  # a ZIP takes one member at a time
        atomic_file(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):

        def member(name: str) -> IO[bytes]:
            return archive.open(zipfile.ZipInfo(name, _NEVER), "w", force_zip64=True)

        with member("rows.npy") as rows:
            npy_header(rows, "int64", (count, width))
            done = 0
            for found in features.nearest(k, metric):
                rows.write(found.rows.astype("<i8").tobytes())
                later.write(found.scores.astype("<f8").tobytes())
                done += len(found.rows)
                progress(done, count)
        later.seek(0)
        with member("scores.npy") as scores:
            npy_header(scores, "float64", (count, width))
            shutil.copyfileobj(later, scores, 2**20)
