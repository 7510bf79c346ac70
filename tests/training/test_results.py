"""`results.csv` reads back as what was written."""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from resnest_cli.training.results import write_recall, write_results
from tests.report.rows import ROW, history, without_ema

HEADER = (
    "epoch,step,lr,train_loss,val_loss,top1,top5,ema_loss,ema_top1,ema_top5,recall,which,best,"
    "photos_per_second,train_seconds,seconds"
)


def test_rows_read_back(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    exact = replace(ROW, lr=0.1 + 0.2, top1=1 / 3, best=False)
    rows = [exact, without_ema(ROW)]
    write_results(path, rows)
    text = path.read_text("utf-8")
    assert text.splitlines()[0] == HEADER
    assert text.endswith("\n")
    assert "\r" not in text
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row, cells in zip(rows, found, strict=True):
        for name, value in asdict(row).items():
            assert cells[name] == ("" if value is None else str(value))
    assert float(found[0]["lr"]) == 0.1 + 0.2
    assert float(found[0]["top1"]) == 1 / 3
    assert [cells["best"] for cells in found] == ["False", "True"]


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_results(path, [])
    assert path.read_text("utf-8") == HEADER + "\n"
    write_results(path, history(3))
    write_results(path, history(2))
    assert len(path.read_text("utf-8").splitlines()) == 3
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="No such file"):
        write_results(tmp_path / "gone" / "results.csv", [])


def test_recall_has_a_column_for_each_class_and_no_epoch_twice(tmp_path: Path) -> None:
    path = tmp_path / "recall.csv"
    for epoch, recall in ((1, (0.5, None)), (2, (0.25, 1.0)), (3, (0.0, 0.0)), (2, (0.75, 1.0))):
        write_recall(path, ("cat, grey", "dog"), epoch, recall)
    assert path.read_text() == 'epoch,"cat, grey",dog\n1,0.5,\n2,0.75,1.0\n'
