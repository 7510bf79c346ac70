"""Runs of `jobs.local` over a fake network, in a process of milliseconds.

A row is a hash over its batch and its name, so that a row from another batch is another row. Names
that hold "bad" cannot be read, unless they are in `HEALED`. Everything else is the real thing.
"""

import hashlib
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from resnest_cli.images.batches import Prepared
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs import extract, local
from resnest_cli.jobs.job import FeaturesJob, Report
from resnest_cli.jobs.listing import WHOLE, Shard
from resnest_cli.jobs.parts import held
from resnest_cli.options import ModelOptions, RunOptions
from resnest_cli.progress import silent
from resnest_cli.supervise import Start

COLUMNS = 8
HEALED: set[str] = set()
MODEL = ModelOptions(
    "fake", None, None, "auto", "auto", None, None, None, "center", True, None, False
)


def job_for(
    target: Path, listed: Path, *, batch_size: int = 4, shard: Shard = WHOLE, **extraction: str
) -> FeaturesJob:
    options = RunOptions((), str(listed), False, True, batch_size, 0, False, 60.0)
    return FeaturesJob(target, options, MODEL, Extraction(**extraction), shard)


class FakeClassifier:
    """Forms batches as the real one does; reads nothing."""

    preparation = None
    read = None

    def feature_groups(self, sources, extraction, *, batch_size, **_):
        waiting = iter(sources)
        while group := list(islice(waiting, batch_size)):
            names = [s.name for s in group]
            items = [
                Prepared(s, None, "is damaged: bad" if self._bad(s.name) else None) for s in group
            ]
            rows = [self._row(names, i.source.name) for i in items if i.error is None]
            yield items, np.array(rows, extraction.dtype).reshape(len(rows), COLUMNS)

    @staticmethod
    def _bad(name: str) -> bool:
        return "bad" in name and name not in HEALED

    @staticmethod
    def _row(names: list[str], name: str) -> np.ndarray:
        digest = hashlib.sha256("|".join([*names, name]).encode()).digest()
        return np.frombuffer(digest, np.uint8)[:COLUMNS].astype(np.float32)


def identity(
    _: object, batch_size: int, extraction: Extraction, format_: str, shard: Shard
) -> dict:
    return {
        "format": format_,
        "extraction": {"dtype": extraction.dtype, "row_shape": [COLUMNS]},
        "engine": {"engine": "fake", "batch_size": batch_size},
        "shard": None if shard.count == 1 else asdict(shard),
    }


def work(job, todo):
    before = extract.identity, extract.careful
    extract.identity, extract.careful = identity, lambda *_: None
    try:
        return (yield from extract.extract(FakeClassifier(), job, todo, Start()))
    finally:  # others of this process have a real network
        extract.identity, extract.careful = before


def run(job: FeaturesJob, **flags: bool) -> Report:
    flags = {"resume": False, "overwrite": False, "retry": False} | flags
    with held(job.target):
        return local.run(job, work, silent, **flags)
