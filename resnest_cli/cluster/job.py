"""What was asked for, as plain data that every worker is sent."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnest_cli.inference.extraction import Extraction
from resnest_cli.model.names import understand
from resnest_cli.options import ModelOptions, RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from resnest_cli.inference.classifier import Classifier

PartFormat = Literal["parquet", "jsonl"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """What is kept of each photo's answer; see the options of `resnest predict`."""

    topk: int
    threshold: float
    reject_below: float
    tta: bool


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """What was asked for; see the options of `resnest features` and `predict`.

    `wanted` says whether features or classes are computed. `build` makes the classifier, in every
    worker: a function of a module. `name` is the model's in records.
    """

    output: str
    options: RunOptions
    model: ModelOptions
    wanted: Extraction | Ranking
    build: "Callable[[ModelOptions, Extraction | Ranking], Classifier]"
    name: str
    format: PartFormat = "parquet"
    path_column: str = "path"
    address: str | None = None
    gpus: float | None = None  # of each worker; None: one where the cluster has any
    concurrency: int | None = None  # workers; None: as many as fit
    go_on: str = "resnest features --resume"  # the command that goes on after an interruption


def portable(model: ModelOptions) -> ModelOptions:
    """The same model for a process in another folder: files by their absolute paths."""

    def absolute(name: str | None) -> str | None:
        return str(Path(name).absolute()) if name and Path(name).exists() else name

    def absolute_model(name: str) -> str:
        path = understand(name).path  # a repository may have the name of a folder elsewhere
        return str(path.absolute()) if path else name

    return replace(
        model,
        model=absolute_model(model.model),
        weights=absolute((model.weights or "").removeprefix("local-dir:")) or None,
        labels=absolute(model.labels),
        mirror=absolute(model.mirror),
    )
