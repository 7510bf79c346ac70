"""Labels that look wrong: confident learning (Northcutt et al. 2021) on features.

To come.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.inspection.issues import Issue
from resnest_cli.progress import Progress, silent


def label_issues(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    photos: Sequence[LabelledPhoto],
    *,
    groups: NDArray[np.int64],
    seed: int = 0,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> list[Issue]:
    """Photos whose label the others speak against.

    Args:
        features: float32 (N, D), pooled, not normalised; may be a memory map.
        labels: int64 (N,), indices into `class_names`.
        class_names: of K classes, sorted.
        photos: N of them, in the order of rows.
        groups: int64 (N,), the same number for copies of each other, which must stay in one fold.
        seed: of the folds.
        progress: shows how far the work has come.
        check: raises to stop, after Ctrl-C; call it now and then.
    """
    del features, labels, class_names, photos, groups, seed, progress, check
    return []
