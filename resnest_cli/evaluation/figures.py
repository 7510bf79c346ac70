"""What an evaluation, or a comparison of two, comes to; also as plain data, as JSON has it.

Figures are of photos that the model has not learned from, and of all where no readable one of those
is left. In JSON those with all photos stand beside them under `all`; where nothing but training
photos is left, theirs stand under `trained`, and none under the names that promise more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.errors import ResnestError
from resnest_cli.evaluation.calibration import Calibration, calibration, fit_temperature
from resnest_cli.evaluation.evaluate import Answered, EvaluateJob, Gathered
from resnest_cli.evaluation.scores import Answers, Scores, auroc, confusions, scores, worst
from resnest_cli.inference.ranking import Record, softmax
from resnest_cli.model.checkpoint_header import set_temperature
from resnest_cli.text import count

FEWEST = 20  # photos that a temperature is fitted on
_LISTED = 20  # confusions and mistakes


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Figures of the `judged` ones among the photos that were `gathered`.

    `answers`, and `logits` (N, K) if they were kept, are of those of them that are readable, in the
    same order.
    """

    gathered: Gathered
    judged: tuple[Answered, ...]
    answers: Answers
    scores: Scores
    calibration: Calibration
    logits: NDArray[np.float32] | None

    @property
    def records(self) -> list[Record]:
        """The records that `answers` are of."""
        return [item.record for item in self.judged if item.record.error is None]


def evaluated(gathered: Gathered, *, every: bool = False) -> Evaluated:
    """Of at least one readable photo; of `every` one, also those that the model learned from."""
    judged = tuple(item for item in gathered.items if not item.trained)
    if every or all(item.record.error is not None for item in judged):
        judged = gathered.items
    good = [item for item in judged if item.record.error is None]
    best = [item.record.predictions[0] for item in good]
    answers = Answers(
        truth=np.array([item.truth for item in good], np.int64),
        predicted=np.array([found.index for found in best], np.int64),
        place=np.array([item.place for item in good], np.int64),
        confidence=np.array([found.probability for found in best], np.float64),
        loss=np.array([item.loss for item in good], np.float64),
    )
    kept = [item.logits for item in good if item.logits is not None]
    figures = scores(answers, len(gathered.class_names))
    calibrated = calibration(answers.confidence, answers.right)
    logits = np.stack(kept) if len(kept) == len(good) else None
    return Evaluated(gathered, judged, answers, figures, calibrated, logits)


def summary(found: Evaluated) -> dict[str, Any]:
    """The figures as JSON has them: fractions, nats, names; `top1` and `top5` at the top level."""
    gathered, answers, figures = found.gathered, found.answers, found.scores
    names, ids, records = gathered.class_names, gathered.class_ids, found.records
    trained, overall = gathered.trained, _overall(found)
    others = trained > 0 and len(found.judged) < len(gathered.items)
    only_trained = trained > 0 and not others
    every = evaluated(gathered, every=True) if others else None
    return {
        "model": gathered.model,
        "split": gathered.split,
        "excluded": gathered.excluded,
        "photos": figures.photos,
        "trained_on": None if gathered.trained_on is None else trained,
        "unreadable": len(found.judged) - figures.photos,
        **(dict.fromkeys(overall) if only_trained else overall),
        "trained": {"photos": trained, **overall} if only_trained else None,
        "all": {"photos": every.scores.photos, **_overall(every)} if every else None,
        "temperature": gathered.temperature,
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
                "input": records[index].input,
                "truth": names[int(answers.truth[index])],
                "predicted": names[int(answers.predicted[index])],
                "probability": float(answers.confidence[index]),
            }
            for index in worst(answers, _LISTED)
        ],
        "reliability": [asdict(one) for one in found.calibration.bins],
    }


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


