"""What an evaluation, or a comparison of two, comes to; also as plain data, as JSON has it.

Figures are of photos that the model has not learned from, and of all where no readable one of those
is left. In JSON those with all photos stand beside them under `all`; where nothing but training
photos is left, theirs stand under `trained`, and none under the names that promise more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from resnest_cli.errors import ResnestError
from resnest_cli.evaluation import thresholds
from resnest_cli.evaluation.calibration import fit_temperature
from resnest_cli.evaluation.class_figures import ClassFigures
from resnest_cli.evaluation.evaluate import Answered, EvaluateJob, Gathered
from resnest_cli.evaluation.label_figures import LabelFigures, compared_precision
from resnest_cli.evaluation.scores import auroc, confusions
from resnest_cli.inference.ranking import sigmoid
from resnest_cli.model.checkpoint_header import set_temperature
from resnest_cli.text import count

FEWEST = 20  # photos that a temperature is fitted on
_LISTED = 20  # confusions and mistakes

Evaluated = ClassFigures | LabelFigures


def evaluated(gathered: Gathered, *, every: bool = False) -> Evaluated:
    """Of at least one readable photo; of `every` one, also those that the model learned from."""
    kind = ClassFigures if gathered.thresholds is None else LabelFigures
    return kind.of(gathered, gathered.judged(every=every))


def summary(found: Evaluated) -> dict[str, Any]:
    """The figures as JSON has them: fractions, nats, names; the main ones at the top level.

    Of one label those are `top1` and `top5`; of several `map`, and F1 at the model's thresholds.
    """
    gathered, overall = found.gathered, found.overall()
    names, ids = gathered.class_names, gathered.class_ids
    trained, photos = gathered.trained, len(found.good)
    others = trained > 0 and len(found.judged) < len(gathered.items)
    only_trained = trained > 0 and not others
    every = evaluated(gathered, every=True) if others else None
    return {
        "model": gathered.model,
        "split": gathered.split,
        "excluded": gathered.excluded,
        "photos": photos,
        "trained_on": None if gathered.trained_on is None else trained,
        "unreadable": len(found.judged) - photos,
        **(dict.fromkeys(overall) if only_trained else overall),
        "trained": {"photos": trained, **overall} if only_trained else None,
        "all": {"photos": len(every.good), **every.overall()} if every else None,
        "temperature": gathered.temperature,
        "classes": [
            {"index": index, "id": ids[index] if ids else None, "label": names[index]} | one
            for index, one in enumerate(found.classes())
        ],
        "confusions": [
            {"truth": names[t], "predicted": names[p], "photos": count}
            for t, p, count in confusions(found.confusion, _LISTED)
        ],
        "worst": [
            {
                "input": item.record.input,
                "truth": gathered.named(item.truth),
                "predicted": gathered.named(item.given),
                **how_bad,
            }
            for item, how_bad in found.worst(_LISTED)
        ],
        "reliability": [asdict(one) for one in found.calibration.bins],
    }


def unknown(found: Evaluated, job: EvaluateJob) -> dict[str, Any]:
    """How well photos of something else are told from the judged ones, as JSON has it.

    AUROC is the chance that one of the others is farther than one of these (equal ones count half);
    `found` the share of the others that is beyond the threshold, `false_alarms` that of these. The
    same of the largest probability, with the threshold that gives it as many false alarms.
    """
    others = [record for record in found.gathered.others if record.error is None]
    own = [item.record for item in found.good]
    ours, theirs = (np.array([r.distance for r in rs]) for rs in (own, others))
    alarms = sum(bool(record.unknown) for record in own)
    beyond = sum(bool(record.unknown) for record in others)
    doubt = [np.array([1 - r.predictions[0].probability for r in rs])
             for rs in (own, others)]  # fmt: skip
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


def calibrate(found: Evaluated, min_precision: float | None = None) -> dict[str, Any]:
    """Fits a temperature on the photos of an evaluation that kept its logits, and writes it.

    It uses photos that the model has not learned from, and writes into the header of the checkpoint
    that was evaluated. Thresholds move with the temperature, unless new ones are asked for, which
    have this precision on these photos. Returns, as JSON has it, the temperature, the number of
    photos, calibration error and loss before and after, and `thresholds` where they are new.

    Raises:
        ResnestError: fewer than `FEWEST` photos are left, or the file cannot be written.
    """
    gathered = found.gathered
    left = sum(not item.trained and item.record.error is None for item in gathered.items)
    if left < FEWEST:
        seen = f" beside the {gathered.trained} that it was trained on" if gathered.trained else ""
        raise ResnestError(
            f"--calibrate: a temperature needs {FEWEST} photos, and there are {left}{seen}. "
            f"{gathered.path} stays as it is. Give photos that were held out."
        )
    assert found.logits is not None
    temperature = fit_temperature(found.logits, found.truth)
    record: dict[str, Any] = {
        "temperature": temperature,
        "file": gathered.path,
        "photos": len(found.good),
    }
    for when, used in (("before", gathered.temperature), ("after", temperature)):
        record[f"ece_{when}"], record[f"loss_{when}"] = found.at(used)
    fitted = None
    if min_precision is not None and isinstance(found, LabelFigures):
        fitted = thresholds.fitted(found.truth, sigmoid(found.logits, temperature), min_precision)
        record["thresholds"] = list(fitted)
    set_temperature(Path(gathered.path), temperature, fitted)
    return record


def compared(found: Gathered, other: Gathered) -> dict[str, Any]:
    """Another model on the same photos, as JSON has it; of photos that both could read.

    Photos that one of the two has learned from do not count, unless there are no others. `mended`
    are those that only the other has right, `broken` those it alone has wrong; of several labels, a
    photo is right with all of them and no other.
    """
    ours, theirs = _by_input(found), _by_input(other)
    readable = [name for name in ours if name in theirs]
    seen = {item.record.input for item in (*found.items, *other.items) if item.trained}
    unseen = [name for name in readable if name not in seen]
    both = unseen or readable
    first = [name for name in both if ours[name].right]
    second = [name for name in both if theirs[name].right]

    def changed(right: Sequence[str], before: Sequence[str]) -> list[dict[str, Any]]:
        new = set(right) - set(before)
        return [
            {
                "input": name,
                "truth": found.named(ours[name].truth),
                "this": found.named(ours[name].given),
                "other": other.named(theirs[name].given),
            }
            for name in both
            if name in new
        ]

    mended, broken = changed(second, first), changed(first, second)
    record: dict[str, Any] = {
        "model": other.model,
        "photos": len(both),
        "trained_on": len(readable) - len(unseen),
    }
    main = "top1" if found.thresholds is None else "exact_match"
    if both and found.thresholds is not None:
        pairs = [ours[name] for name in both], [theirs[name] for name in both]
        record |= compared_precision(found, pairs[0], other, pairs[1])
    return record | {
        main: len(second) / len(both) if both else None,
        f"this_{main}": len(first) / len(both) if both else None,
        "mended_count": len(mended),
        "broken_count": len(broken),
        "p_value": mcnemar(len(mended), len(broken)),
        "mended": mended,
        "broken": broken,
    }


def _by_input(found: Gathered) -> dict[str, Answered]:
    """Input -> answer, of the readable photos."""
    return {item.record.input: item for item in found.items if item.record.error is None}


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
