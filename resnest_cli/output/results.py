"""What `evaluate`, `export` and `benchmark` found, as people read it; on stdout."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resnest_cli.output.messages import message
from resnest_cli.output.sink import emit, show_table
from resnest_cli.text import count, megabytes, percent, printable_name

Figures = Mapping[str, Any]

_FEW = 5  # classes, mistakes and photos that are listed
_DISTURBED = 1.25  # quartiles of times that lie farther apart than this
_SLOWEST = {"decode": "decoding", "resize": "resizing", "network": "the network"}


# Evaluation


def headline(figures: Figures) -> list[tuple[str, str, str]]:
    """The figures of the judged photos: name, value, and what belongs to it."""
    temperature, trained = figures["temperature"], figures["trained"]
    figures, which = (figures, "") if trained is None else (trained, ", trained on")
    shares = []
    for name, key in (("top-1", "top1"), ("top-5", "top5")):
        if figures[key] is not None:
            low, high = map(percent, figures[f"{key}_interval"])
            shares.append((name + which, percent(figures[key]), f"{low} to {high} (95%)"))
    warmed = "" if temperature == 1 else f"at temperature {temperature:.3g}"
    return [
        *shares,
        ("loss", f"{figures['loss']:.4f}", "nats"),
        ("mean recall", percent(figures["mean_recall"]), ""),
        ("mean F1", percent(figures["mean_f1"]), ""),
        ("calibration error", percent(figures["ece"]), warmed),
    ]


def photos_of(figures: Figures) -> str:
    """How many photos and classes were judged, of which split, and whether training saw them."""
    classes = sum(bool(one["support"]) for one in figures["classes"])
    split = {None: "", "all": ", all sides of the split"}
    side = split.get(figures["split"], f", split {figures['split']}")
    known = "" if figures["trained_on"] is None else ", none of them trained on"
    known = ", all of them trained on" if figures["trained"] else known
    return f"{figures['photos']:,} photos of {classes:,} classes{side}{known}"


def with_trained(figures: Figures) -> str | None:
    """A sentence about the figures with the photos that trained the model; None without such."""
    every = figures["all"]
    if every is None:
        return None
    return (
        f"With the {figures['trained_on']:,} photos that it was trained on: top-1 "
        f"{percent(every['top1'])}, loss {every['loss']:.4f}."
    )


def show_evaluation(figures: Figures) -> None:
    """The figures, what is hard, a calibration and a comparison where there are such."""
    emit(f"{printable_name(figures['model'])}: {photos_of(figures)}\n\n")
    show_table(("", "", ""), headline(figures), "lrl")
    if every := with_trained(figures):
        emit(f"\n{every}\n")
    known = [one for one in figures["classes"] if one["support"]]
    hardest = sorted(known, key=lambda one: (one["f1"], one["index"]))[:_FEW]
    scores = ("precision", "recall", "f1")
    emit("\nThe hardest classes\n\n")
    rows = [
        [one["label"], str(one["support"]), *(percent(one[key]) for key in scores)]
        for one in hardest
    ]
    show_table(("Class", "Photos", "Precision", "Recall", "F1"), rows)
    if figures["confusions"]:
        emit("\nTaken for another most often\n\n")
        common = figures["confusions"][:_FEW]
        rows = [[one["truth"], one["predicted"], str(one["photos"])] for one in common]
        show_table(("True class", "Taken for", "Photos"), rows, "llr")
        emit("\nThe surest mistakes\n\n")
        rows = [
            [one["input"], one["truth"], one["predicted"], percent(one["probability"])]
            for one in figures["worst"][:_FEW]
        ]
        show_table(("Photo", "True class", "Taken for", ""), rows, "lllr")
    if "calibrated" in figures:
        emit(
            "\nTemperature {temperature:.4g} written into {name}: calibration error "
            "{ece_before:.2%} before, {ece_after:.2%} after (on these {photos:,} photos); loss "
            "{loss_before:.4f}, {loss_after:.4f}.\n".format(
                name=printable_name(figures["calibrated"]["file"]), **figures["calibrated"]
            )
        )
    if "unknown" in figures:
        emit(f"\n{unknown_title(figures['unknown'])}\n\n")
        show_table(UNKNOWN_TITLES, unknown_rows(figures["unknown"]))
    if "comparison" in figures:
        _show_comparison(figures["comparison"])


UNKNOWN_TITLES = ("Told by", "AUROC", "Found", "False alarms")


def unknown_title(about: Figures) -> str:
    """Which photos of something else, and at which share of false alarms."""
    unread = f" ({about['unreadable']:,} more unreadable)" if about["unreadable"] else ""
    return (
        f"{about['photos']:,} photos of something else, of {printable_name(about['data'])}"
        f"{unread}, at --unknown {100 * about['share']:.3g}%"
    )


def unknown_rows(about: Figures) -> list[list[str]]:
    """How well photos of something else are found, by distance and by the largest probability."""
    return [
        [name, *(percent(one[key]) for key in ("auroc", "found", "false_alarms"))]
        for name, one in (("distance", about), ("largest probability", about["probability"]))
    ]


def _show_comparison(record: Figures) -> None:
    """Which photos changed, and whether that is more than chance."""
    emit(
        f"\nAgainst {printable_name(record['model'])} (top-1 {percent(record['top1'])}): it has "
        f"{count(record['mended_count'], 'photo')} right that this one has wrong, and "
        f"{record['broken_count']:,} wrong that this one has right; p = {record['p_value']:.3g} "
        "(exact McNemar test).\n"
    )
    if record["trained_on"]:
        seen = f"{count(record['trained_on'], 'photo')} that one of the two was trained on"
        every = record["trained_on"] == record["photos"]
        says_nothing = f"All are {seen}: this says nothing about which is better.\n"
        emit(says_nothing if every else f"Without {seen}.\n")
    for title, key in (("right with the other only", "mended"), ("wrong with it only", "broken")):
        changed: Sequence[Figures] = record[key]
        if changed:
            emit(f"\n{title}:\n")
        for one in changed[:_FEW]:
            text = "{input}: {truth}; {this} / {other}".format_map(one)
            emit(f"  {printable_name(text)}\n")
        if len(changed) > _FEW:
            emit(f"  and {len(changed) - _FEW:,} more\n")


# Export


def show_export(summary: Figures) -> None:
    """The file in a line, how it agrees with the model, and what 8 bits changed."""
    what = [summary["variant"], f"{summary['classes']:,} classes", summary["precision"]]
    what += [f"opset {summary['opset']}"] if "opset" in summary else []
    what += [megabytes(summary["bytes"])]
    emit(f"{printable_name(summary['file'])}: {', '.join(what)}\n")
    if "sizes" in summary:
        rows = [[name, f"{size:,}"] for name, size in summary["sizes"].items()]
        rows.append(["all", f"{sum(summary['sizes'].values()):,}"])
        show_table(("File", "Bytes"), rows)
        kind = "private " if summary["private"] else ""
        message(f"Dry run: nothing was written, nothing sent to {kind}{summary['repository']}.")
    if "address" in summary:
        emit(f"{summary['address']}\n")
    if summary.get("parity"):
        emit("\n")
        rows = [
            [one["on"], f"{one['photos']:,}", f"{one['difference']:.1e}", percent(one["agreement"])]
            for one in summary["parity"]
        ]
        show_table(("Compared on", "Inputs", "Largest difference", "Same first class"), rows)
    if "int8" in summary:
        emit("\n")
        _show_int8(summary["int8"])


def _show_int8(found: Figures) -> None:
    before, after = found["speed"]["float32"], found["speed"]["int8"]
    rates = before["photos_per_second"], after["photos_per_second"]
    figures: list[tuple[str, float, float, Callable[[Any], str]]] = [
        ("size", found["bytes_before"], found["bytes_after"], megabytes),
        ("one photo", before["ms"], after["ms"], "{:.1f} ms".format),
        ("photos a second", *rates, "{:,.0f}".format if rates[0] >= 10 else "{:.1f}".format),
    ]
    rows = [[name, shown(a), shown(b), f"x {b / a:.2f}"] for name, a, b, shown in figures]
    if found["top1_before"] is not None:
        top1 = found["top1_before"], found["top1_after"]
        rows.append(["top-1", *map(percent, top1), f"{(top1[1] - top1[0]) * 100:+.2f} points"])
    rows.append(["same first class", "", percent(found["agreement"]), ""])
    rows.append(["largest difference", "", f"{found['difference']:.3f}", "of a probability"])
    show_table(("", "float32", "int8", ""), rows, "lrrl")
    emit(
        f"\nCalibrated on {found['calibrated_on']:,} photos, measured on {found['photos']:,} "
        f"others; speed on {count(found['cores'], 'core')} of this machine.\n"
    )
    faster = rates[1] / rates[0]
    if faster < 1:
        message(
            f"int8 is slower than float32 here ({faster:.2f} times as fast): this processor or "
            "this network gains nothing but size."
        )


# Benchmark


def show_benchmark(found: Figures) -> None:
    """What was measured on, the runs, the stages, and the pipeline if any."""
    _show_heading(found)
    show_runs(found)
    _show_stages(found)
    if found["pipeline"] is not None:
        _show_pipeline(found["pipeline"])


def _show_heading(found: Figures) -> None:
    model, machine = found["model"], found["machine"]
    size, versions = model["img_size"], machine["versions"]
    weights = "random weights" if model["weights"] == "random" else f"{model['classes']} classes"
    features = f", {machine['features'][-1]}" if machine["features"] else ""
    used = {f"{one['engine']} {one['threads']}": None for one in found["runs"] if one["threads"]}
    lines = [
        f"{printable_name(model['name'])}: {model['multiply_adds'] / 1e9:.2f} GMACs for a photo of "
        f"{size} x {size}, {weights}",
        f"machine   {machine['processor']}{features}",
        f"          {count(machine['cores'], 'core')}"
        + f"; threads: {', '.join(used)}" * bool(used),
        f"programs  torch {versions['torch']}, onnxruntime {versions['onnxruntime']}, "
        f"Python {versions['python']}",
    ]
    for one in found["matmul"]:
        on = f"{count(one['threads'], 'thread')}" if one["device"] == "cpu" else str(one["device"])
        lines.append(
            f"product   {one['gmacs_per_second']:,.0f} GMAC/s: {one['side']} x {one['side']} "
            f"float32 matrices, {on}"
        )
    emit("\n".join(lines) + "\n\n")


def _engine(one: Figures) -> str:
    device = "" if one["device"] == "cpu" else f" {one['device']}"
    return f"{one['engine']}{device}"


def show_runs(found: Figures) -> None:
    """A row for each engine and size of batch."""
    titles = ["Engine", "Batch", "ms a batch", "least", "quartiles", "photos/s", "GMAC/s"]
    rows = []
    for one in found["runs"]:
        middle, least, low, high = (_number(one["ms"][k]) for k in ("median", "min", "p25", "p75"))
        rates = map(_number, (one["photos_per_second"], one["gmacs_per_second"]))
        start = [_engine(one), str(one["batch_size"]), middle, least, f"{low} to {high}"]
        rows.append([*start, *rates, f"{one['matmul_share']:.0%}"])
    show_table([*titles, "of product"], rows)
    if any(one["ms"]["p75"] > _DISTURBED * one["ms"]["p25"] for one in found["runs"]):
        message("Times of the same work differ much: something else is running on this machine.")


def _show_stages(found: Figures) -> None:
    shares, stages = found["model"]["multiply_add_shares"], found["stages"]
    emit(f"\nShare of time by stage, batch of {stages['batch_size']}\n\n")
    engines = stages["engines"]
    rows = [
        [stage, f"{share:.1%}", *(f"{one['shares'][stage]:.1%}" for one in engines)]
        for stage, share in shares.items()
    ]
    show_table(["", "multiply-adds", *map(_engine, engines)], rows)
    for one in engines:
        if one["convolutions"] is not None:
            emit(f"{_engine(one)}: {one['convolutions']:.0%} of the time in convolutions.\n")


def _show_pipeline(found: Figures) -> None:
    emit(
        f"\nFrom files to answers: {count(found['photos'], 'photo')} of "
        f"{printable_name(found['input'])}, "
        f"decoded by {count(found['threads'], 'thread')}\n\n"
    )
    rates = found["photos_per_second"]
    rows = [("read and decode", rates["decode"]), ("resize and normalise", rates["resize"])]
    for one in found["engines"]:
        what = f"{_engine(one)}, batch of {one['batch_size']}"
        rows.append((f"network, {what}", one["network_photos_per_second"]))
        rows.append((f"everything, {what}", one["photos_per_second"]))
    cells = [[name, _number(1e3 / rate), _number(rate)] for name, rate in rows]
    show_table(("", "ms a photo", "photos/s"), cells)
    for one in found["engines"]:
        emit(f"{_engine(one)}: the slowest step is {_SLOWEST[one['slowest']]}.\n")
    if found["unreadable"]:
        emit(f"{count(found['unreadable'], 'photo')} could not be read and were left out.\n")


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
