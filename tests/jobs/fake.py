"""Runs of `jobs.local` over a fake network, in a process of milliseconds.

A row is a hash over its batch and its name, so that a row from another batch is another row. Names
that hold "bad" cannot be read, unless they are in `HEALED`. Everything else is the real thing.
"""

import hashlib
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from resnest_cli.images.batches import Prepared
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs import local
from resnest_cli.jobs.job import Job, Report
from resnest_cli.jobs.listing import WHOLE, ListShard
from resnest_cli.options import ModelOptions, RunOptions
from resnest_cli.progress import silent

COLUMNS = 8
HEALED: set[str] = set()
COMPUTED: list[str] = []  # names that came to the network
MODEL = ModelOptions(
    "fake", None, None, "auto", "auto", None, None, None, "center", True, None, False
)


def job_for(
    target: Path, listed: Path, *, batch_size: int = 4, shard: ListShard = WHOLE, **extraction: str
) -> Job:
    options = RunOptions((), str(listed), batch_size=batch_size, workers=0)
    wanted = Extraction(**extraction)
    return Job(str(target), options, MODEL, wanted, target.suffix[1:], shard=shard)


class FakeClassifier:
    """Forms batches as the real one does; reads nothing."""

    preparation = SimpleNamespace(portable=SimpleNamespace(max_pixels=1))
    engine = SimpleNamespace(device="cpu")
    model = SimpleNamespace(variant=SimpleNamespace(id="fake", gmacs=None))
    class_names = ("cat", "crane", 'a "dog", wet', "crane", *"efgh")

    def feature_groups(self, sources, extraction, *, batch_size, **_):
        waiting = iter(sources)
        while group := list(islice(waiting, batch_size)):
            names = [s.name for s in group]
            COMPUTED.extend(names)
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
        digest = hashlib.sha256("|".join([*names, name]).encode(errors="surrogateescape")).digest()
        return np.frombuffer(digest, np.uint8)[:COLUMNS].astype(np.float32)


def identity(
    _: object, batch_size: int, extraction: Extraction, format_: str, shard: ListShard
) -> dict:
    return {
        "format": format_,
        "extraction": {
            "head": extraction.head, "dtype": extraction.dtype, "row_shape": [COLUMNS]
        },
        "engine": {"engine": "fake", "batch_size": batch_size},
        "versions": {"resnest_cli": "1"},
        "shard": None if shard.count == 1 else asdict(shard),
    }  # fmt: skip


def run(job: Job, **flags: Any) -> Report:
    flags = {"resume": False, "overwrite": False} | flags
    with (  # others of this process have a real network
        patch.object(local, "identity", identity),
        patch.object(local, "load", lambda _: FakeClassifier()),
        patch.object(local, "row_bytes", lambda *_: 4 * COLUMNS),
    ):
        return local.features(job, silent, **flags)
