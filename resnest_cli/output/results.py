"""What `evaluate`, `export` and `benchmark` found, as people read it; on stdout."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from resnest_cli.output.messages import message
from resnest_cli.output.sink import emit, show_table
from resnest_cli.text import count, megabytes, percent, printable_name

Figures = Mapping[str, Any]

_FEW = 5  # classes, mistakes and photos that are listed
_SLOWER = 0.95  # times as fast; what is nearer to 1 may be chance
_DISTURBED = 1.25  # quartiles of times that lie farther apart than this
_SLOWEST = {"decode": "decoding", "resize": "resizing", "network": "the network"}


# Evaluation


# Figures in the order in which they are shown. A photo has one label, or may have several: its
# figures say which, since they have top-1 or mAP, and what they lack is not shown.
FIGURES = {
    "top1": "top-1", "top5": "top-5", "map": "mAP", "micro_f1": "micro F1", "macro_f1": "macro F1",
    "micro_precision": "precision", "micro_recall": "recall", "exact_match": "all labels right",
    "loss": "loss", "mean_recall": "mean recall", "mean_f1": "mean F1", "ece": "calibration error",
}  # fmt: skip
_COLUMNS = {
    "label": "Class", "support": "Photos", "predicted": "Taken for it", "selected": "Selected",
    "average_precision": "AP", "average_precision_interval": "95% of AP", "threshold": "Threshold",
    "precision": "Precision", "recall": "Recall", "f1": "F1",
}  # fmt: skip
_ONLY_ON_PAGES = {"predicted", "selected", "average_precision_interval"}  # columns


class Table(NamedTuple):
    """A table for the terminal and for a page; of its columns `numbers` hold numbers."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    numbers: frozenset[int]


def headline(figures: Figures) -> list[tuple[str, str, str]]:
    """The figures of the judged photos: name, value, and what belongs to it."""
    temperature, trained = figures["temperature"], figures["trained"]
    figures, which = (figures, "") if trained is None else (trained, ", trained on")
    rows = []
    for key, name in FIGURES.items():
        value, about = figures.get(key), figures.get(f"{key}_interval")
        if key == "loss":
            rows.append((name, f"{value:.4f}", "nats"))
        elif value is not None and about is not None:
            rows.append((name + which, percent(value), f"{_between(about)} (95%)"))
        elif value is not None:
            warmed = key == "ece" and temperature != 1
            rows.append((name, percent(value), f"at temperature {temperature:.3g}" * warmed))
    return rows


def class_table(figures: Figures, title: str = "Classes", *, every: bool = False) -> Table:
    """Classes that have photos, the hardest first, or `every` class by its index.

    Columns depend on what is known of them.
    """
    found = figures["classes"] if every else _hardest(figures)
    keys = [key for key in _COLUMNS if key in figures["classes"][0]]
    rows = [[_cell(one[key]) for key in keys] for one in found]
    return Table(title, [*map(_COLUMNS.__getitem__, keys)], rows, _from(1, len(keys)))


def mistakes_table(figures: Figures) -> Table:
    """Which classes are taken for others, or are given where only others belong."""
    rows = [[_cell(value) for value in one.values()] for one in figures["confusions"]]
    if "map" not in figures:
        columns = ["True class", "Taken for", "Photos"]
        return Table("Taken for another most often", columns, rows, _from(2, 3))
    columns = ["Has the label", "Was given, but has not", "Photos"]
    return Table("Given by mistake most often", columns, rows, _from(2, 3))


def worst_table(figures: Figures) -> Table:
    """The photos that were answered worst, by probability or by loss."""
    several, rows = "map" in figures, []
    for one in figures["worst"]:
        how_bad = f"{one['loss']:.4f}" if several else percent(one["probability"])
        rows.append([one["input"], *map(labels_text, (one["truth"], one["predicted"])), how_bad])
    if several:
        return Table("The worst photos", ["Photo", "Has", "Was given", "Loss"], rows, _from(3, 4))
    titles = ["Photo", "True class", "Taken for", "Probability"]
    return Table("The surest mistakes", titles, rows, _from(3, 4))


