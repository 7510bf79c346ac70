"""Rows of a made-up history: accuracy rises, loss falls, the last epoch is the best."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from resnest_cli.training.state import EpochRow

ROW = EpochRow(
    epoch=1,
    step=10,
    lr=0.1,
    train_loss=2.0,
    val_loss=1.5,
    top1=0.5,
    top5=0.9,
    ema_loss=1.4,
    ema_top1=0.55,
    ema_top5=0.92,
    recall=0.54,
    which="ema",
    best=True,
    photos_per_second=100.0,
    train_seconds=9.0,
    seconds=10.0,
)


def history(epochs: int) -> list[EpochRow]:
    rows = []
    for epoch in range(1, epochs + 1):
        share = epoch / epochs
        rows.append(
            replace(
                ROW,
                epoch=epoch,
                step=10 * epoch,
                lr=0.1 * (1 - share),
                train_loss=2.5 - share,
                val_loss=2.0 - share,
                top1=0.5 * share,
                ema_top1=0.6 * share,
                best=True,
            )
        )
    return rows


def without_ema(row: EpochRow) -> EpochRow:
    return replace(row, ema_loss=None, ema_top1=None, ema_top5=None, top5=None, which="raw")


def as_dicts(rows: Sequence[EpochRow]) -> list[dict[str, Any]]:
    """As `plots.curves` takes them."""
    return [asdict(row) for row in rows]
