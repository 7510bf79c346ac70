"""Planted label errors: how many `resnest check` finds, beside cleanlab given the same answers.

    python -m tests.benchmarks.check_labels DATA... [--model demo] [--share 0.05] [--seeds 0 1 2]
        [--cleanlab PYTHON]

DATA are folders of class folders, or `digits`: scikit-learn's. In each a share of the labels is
replaced: by any other class (`any`), or by the class that is most like the photo's own (`alike`),
which is what people confuse. Both programs get the same out-of-sample probabilities. cleanlab runs
in an interpreter of its own (`--cleanlab /tmp/venv/bin/python`), since its licence, AGPL, keeps it
out of ours. Printed are the precision among as many worst photos as were planted (their recall is
the same), and precision, recall and F1 of the photos that each names.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnest_cli import Classifier
from resnest_cli.data.class_folders import list_data
from resnest_cli.inspection.labels import label_scores, out_of_sample, wrong_labels
from tests.benchmarks.digits import write_digits

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

CLEANLAB = """
import sys, numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
given = np.load(sys.argv[1])
labels, p = given["labels"], given["probabilities"].astype(float)
named = find_label_issues(labels, p, n_jobs=1)
found = {"named": named}
for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
    found[method] = 1 - get_label_quality_scores(labels, p, method=method)
np.savez(sys.argv[2], **found)
"""


class Found(NamedTuple):
    """What a program says: a score of each photo, 1 the worst, and the photos that it names."""

    scores: dict[str, NDArray[np.float64]]
    named: Bool


def planted(labels: Int64, features: Float32, share: float, how: str, seed: int) -> Int64:
    """The labels with a share of them wrong."""
    random, classes = np.random.default_rng(seed), int(labels.max()) + 1
    wrong = random.choice(len(labels), round(share * len(labels)), replace=False)
    unit = features - features.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centres = np.stack([unit[labels == label].mean(0) for label in range(classes)])
    likeness = centres @ centres.T
    np.fill_diagonal(likeness, -np.inf)
    found = labels.copy()
    if how == "alike":
        found[wrong] = likeness.argmax(1)[labels[wrong]]
    else:
        found[wrong] = (labels[wrong] + random.integers(1, classes, len(wrong))) % classes
    return found


def ours(probabilities: Float32, labels: Int64) -> Found:
    """What `resnest check` says."""
    named = np.zeros(len(labels), bool)
    named[wrong_labels(probabilities, labels)] = True
    return Found({"": label_scores(probabilities, labels)}, named)


def cleanlabs(python: str, probabilities: Float32, labels: Int64) -> Found:
    """What cleanlab says, with its own settings."""
    with tempfile.TemporaryDirectory() as name:
        given, found = Path(name) / "given.npz", Path(name) / "found.npz"
        np.savez(given, probabilities=probabilities, labels=labels)
        subprocess.run([python, "-c", CLEANLAB, str(given), str(found)], check=True)
        with np.load(found) as file:
            arrays = {key: file[key] for key in file.files}
    named = arrays.pop("named")
    return Found(arrays, named)


def figures(found: Found, wrong: Bool) -> Iterator[tuple[str, list[float]]]:
    """Of each score: precision of the worst; of what is named precision, recall and F1."""
    for method, scores in found.scores.items():
        worst = np.argsort(-scores, kind="stable")[: wrong.sum()]
        yield f"worst {method}".strip(), [float(wrong[worst].mean())]
    hits = float((found.named & wrong).sum())
    precision, recall = hits / max(1, found.named.sum()), hits / wrong.sum()
    yield "named", [precision, recall, 2 * hits / (found.named.sum() + wrong.sum())]


def read(data: str, model: str) -> tuple[Float32, Int64]:
    """The features and the labels of a folder, or of the digits."""
    if data == "digits":
        with tempfile.TemporaryDirectory() as name:
            return read(str(write_digits(Path(name) / "digits", range(10))), model)
    photos = list_data(data).photos
    ids = sorted({photo.label for photo in photos})
    labels = np.array([ids.index(photo.label) for photo in photos], np.int64)
    return Classifier(model).features([photo.path for photo in photos]), labels


def main() -> None:
    """Measures and prints everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cleanlab", help="an interpreter that has cleanlab")
    options = parser.parse_args()
    for data in options.data:
        features, labels = read(data, options.model)
        print(f"{data}: {len(labels):,} photos of {labels.max() + 1} classes", flush=True)
        for how in ("any", "alike"):
            rows: dict[str, list[list[float]]] = {}
            for seed in options.seeds:
                given = planted(labels, features, options.share, how, seed)
                answers = out_of_sample(
                    features, given, int(labels.max()) + 1, groups=np.arange(len(given)), seed=seed
                )
                programs = {"resnest": ours(answers, given)}
                if options.cleanlab:
                    programs["cleanlab"] = cleanlabs(options.cleanlab, answers, given)
                for program, found in programs.items():
                    for name, values in figures(found, given != labels):
                        rows.setdefault(f"{program} {name}", []).append(values)
            for name, seeds in rows.items():
                shown = "  ".join(f"{value:6.1%}" for value in np.mean(seeds, axis=0))
                print(f"  {how:<6} {name:<48} {shown}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
