"""Planted errors in labels of photos that may have several: how many `resnest check` finds.

    python -m tests.benchmarks.check_label_sets TABLE... [--model demo] [--share 0.05] [--seeds 0 1]

TABLE is whatever `finetune` takes, with several labels. Of each class a share of its labels is
taken away, and as many photos that do not have it get it. Printed are, for labels that are wrong
and for those that are missing: precision and recall of what is named, and of what the confident
joint of `inspection.labels` would name class by class; and the average precision of three rankings
of the same probabilities: ours, the probability alone, and the surprise of `inspection.labels`.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from resnest_cli import Classifier
from resnest_cli.data.class_folders import list_data
from resnest_cli.data.labelled_photos import Reading
from resnest_cli.inspection import label_sets, labels

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]


def read(data: str, model: str) -> tuple[Float32, Bool]:
    """The features (N, D) of the photos, and which of the classes they have (N, K)."""
    found = list_data(data, Reading(multi_label=True))
    sets = [set(found.labels_of(photo)) for photo in found.photos]
    ids = sorted(set().union(*sets))
    truth = np.array([[name in of_photo for name in ids] for of_photo in sets])
    return Classifier(model).features([photo.path for photo in found.photos]), truth


def planted(truth: Bool, share: float, seed: int) -> Bool:
    """The labels with a share of each class taken away, and as many added."""
    random, given = np.random.default_rng(seed), truth.copy()
    for label, has in enumerate(truth.T):
        number = max(1, round(share * has.sum()))
        given[random.choice(np.flatnonzero(has), number, replace=False), label] = False
        given[random.choice(np.flatnonzero(~has), number, replace=False), label] = True
    return given


def compare(features: Float32, truth: Bool, given: Bool) -> dict[str, list[float]]:
    """The figures, by what they are, of wrong labels and of missing ones."""
    members = [np.flatnonzero(column) for column in given.T]
    p = label_sets.out_of_sample(features, members, groups=np.arange(len(given)))
    ours, surprise, joint = (np.zeros(p.shape) for _ in range(3))
    for label, has in enumerate(given.T):
        ours[:, label] = label_sets.label_scores(p[:, label], has)
        both, number = np.stack((1 - p[:, label], p[:, label]), 1), has.astype(np.int64)
        surprise[:, label] = labels.label_scores(both, number)
        joint[labels.wrong_labels(both, number), label] = 1
    error, found = given != truth, dict[str, list[float]]()
    for kind, among in (("wrong", given), ("missing", ~given)):
        for name, named in (("named", ours > 0.5), ("joint", joint > 0)):
            hits = float((named & error & among).sum())
            precision, recall = hits / max(1, (named & among).sum()), hits / (error & among).sum()
            found[f"{kind}, {name}: precision, recall"] = [precision, recall]
        rankings = {"ours": ours, "probability": np.where(given, 1 - p, p), "surprise": surprise}
        found[f"{kind}: AP by {', '.join(rankings)}"] = [
            average_precision_score(error[among], scores[among]) for scores in rankings.values()
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    for data in asked.data:
        features, truth = read(data, asked.model)
        print(f"{data}: {len(truth):,} photos of {truth.shape[1]} classes")
        each = [compare(features, truth, planted(truth, asked.share, s)) for s in asked.seeds]
        for what in each[0]:
            means = np.mean([found[what] for found in each], axis=0)
            print(f"  {what:<50} {' '.join(f'{value:.3f}' for value in means)}")


if __name__ == "__main__":
    main()
