"""What an evaluation, or a comparison of two, comes to; also as plain data, as JSON has it.

Figures are of photos that the model has not learned from (`Gathered.judged`). Those with all photos
stand beside them under `all`; where nothing but training photos is left, theirs stand under
`trained`, and none under the names that promise more.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ResnestError
from resnest_cli.evaluation import calibration
from resnest_cli.evaluation.evaluate import Gathered
from resnest_cli.evaluation.scores import Answers, Scores, confusions, scores, worst

_LISTED = 20  # confusions and mistakes


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the answers come to; `answers`, and `logits` (N, K) if they were kept, are of the
    readable photos among those `gathered`, in the same order.
    """

    gathered: Gathered
    answers: Answers
    scores: Scores
    calibration: calibration.Calibration
    logits: NDArray[np.float32] | None


def evaluated(gathered: Gathered) -> Evaluated:
    """Of at least one readable photo."""
    good = [item for item in gathered.items if item.record.error is None]
    best = [item.record.predictions[0] for item in good]
    answers = Answers(
        truth=np.array([item.truth for item in good], np.int64),
        predicted=np.array([found.index for found in best], np.int64),
        place=np.array([item.place for item in good], np.int64),
        confidence=np.array([found.probability for found in best], np.float64),
        loss=np.array([item.loss for item in good], np.float64),
    )
    logits = None
    if all(item.logits is not None for item in good):
        joined = b"".join(item.logits or b"" for item in good)
        logits = np.frombuffer(joined, np.float32).reshape(len(good), -1)
    figures = scores(answers, len(gathered.subject.class_names))
    calibrated = calibration.calibration(answers.confidence, answers.right)
    return Evaluated(gathered, answers, figures, calibrated, logits)


def summary(found: Evaluated, gathered: Gathered) -> dict[str, Any]:
    """The figures as JSON has them: fractions, nats, names; `top1` and `top5` at the top level.

    `found` are the judged photos of all that were `gathered`.
    """
    subject, answers, figures = gathered.subject, found.answers, found.scores
    names, ids, judged = subject.class_names, subject.class_ids, found.gathered.items
    readable = [item.record for item in judged if item.record.error is None]
    trained, overall = gathered.trained, _overall(found)
    others = trained > 0 and len(judged) < len(gathered.items)
    only_trained = trained > 0 and not others
    every = evaluated(gathered) if others else None
    return {
        "model": subject.model,
        "split": subject.split,
        "photos": figures.photos,
        "trained_on": None if subject.trained_on is None else trained,
        "unreadable": len(judged) - figures.photos,
        **(dict.fromkeys(overall) if only_trained else overall),
        "trained": {"photos": trained, **overall} if only_trained else None,
        "all": {"photos": every.scores.photos, **_overall(every)} if every else None,
        "temperature": subject.temperature,
        "classes": [
            {"index": index, "id": ids[index] if ids else None, "label": names[index]} | asdict(one)
            for index, one in enumerate(figures.classes)
        ],
        "confusions": [
            {"truth": names[t], "predicted": names[p], "photos": count}
            for t, p, count in confusions(figures, _LISTED)
        ],
        "worst": [
            {
                "input": readable[index].input,
                "truth": names[int(answers.truth[index])],
                "predicted": names[int(answers.predicted[index])],
                "probability": float(answers.confidence[index]),
            }
            for index in worst(answers, _LISTED)
        ],
        "reliability": [asdict(one) for one in found.calibration.bins],
    }


def whole_summary(
    found: Evaluated, first: Gathered, second: Gathered | None, *, calibrate: bool
) -> tuple[dict[str, Any], ResnestError | None]:
    """`summary`, with a comparison and a calibration where they were asked for.

    The error says why there is no calibration.
    """
    figures, refused = summary(found, first), None
    if calibrate:
        try:
            figures["calibrated"] = calibration.calibrate(found, first)
        except ResnestError as error:
            refused = error
    if second is not None:
        figures["comparison"] = compared(first, second)
    return figures, refused


def training_note(figures: Mapping[str, Any]) -> str:
    """What figures are worth where photos trained the model; empty where none did."""
    model, trained = figures["model"], figures["trained_on"]
    if figures["trained"]:
        return (
            f"All {trained} readable photo(s) are ones that {model} was trained on: the figures "
            "say how well it remembers them, not how good it is."
        )
    if trained:
        return (
            f"{trained} of {trained + figures['photos']} photo(s) are ones that {model} was "
            "trained on; the figures leave them out."
        )
    return ""


def _overall(found: Evaluated) -> dict[str, Any]:
    figures, top5 = found.scores, found.scores.top5
    return {
        "top1": figures.top1.value,
        "top1_interval": [figures.top1.low, figures.top1.high],
        "top5": top5.value if top5 else None,
        "top5_interval": [top5.low, top5.high] if top5 else None,
        "loss": figures.loss,
        "mean_recall": figures.mean_recall,
        "mean_f1": figures.mean_f1,
        "ece": found.calibration.ece,
    }


def compared(found: Gathered, other: Gathered) -> dict[str, Any]:
    """Another model on the same photos, as JSON has it; of photos that both could read.

    Photos that one of the two has learned from do not count, unless there are no others. `mended`
    are those that only the other has right, `broken` those it alone has wrong.
    """
    ours, theirs = _by_input(found), _by_input(other)
    readable = [name for name in ours if name in theirs]
    seen = {item.record.input for item in (*found.items, *other.items) if item.trained}
    unseen = [name for name in readable if name not in seen]
    both = unseen or readable
    first = np.array([ours[name][0] == ours[name][1] for name in both], np.bool_)
    second = np.array([theirs[name][0] == theirs[name][1] for name in both], np.bool_)

    def listed(changed: NDArray[np.bool_]) -> list[dict[str, str]]:
        return [
            {
                "input": name,
                "truth": found.subject.class_names[ours[name][0]],
                "this": found.subject.class_names[ours[name][1]],
                "other": other.subject.class_names[theirs[name][1]],
            }
            for name, is_one in zip(both, changed, strict=True)
            if is_one
        ]

    mended, broken = listed(second & ~first), listed(first & ~second)
    return {
        "model": other.subject.model,
        "photos": len(both),
        "trained_on": len(readable) - len(unseen),
        "top1": float(second.mean()) if both else None,
        "this_top1": float(first.mean()) if both else None,
        "mended_count": len(mended),
        "broken_count": len(broken),
        "p_value": mcnemar(len(mended), len(broken)),
        "mended": mended,
        "broken": broken,
    }


def _by_input(found: Gathered) -> dict[str, tuple[int, int]]:
    """Input -> true and predicted class, of the readable photos."""
    return {
        item.record.input: (item.truth, item.record.predictions[0].index)
        for item in found.items
        if item.record.error is None
    }


def mcnemar(one: int, other: int) -> float:
    """Two-sided p-value of the exact McNemar test: how often a fair coin differs as much."""
    total, fewer = one + other, min(one, other)
    if total == 0:
        return 1.0
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        for k in range(fewer + 1)
    ]
    most = max(logs)
    tail = math.exp(most - total * math.log(2)) * sum(math.exp(value - most) for value in logs)
    return min(1.0, 2 * tail)
