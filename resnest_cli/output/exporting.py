"""What `export` found out about its file, as people read it."""

from collections.abc import Mapping
from typing import Any

from resnest_cli.output.messages import megabytes, message, percent, printable_name
from resnest_cli.output.sink import emit
from resnest_cli.output.tables import show_table


def show_export(summary: Mapping[str, Any]) -> None:
    """The file in a line, how it agrees with the model, and what 8 bits changed, on stdout."""
    what = [summary["variant"], f"{summary['classes']:,} classes", summary["precision"]]
    what += [f"opset {summary['opset']}"] if "opset" in summary else []
    what += [megabytes(summary["bytes"])]
    emit(f"{printable_name(summary['file'])}: {', '.join(what)}\n")
    if "sizes" in summary:
        rows = [[name, f"{size:,}"] for name, size in summary["sizes"].items()]
        rows.append(["all", f"{sum(summary['sizes'].values()):,}"])
        show_table([("File", "left"), ("Bytes", "right")], rows)
        kind = "private " if summary["private"] else ""
        message(f"Dry run: nothing was written, nothing sent to {kind}{summary['repository']}.")
    if "address" in summary:
        emit(f"{summary['address']}\n")
    if summary.get("parity"):
        emit("\n")
        columns = [("Compared on", "left"), ("Inputs", "right")]
        columns += [("Largest difference", "right"), ("Same first class", "right")]
        show_table(columns, [
            [one["on"], f"{one['photos']:,}", f"{one['difference']:.1e}", percent(one["agreement"])]
            for one in summary["parity"]
        ])  # fmt: skip
    if "int8" in summary:
        emit("\n")
        _show_int8(summary["int8"])


def _show_int8(told: Mapping[str, Any]) -> None:
    before, after = told["speed"]["float32"], told["speed"]["int8"]
    faster = after["photos_per_second"] / before["photos_per_second"]
    rows = [
        _row("size", told["bytes_before"], told["bytes_after"], megabytes),
        _row("one photo", before["ms"], after["ms"], "{:.1f} ms".format),
        _row("photos a second", before["photos_per_second"], after["photos_per_second"],
             "{:,.0f}".format if before["photos_per_second"] >= 10 else "{:.1f}".format),
    ]  # fmt: skip
    if told["top1_before"] is not None:
        points = (told["top1_after"] - told["top1_before"]) * 100
        cells = [percent(told["top1_before"]), percent(told["top1_after"]), f"{points:+.2f} points"]
        rows.append(["top-1", *cells])
    rows.append(["same first class", "", percent(told["agreement"]), ""])
    rows.append(["largest difference", "", f"{told['difference']:.3f}", "of a probability"])
    columns = [("", "left"), ("float32", "right"), ("int8", "right"), ("", "left")]
    show_table(columns, rows)
    emit(
        f"\nCalibrated on {told['calibrated_on']:,} photos, measured on {told['photos']:,} others; "
        f"speed on {told['cores']} core(s) of this machine.\n"
    )
    if faster < 1:
        message(
            f"int8 is slower than float32 here ({faster:.2f} times as fast): this processor or "
            "this network gains nothing but size."
        )


def _row(name: str, before: float, after: float, shown: Any) -> list[str]:
    return [name, shown(before), shown(after), f"x {after / before:.2f}"]
