"""`split.csv`: which photo trains, which validates, and which was left out. Nothing is copied.

A resumed run reads it instead of looking at the data again. Column `sha256` has the first bytes of
a file's SHA-256, in hex. As data for other commands, `data.run_split` reads it.
"""

import csv
from pathlib import Path

from resnest_cli.csv_rows import csv_rows, read_csv_rows
from resnest_cli.data.photo_paths import as_found
from resnest_cli.errors import ResnestError
from resnest_cli.files import write_text, writing
from resnest_cli.training.dataset import BadPhoto, DataSet, Sample, base_folder

_COLUMNS = ["path", "label", "class_name", "split", "error", "sha256"]


def write_split(path: Path, dataset: DataSet) -> None:
    """Writes the file, atomically; names that are not UTF-8 keep their bytes.

    Raises:
        ResnestError: it cannot be written.
    """
    rows = [_COLUMNS]
    for side, samples in (("train", dataset.train), ("val", dataset.val)):
        for sample in samples:
            id_, name = dataset.class_ids[sample.label], dataset.class_names[sample.label]
            rows.append([sample.name, id_, name, side, "", sample.digest.hex()])
    rows += [[photo.name, photo.label, "", "bad", photo.error, ""] for photo in dataset.bad]
    rows += [[photo.name, photo.label, "", "same", photo.error, ""] for photo in dataset.left_out]
    with writing(path):
        write_text(path, csv_rows(rows))


def read_split(path: Path, data: str, base: str | None = None) -> DataSet:
    """The data set of a file that `write_split` wrote; see `base_folder` for where photos lie.

    Raises:
        ResnestError: it is missing or damaged.
    """
    sides: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "val": []}
    names: dict[str, str] = {}
    others: dict[str, list[BadPhoto]] = {"bad": [], "same": []}
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = read_csv_rows(file)
            columns = next(reader)
            if columns not in (_COLUMNS, _COLUMNS[:-1]):  # earlier versions wrote no hashes
                raise ValueError("other columns")  # noqa: TRY301
            for name, id_, class_name, side, error, *digest in reader:
                if side in others:
                    others[side].append(BadPhoto(name, id_, error))
                    continue
                sides[side].append((name, id_, bytes.fromhex("".join(digest))))
                names[id_] = class_name
    except (OSError, ValueError, KeyError, StopIteration, csv.Error) as error:
        raise ResnestError(
            f"{path}: cannot be read ({error or 'it is empty'}). The run needs it to go on; start "
            "a new one without --resume."
        ) from error
    ids = tuple(sorted(names))
    index = {id_: place for place, id_ in enumerate(ids)}
    base = base_folder(data, base)
    train, val = (
        tuple(
            Sample(as_found(base, name), name, index[id_], digest)
            for name, id_, digest in sides[side]
        )
        for side in ("train", "val")
    )
    return DataSet(
        ids,
        tuple(names[id_] for id_ in ids),
        train,
        val,
        bad=tuple(others["bad"]),
        left_out=tuple(others["same"]),
        own_split=True,
    )