def unknown(found: Evaluated, job: EvaluateJob) -> dict[str, Any]:
    """How well photos of something else are told from the judged ones, as JSON has it.

    AUROC is the chance that one of the others is farther than one of these (equal ones count half);
    `found` the share of the others that is beyond the threshold, `false_alarms` that of these. The
    same of the largest probability, with the threshold that gives it as many false alarms.
    """
    others = [record for record in found.gathered.others if record.error is None]
    ours, theirs = (np.array([r.distance for r in rs]) for rs in (found.records, others))
    alarms = sum(bool(record.unknown) for record in found.records)
    beyond = sum(bool(record.unknown) for record in others)
    doubt = [np.array([1 - r.predictions[0].probability for r in rs])
             for rs in (found.records, others)]  # fmt: skip
    limit = np.sort(doubt[0])[::-1][min(alarms, len(ours) - 1)]
    return {
        "data": job.unknown_data,
        "photos": len(others),
        "unreadable": len(found.gathered.others) - len(others),
        "share": job.unknown,
        "auroc": auroc(ours, theirs),
        "found": beyond / len(theirs),
        "false_alarms": alarms / len(ours),
        "probability": {
            "auroc": auroc(*doubt),
            "found": float((doubt[1] > limit).mean()),
            "false_alarms": float((doubt[0] > limit).mean()),
        },
    }


def training_note(figures: Mapping[str, Any]) -> str:
    """What figures are worth where photos trained the model; empty where none did."""
    model, trained = figures["model"], figures["trained_on"]
    if figures["trained"]:
        return (
            f"{model} was trained on all of the {count(trained, 'readable photo')}: the figures "
            "say how well it remembers them, not how good it is."
        )
    if trained:
        every = count(trained + figures["photos"], "photo")
        return f"{model} was trained on {trained} of the {every}; the figures leave them out."
    return ""


def calibrate(found: Evaluated) -> dict[str, Any]:
    """Fits a temperature on the photos of an evaluation that kept its logits, and writes it.

    It uses photos that the model has not learned from, and writes into the header of the checkpoint
    that was evaluated. Returns, as JSON has it, the temperature, the number of photos, and
    calibration error and loss before and after.

    Raises:
        ResnestError: fewer than `FEWEST` photos are left, or the file cannot be written.
    """
    gathered, answers = found.gathered, found.answers
    left = sum(not item.trained and item.record.error is None for item in gathered.items)
    if left < FEWEST:
        seen = f" beside the {gathered.trained} that it was trained on" if gathered.trained else ""
        raise ResnestError(
            f"--calibrate: a temperature needs {FEWEST} photos, and there are {left}{seen}. "
            f"{gathered.path} stays as it is. Give photos that were held out."
        )
    assert found.logits is not None
    temperature, photos = fit_temperature(found.logits, answers.truth), len(answers.truth)
    record: dict[str, Any] = {"temperature": temperature, "file": gathered.path, "photos": photos}
    for when, used in (("before", gathered.temperature), ("after", temperature)):
        probabilities = softmax(found.logits, used)
        own = probabilities[np.arange(photos), answers.truth]
        record[f"ece_{when}"] = calibration(probabilities.max(axis=1), answers.right).ece
        record[f"loss_{when}"] = float(-np.log(np.maximum(own, 1e-300)).mean())
    set_temperature(Path(gathered.path), temperature)
    return record


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
    first = [name for name in both if ours[name][0] == ours[name][1]]
    second = [name for name in both if theirs[name][0] == theirs[name][1]]

    def changed(right: Sequence[str], before: Sequence[str]) -> list[dict[str, str]]:
        new = set(right) - set(before)
        return [
            {
                "input": name,
                "truth": found.class_names[ours[name][0]],
                "this": found.class_names[ours[name][1]],
                "other": other.class_names[theirs[name][1]],
            }
            for name in both
            if name in new
        ]

    mended, broken = changed(second, first), changed(first, second)
    return {
        "model": other.model,
        "photos": len(both),
        "trained_on": len(readable) - len(unseen),
        "top1": len(second) / len(both) if both else None,
        "this_top1": len(first) / len(both) if both else None,
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
