"""An evaluation as people read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from resnest_cli.output.messages import percent, printable_name
from resnest_cli.output.sink import emit
from resnest_cli.output.tables import show_table

_FEW = 5


def headline(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures of the judged photos: name, value, and what belongs to it."""
    temperature = figures["temperature"]
    trained = figures["trained"]
    figures, which = (figures, "") if trained is None else (trained, ", trained on")
    shares = [
        (name + which, percent(figures[key]), f"{percent(low)} to {percent(high)} (95%)")
        for name, key in (("top-1", "top1"), ("top-5", "top5"))
        if figures[key] is not None
        for low, high in [figures[f"{key}_interval"]]
    ]
    warmed = "" if temperature == 1 else f"at temperature {temperature:.3g}"
    return [
        *shares,
        ("loss", f"{figures['loss']:.4f}", "nats"),
        ("mean recall", percent(figures["mean_recall"]), ""),
        ("mean F1", percent(figures["mean_f1"]), ""),
        ("calibration error", percent(figures["ece"]), warmed),
    ]


def photos_of(figures: Mapping[str, Any]) -> str:
    """How many photos and classes were judged, of which split, and whether training saw them."""
    classes = sum(bool(one["support"]) for one in figures["classes"])
    split = {None: "", "all": ", all sides of the split"}
    side = split.get(figures["split"], f", split {figures['split']}")
    known = {None: ""}.get(figures["trained_on"], ", none of them trained on")
    known = ", all of them trained on" if figures["trained"] else known
    return f"{figures['photos']:,} photos of {classes:,} classes{side}{known}"


def with_trained(figures: Mapping[str, Any]) -> str | None:
    """A sentence about the figures with the photos that trained the model; None without such."""
    every = figures["all"]
    if every is None:
        return None
    return (
        f"With the {figures['trained_on']:,} photos that it was trained on: top-1 "
        f"{percent(every['top1'])}, loss {every['loss']:.4f}."
    )


def show_evaluation(figures: Mapping[str, Any]) -> None:
    """The figures, the hardest classes, the commonest mistakes and the surest, on stdout."""
    known = [one for one in figures["classes"] if one["support"]]
    emit(f"{printable_name(figures['model'])}: {photos_of(figures)}\n\n")
    show_table([("", "left"), ("", "right"), ("", "left")], headline(figures))
    every = with_trained(figures)
    if every is not None:
        emit(f"\n{every}\n")
    hardest = sorted(known, key=lambda one: (one["f1"], one["index"]))[:_FEW]
    emit("\nThe hardest classes\n\n")
    columns = [("Class", "left"), ("Photos", "right"), ("Precision", "right"), ("Recall", "right")]
    show_table(
        [*columns, ("F1", "right")],
        [[one["label"], str(one["support"]), *(percent(one[k]) for k in _KEYS)] for one in hardest],
    )
    if figures["confusions"]:
        emit("\nTaken for another most often\n\n")
        columns = [("True class", "left"), ("Taken for", "left"), ("Photos", "right")]
        show_table(
            columns,
            [
                [one["truth"], one["predicted"], str(one["photos"])]
                for one in figures["confusions"][:_FEW]
            ],
        )
        emit("\nThe surest mistakes\n\n")
        columns = [("Photo", "left"), ("True class", "left"), ("Taken for", "left"), ("", "right")]
        show_table(
            columns,
            [
                [one["input"], one["truth"], one["predicted"], percent(one["probability"])]
                for one in figures["worst"][:_FEW]
            ],
        )


_KEYS = ("precision", "recall", "f1")


def show_calibration(record: Mapping[str, Any]) -> None:
    """What the temperature mends, on stdout."""
    emit(
        f"\nTemperature {record['temperature']:.4g} written into {printable_name(record['file'])}: "
        f"calibration error {percent(record['ece_before'])} before, {percent(record['ece_after'])} "
        f"after (on these {record['photos']:,} photos); loss {record['loss_before']:.4f}, "
        f"{record['loss_after']:.4f}.\n"
    )


def _trained_by_one(record: Mapping[str, Any]) -> str:
    seen = f"{record['trained_on']:,} photo(s) that one of the two was trained on"
    if record["trained_on"] == record["photos"]:
        return f"All are {seen}: this says nothing about which is better.\n"
    return f"Without {seen}.\n"


def show_comparison(record: Mapping[str, Any]) -> None:
    """Which photos changed, and whether that is more than chance, on stdout."""
    emit(
        f"\nAgainst {printable_name(record['model'])} (top-1 {percent(record['top1'])}): it has "
        f"{record['mended_count']:,} photo(s) right that this one has wrong, and "
        f"{record['broken_count']:,} wrong that this one has right; p = {record['p_value']:.3g} "
        "(exact McNemar test).\n"
    )
    if record["trained_on"]:
        emit(_trained_by_one(record))
    for title, key in (("right with the other only", "mended"), ("wrong with it only", "broken")):
        changed: Sequence[Mapping[str, Any]] = record[key]
        if changed:
            emit(f"\n{title}:\n")
            for one in changed[:_FEW]:
                emit(
                    f"  {printable_name(one['input'])}: {printable_name(one['truth'])}; "
                    f"{printable_name(one['this'])} / {printable_name(one['other'])}\n"
                )
            if len(changed) > _FEW:
                emit(f"  and {len(changed) - _FEW:,} more\n")
