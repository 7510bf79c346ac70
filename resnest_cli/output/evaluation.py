"""An evaluation as people read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from resnest_cli.output.messages import percent, printable_name
from resnest_cli.output.sink import emit
from resnest_cli.output.tables import show_table

_FEW = 5


def headline(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures of all photos: name, value, and what belongs to it."""
    shares = [
        (name, percent(figures[key]), f"{percent(low)} to {percent(high)} (95%)")
        for name, key in (("top-1", "top1"), ("top-5", "top5"))
        if figures[key] is not None
        for low, high in [figures[f"{key}_interval"]]
    ]
    temperature = figures["temperature"]
    warmed = "" if temperature == 1 else f"at temperature {temperature:.3g}"
    return [
        *shares,
        ("loss", f"{figures['loss']:.4f}", "nats"),
        ("mean recall", percent(figures["mean_recall"]), ""),
        ("mean F1", percent(figures["mean_f1"]), ""),
        ("calibration error", percent(figures["ece"]), warmed),
    ]


def show_evaluation(figures: Mapping[str, Any]) -> None:
    """The figures, the hardest classes, the commonest mistakes and the surest, on stdout."""
    known = [one for one in figures["classes"] if one["support"]]
    emit(
        f"{printable_name(figures['model'])}: {figures['photos']:,} photos of {len(known):,} "
        "classes\n\n"
    )
    show_table([("", "left"), ("", "right"), ("", "left")], headline(figures))
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
        f"after (on these photos); loss {record['loss_before']:.4f}, {record['loss_after']:.4f}.\n"
    )


def show_comparison(record: Mapping[str, Any]) -> None:
    """Which photos changed, and whether that is more than chance, on stdout."""
    emit(
        f"\nAgainst {printable_name(record['model'])} (top-1 {percent(record['top1'])}): it has "
        f"{record['mended_count']:,} photo(s) right that this one has wrong, and "
        f"{record['broken_count']:,} wrong that this one has right; p = {record['p_value']:.3g} "
        "(exact McNemar test).\n"
    )
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
