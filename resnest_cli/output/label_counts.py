"""How often labels stand in data whose photos may have several, and which stand together."""

from collections.abc import Mapping, Sequence

from resnest_cli.data.label_sets import LabelCounts, most_together, shown_label
from resnest_cli.output.sink import emit, show_table


def show_label_counts(
    ids: Sequence[str], sides: Mapping[str, LabelCounts], names: Sequence[str] = ()
) -> None:
    """Two tables on stdout, with a column for each side; `names` are readable ones of `ids`."""
    named, counts = list(names) not in ([], list(ids)), sides.values()
    rows = [[id_, *(f"{side.labels[id_]:,}" for side in counts)] for id_ in ids]
    rows.append([shown_label(""), *(f"{side.unlabelled:,}" for side in counts)])
    rows.append(["all", *(f"{side.photos:,}" for side in counts)])
    if named:
        rows = [[row[0], name, *row[1:]] for row, name in zip(rows, [*names, "", ""], strict=True)]
    show_table(["Class", *(["Name"] if named else []), *sides], rows, "llr" if named else "lr")
    readable = dict(zip(ids, names or ids, strict=True))
    rows = [
        [
            ", ".join(readable[label] for label in pair),
            *(f"{side.pairs[pair]:,}" for side in counts),
        ]
        for pair in most_together(counts)
    ]
    if rows:
        emit("\n")
        show_table(["Together most often", *sides], rows, "lr")