def _from(first: int, end: int) -> frozenset[int]:
    return frozenset(range(first, end))


def _cell(value: Any) -> str:
    """Fractions as percentages, an interval with both ends; None is a dash."""
    if isinstance(value, tuple):
        return _between(value)
    return percent(value) if value is None or isinstance(value, float) else str(value)


def _between(interval: Sequence[float]) -> str:
    low, high = map(percent, interval)
    return f"{low} to {high}"


def labels_text(labels: str | Sequence[str]) -> str:
    """A photo's label, or its labels, of which there may be none."""
    return labels if isinstance(labels, str) else ", ".join(labels) or "no label"


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
    main = "top1" if "top1" in every else "map"
    return (
        f"With the {figures['trained_on']:,} photos that it was trained on: {FIGURES[main]} "
        f"{percent(every[main])}, loss {every['loss']:.4f}."
    )


def show_evaluation(figures: Figures) -> None:
    """The figures, what is hard, a calibration and a comparison where there are such."""
    emit(f"{printable_name(figures['model'])}: {photos_of(figures)}\n\n")
    show_table(("", "", ""), headline(figures), "lrl")
    if every := with_trained(figures):
        emit(f"\n{every}\n")
    _show_hardest(figures)
    for table in (mistakes_table(figures), worst_table(figures)):
        if table.rows:
            emit(f"\n{table.title}\n\n")
            sides = "".join("r" if n in table.numbers else "l" for n in range(len(table.columns)))
            show_table(table.columns, table.rows[:_FEW], sides)
    if "calibrated" in figures:
        _show_calibration(figures["calibrated"], several="map" in figures)
    if "unknown" in figures:
        emit(f"\n{unknown_title(figures['unknown'])}\n\n")
        show_table(UNKNOWN_TITLES, unknown_rows(figures["unknown"]))
    if "comparison" in figures:
        _show_comparison(figures["comparison"])


def _hardest(figures: Figures) -> list[Mapping[str, Any]]:
    """The classes that have photos, by average precision, or by F1."""
    found = [one for one in figures["classes"] if one["support"]]
    by = "average_precision" if "average_precision" in figures["classes"][0] else "f1"
    return sorted(found, key=lambda one: (one[by], one["index"]))


def _show_hardest(figures: Figures) -> None:
    """The classes with the lowest average precision, or F1."""
    keys = [key for key in _COLUMNS if key in figures["classes"][0] and key not in _ONLY_ON_PAGES]
    emit("\nThe hardest classes\n\n")
    rows = [[_cell(one[key]) for key in keys] for one in _hardest(figures)[:_FEW]]
    show_table([*map(_COLUMNS.__getitem__, keys)], rows)


