"""What was asked for, and what the two processes of a run tell each other. Plain data, no numpy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from resnest_cli.inference.extraction import Extraction
from resnest_cli.options import ModelOptions, RunOptions


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of the list: the batches b, counted from 0, with b % count == index - 1.

    So a shard's batches are those of the whole run, and its rows have the same bits; no shard needs
    to know how long the list is, and `merge` restores the order with one batch of each in memory.
    """

    index: int  # from 1
    count: int

    def owns(self, batch: int) -> bool:
        """Whether this batch of the whole list, from 0, is ours."""
        return batch % self.count == self.index - 1

    def size(self, total: int, batch_size: int) -> int:
        """How many of a list of `total` inputs are ours."""
        whole, rest = divmod(total, batch_size)
        own = (whole - self.index) // self.count + 1 if whole >= self.index else 0
        return own * batch_size + (rest if self.owns(whole) else 0)


WHOLE = Shard(1, 1)


@dataclass(frozen=True, slots=True)
class FeaturesJob:
    """What was asked for; see the options of `resnest features`."""

    target: Path
    options: RunOptions
    model: ModelOptions
    extraction: Extraction
    shard: Shard = WHOLE
    quiet: bool = False
    go_on: str = "resnest features --resume"  # the command that goes on after an interruption


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the list had been read at the end of a batch: so many inputs, and their hash."""

    listed: int
    chain: str


@dataclass(frozen=True, slots=True)
class Todo:
    """Where the working process begins.

    `done` of our inputs are done (a whole number of batches). The list must still have the `marks`.
    `retry` is the `feats.csv` whose failed inputs alone are to be read; `done` counts those then.
    `last` ends the list after so many inputs: all were done, what came since is passed over. With
    `verify` nothing is done but to see that the list is the one of the marks, no more and no less.
    """

    done: int = 0
    marks: tuple[Mark, ...] = ()
    retry: Path | None = None
    last: int | None = None
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """The first thing that the working process tells: what decides the bytes of the output."""

    identity: dict[str, Any]


class Item(NamedTuple):
    """One input: its name, and its row or its error. The last one of a batch brings more."""

    name: str
    error: str | None
    row: bytes | None
    mark: Mark | None = None
    seconds: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """What the working process tells last: the whole list, and how many files it passed over."""

    mark: Mark
    skipped: int
