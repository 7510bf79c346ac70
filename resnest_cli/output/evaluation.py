"""An evaluation as people read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from resnest_cli.output.messages import printable_name
from resnest_cli.output.sink import emit
from resnest_cli.output.tables import show_table

_FEW = 5


def show_evaluation(figures: Mapping[str, Any]) -> None:
    """The figures, the hardest classes, the commonest mistakes and the surest, on stdout."""
    rows = [["top-1", _share(figures["top1"]), _interval(figures["top1_interval"])]]
    if figures["top5"] is not None:
        rows.append(["top-5", _share(figures["top5"]), _interval(figures["top5_interval"])])
    rows += [
        ["loss", f"{figures['loss']:.4f}", "nats"],
        ["mean recall", _share(figures["mean_recall"]), ""],
        ["mean F1", _share(figures["mean_f1"]), ""],
        ["calibration error", _share(figures["ece"]), _temperature(figures["temperature"])],
    ]
    known = [one for one in figures["classes"] if one["support"]]
    emit(
        f"{printable_name(figures['model'])}: {figures['photos']:,} photos of {len(known):,} "
        "classes\n\n"
    )
    show_table([("", "left"), ("", "right"), ("95% interval", "left")], rows)
    hardest = sorted(known, key=lambda one: (one["f1"], one["index"]))[:_FEW]
    emit("\nThe hardest classes\n\n")
    columns = [("Class", "left"), ("Photos", "right"), ("Precision", "right"), ("Recall", "right")]
    show_table(
        [*columns, ("F1", "right")],
        [[one["label"], str(one["support"]), *(_share(one[k]) for k in _KEYS)] for one in hardest],
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
                [one["input"], one["truth"], one["predicted"], _share(one["probability"])]
                for one in figures["worst"][:_FEW]
            ],
        )


_KEYS = ("precision", "recall", "f1")


def show_calibration(record: Mapping[str, Any]) -> None:
    """What the temperature mends, on stdout."""
    emit(
        f"\nTemperature {record['temperature']:.4g} written into {printable_name(record['file'])}: "
        f"calibration error {_share(record['ece_before'])} before, {_share(record['ece_after'])} "
        f"after (on these photos); loss {record['loss_before']:.4f}, {record['loss_after']:.4f}.\n"
    )


def show_comparison(record: Mapping[str, Any]) -> None:
    """Which photos changed, and whether that is more than chance, on stdout."""
    emit(
        f"\nAgainst {printable_name(record['model'])} (top-1 {_share(record['top1'])}): it has "
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


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _interval(value: Sequence[float]) -> str:
    return f"{value[0]:.2%} to {value[1]:.2%}"


def _temperature(value: float) -> str:
    return "" if value == 1 else f"at temperature {value:.3g}"
