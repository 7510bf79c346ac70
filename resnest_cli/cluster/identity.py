"""What decides the content of an output, found on a worker, where the model and the device are.

As for the local runner, but for the kind of processor: nodes differ, and with them the last bits.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnest_cli.cluster.batch import load
from resnest_cli.cluster.job import ClusterJob, Ranking
from resnest_cli.features.job import FeaturesJob
from resnest_cli.inference.extraction import Extraction


@dataclass(frozen=True, slots=True)
class Found:
    """What a worker says of the model: the `identity`, and bytes of a photo's row."""

    identity: dict[str, Any]
    row_bytes: int


def found(job: ClusterJob, threads: int) -> Found:
    """Loads the model in this process to see what it is.

    Raises:
        ResnestError: the model, its weights, its labels or the device cannot be had.
    """
    from resnest_cli.features.extract import identity

    classifier = load(job, threads)
    ranking = isinstance(job.wanted, Ranking)
    extraction = Extraction() if isinstance(job.wanted, Ranking) else job.wanted
    target = Path(f"part.{job.format}")
    described = identity(classifier, FeaturesJob(target, job.options, job.model, extraction))
    engine = {k: v for k, v in described["engine"].items() if k != "device"}
    described = {k: v for k, v in described.items() if k != "shard"} | {"engine": engine}
    size = 1024
    if ranking:
        names = json.dumps(classifier.class_names).encode()
        described.pop("extraction")
        described["class_names_sha256"] = hashlib.sha256(names).hexdigest()
        described["ranking"] = asdict(job.wanted)
    else:
        shape = extraction.row_shape(classifier.model, classifier.preprocessing.size)
        size = extraction.row_bytes(shape)
    return Found(json.loads(json.dumps(described)), size)


def hash_of(identity: dict[str, Any], listed: str, part_size: int) -> str:
    """A short hash of an identity, its list of inputs and how that is cut into parts."""
    text = json.dumps([identity, listed, part_size], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