def _show_calibration(found: Figures, *, several: bool) -> None:
    """What was written into the checkpoint, and what it changed."""
    emit(
        "\nTemperature {temperature:.4g} written into {name}: calibration error {ece_before:.2%} "
        "before, {ece_after:.2%} after (on these {photos:,} photos); loss {loss_before:.4f}, "
        "{loss_after:.4f}.\n".format(name=printable_name(found["file"]), **found)
    )
    if "thresholds" in found:
        emit("Each class has a new threshold, of the precision that was asked for.\n")
    elif several:
        emit("Thresholds move with it: the same labels are selected.\n")


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
    main = "top1" if "top1" in record else "exact_match"
    right = "right" if main == "top1" else "all right"
    emit(
        f"\nAgainst {printable_name(record['model'])} ({FIGURES[main]} {percent(record[main])}): "
        f"it has {count(record['mended_count'], 'photo')} {right} that this one has wrong, and "
        f"{record['broken_count']:,} wrong that this one has {right}; p = {record['p_value']:.3g} "
        "(exact McNemar test).\n"
    )
    if record.get("map_difference_interval"):
        low, high = (100 * value for value in record["map_difference_interval"])
        emit(
            f"Its mAP is {percent(record['map'])}, this one's {percent(record['this_map'])}: "
            f"{100 * (record['map'] - record['this_map']):+.2f} points, {low:+.2f} to {high:+.2f} "
            f"(95%, of the {record['classes']:,} classes that both know).\n"
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
            truth, this, that = (labels_text(one[key]) for key in ("truth", "this", "other"))
            text = f"{one['input']}: {truth}; {this} / {that}"
            emit(f"  {printable_name(text)}\n")
        if len(changed) > _FEW:
            emit(f"  and {len(changed) - _FEW:,} more\n")


# Export


def show_export(summary: Figures) -> None:
    """The file in a line, how it agrees with the model, and what 8 bits changed."""
    what = [summary["variant"], f"{summary['classes']:,} classes", summary["precision"]]
    what += [f"opset {summary['opset']}"] if "opset" in summary else []
    what += ["OpenVINO"] if "openvino" in summary else []
    what += ["sigmoid with thresholds"] if summary["activation"] == "sigmoid" else []
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
        titles = "Compared on", "Inputs", "Largest difference", f"Same {_what_is_said(summary)}"
        show_table(titles, rows)
    if "beside_float32" in summary:
        emit("\n")
        title = summary["precision"] + " (OpenVINO)" * ("openvino" in summary)
        _show_beside_float32(summary["beside_float32"], title)
    if "int8" in summary:
        emit("\n")
        _show_int8(summary["int8"], f"same {_what_is_said(summary)}")


def _what_is_said(summary: Figures) -> str:
    """Of a photo: one class, or several labels."""
    return "labels" if summary["activation"] == "sigmoid" else "first class"


def _show_int8(found: Figures, same: str) -> None:
    rows, faster = _size_and_speed(found, "int8")
    for title, key in (("top-1", "top1"), ("mAP", "map")):
        if found.get(f"{key}_before") is not None:
            one, two = found[f"{key}_before"], found[f"{key}_after"]
            rows.append([title, *map(percent, (one, two)), f"{(two - one) * 100:+.2f} points"])
    rows.append([same, "", percent(found["agreement"]), ""])
    rows.append(["largest difference", "", f"{found['difference']:.3f}", "of a probability"])
    show_table(("", "float32", "int8", ""), rows, "lrrl")
    emit(
        f"\nCalibrated on {found['calibrated_on']:,} photos, measured on {found['photos']:,} "
        f"others; speed on {count(found['cores'], 'core')} of this machine.\n"
    )
    _note_slower(found, "int8", faster)


def _show_beside_float32(found: Figures, title: str) -> None:
    rows, faster = _size_and_speed(found, "this")
    show_table(("", "float32 (.onnx)", title, ""), rows, "lrrl")
    emit(f"\nSpeed on {count(found['cores'], 'core')} of this machine.\n")
    _note_slower(found, title, faster)


def _size_and_speed(found: Figures, which: str) -> tuple[list[list[str]], float]:
    """Rows of the table beside float32, and how many times as fast `which` is."""
    before, after = found["speed"]["float32"], found["speed"][which]
    rates = before["photos_per_second"], after["photos_per_second"]
    figures: list[tuple[str, float, float, Callable[[Any], str]]] = [
        ("size", found["bytes_before"], found["bytes_after"], megabytes),
        ("one photo", before["ms"], after["ms"], "{:.1f} ms".format),
        ("photos a second", *rates, "{:,.0f}".format if rates[0] >= 10 else "{:.1f}".format),
    ]
    rows = [[name, shown(a), shown(b), f"x {b / a:.2f}"] for name, a, b, shown in figures]
    return rows, rates[1] / rates[0]


def _note_slower(found: Figures, title: str, faster: float) -> None:
    gain = " but size" if found["bytes_after"] < found["bytes_before"] else ""
    if faster < _SLOWER:
        message(
            f"{title} is slower than float32 here ({faster:.2f} times as fast): this processor or "
            f"this network gains nothing{gain}."
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
