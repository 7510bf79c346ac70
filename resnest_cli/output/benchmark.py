"""A benchmark as people read it."""

from collections.abc import Mapping
from typing import Any

from resnest_cli.output.messages import message, printable_name
from resnest_cli.output.sink import emit
from resnest_cli.output.tables import show_table

_DISTURBED = 1.25  # quartiles that lie farther apart than this
_SLOWEST = {"decode": "decoding", "resize": "resizing", "network": "the network"}


def show_benchmark(found: Mapping[str, Any]) -> None:
    """What was measured on, the runs, the stages, and the pipeline if any; on stdout."""
    emit(_heading(found) + "\n\n")
    _show_runs(found)
    emit("\n")
    _show_stages(found)
    if found["pipeline"] is not None:
        emit("\n")
        _show_pipeline(found["pipeline"])


def _heading(found: Mapping[str, Any]) -> str:
    model, machine = found["model"], found["machine"]
    size, versions = model["img_size"], machine["versions"]
    weights = "random weights" if model["weights"] == "random" else f"{model['classes']} classes"
    programs = [f"{name} {versions[name]}" for name in ("torch", "onnxruntime")]
    features = f", {machine['features'][-1]}" if machine["features"] else ""
    used = {f"{one['engine']} {one['threads']}": None for one in found["runs"] if one["threads"]}
    lines = [
        f"{printable_name(model['name'])}: {model['multiply_adds'] / 1e9:.2f} GMACs for a photo of "
        f"{size} x {size}, {weights}",
        f"machine   {machine['processor']}{features}",
        f"          {machine['cores']} core(s)" + f"; threads: {', '.join(used)}" * bool(used),
        f"programs  {', '.join(programs)}, Python {versions['python']}",
    ]
    lines += [
        f"product   {one['gmacs_per_second']:,.0f} GMAC/s: {one['side']} x {one['side']} float32 "
        f"matrices, {_place(one)}"
        for one in found["matmul"]
    ]
    return "\n".join(lines)


def _place(one: Mapping[str, Any]) -> str:
    return f"{one['threads']} thread(s)" if one["device"] == "cpu" else str(one["device"])


def _engine(one: Mapping[str, Any]) -> str:
    device = "" if one["device"] == "cpu" else f" {one['device']}"
    return f"{one['engine']}{device}"


def _show_runs(found: Mapping[str, Any]) -> None:
    titles = ["Batch", "ms a batch", "least", "quartiles", "photos/s", "GMAC/s", "of product"]
    rows = []
    for one in found["runs"]:
        ms = one["ms"]
        rows.append(
            [
                _engine(one),
                str(one["batch_size"]),
                _number(ms["median"]),
                _number(ms["min"]),
                f"{_number(ms['p25'])} to {_number(ms['p75'])}",
                _number(one["photos_per_second"]),
                _number(one["gmacs_per_second"]),
                f"{one['matmul_share']:.0%}",
            ]
        )
    show_table([("Engine", "left"), *((title, "right") for title in titles)], rows)
    if any(one["ms"]["p75"] > _DISTURBED * one["ms"]["p25"] for one in found["runs"]):
        message("Times of the same work differ much: something else is running on this machine.")


def _show_stages(found: Mapping[str, Any]) -> None:
    shares, stages = found["model"]["multiply_add_shares"], found["stages"]
    emit(f"Share of time by stage, batch of {stages['batch_size']}\n\n")
    engines = stages["engines"]
    columns = [("", "left"), ("multiply-adds", "right"), *((_engine(e), "right") for e in engines)]
    rows = [
        [stage, f"{share:.1%}", *(f"{one['shares'][stage]:.1%}" for one in engines)]
        for stage, share in shares.items()
    ]
    show_table(columns, rows)
    for one in engines:
        if one["convolutions"] is not None:
            emit(f"{_engine(one)}: {one['convolutions']:.0%} of the time in convolutions.\n")


def _show_pipeline(found: Mapping[str, Any]) -> None:
    emit(
        f"From files to answers: {found['photos']} photo(s) of {printable_name(found['input'])}, "
        f"decoded by {found['threads']} thread(s)\n\n"
    )
    rates = found["photos_per_second"]
    rows = [("read and decode", rates["decode"]), ("resize and normalise", rates["resize"])]
    for one in found["engines"]:
        what = f"{_engine(one)}, batch of {one['batch_size']}"
        rows.append((f"network, {what}", one["network_photos_per_second"]))
        rows.append((f"everything, {what}", one["photos_per_second"]))
    columns = [("", "left"), ("ms a photo", "right"), ("photos/s", "right")]
    show_table(columns, [[name, _number(1e3 / rate), _number(rate)] for name, rate in rows])
    for one in found["engines"]:
        emit(f"{_engine(one)}: the slowest step is {_SLOWEST[one['slowest']]}.\n")
    if found["unreadable"]:
        emit(f"{found['unreadable']} photo(s) could not be read and were left out.\n")


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
