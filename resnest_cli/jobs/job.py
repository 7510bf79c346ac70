"""What was asked for, what decides the bytes of an output, and how a run ended.

Plain data, which other processes are sent; no numpy.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from resnest_cli import __version__, output
from resnest_cli.errors import CheckpointError, ErrorKind, UsageError
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs.listing import WHOLE, ListShard
from resnest_cli.jobs.predict import Ranking
from resnest_cli.model.names import understand
from resnest_cli.options import AUTO, ModelOptions, RunOptions
from resnest_cli.progress import Progress, silent
from resnest_cli.signals import StoppedError
from resnest_cli.text import count, skipped_files

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

DEFAULT_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for, of either runner and command; see the options of both commands.

    `output` is a file (features: .npy, .npz, .csv, .parquet) or a folder of parts in `format`.
    """

    output: str
    options: RunOptions
    model: ModelOptions
    wanted: Extraction | Ranking
    format: str = "parquet"
    name: str = ""  # of the model, in records
    shard: ListShard = WHOLE
    path_column: str = "path"
    address: str | None = None  # of a cluster of Ray
    gpus: float | None = None  # of each worker; None: one where the cluster has any
    concurrency: int | None = None  # workers; None: as many as fit
    go_on: str = "resnest features --resume"  # the command that goes on after an interruption


class Item(NamedTuple):
    """One input: its name, its row's bytes or its error; 16 bytes of `feats.stat`, if known."""

    name: str
    error: str | None
    row: bytes | None
    kind: ErrorKind | None = None  # of the error, where it has just been raised
    stat: bytes | None = None


def as_begun(job: Job, identity: dict[str, Any] | None) -> Job:
    """The job with what was left open (the batch size, `--engine auto`) as it was begun."""
    engine = identity["engine"] if identity else {}
    options, model = job.options, job.model
    if options.batch_size == 0 or (options.batch_size == AUTO and engine):
        options = replace(options, batch_size=engine.get("batch_size", DEFAULT_BATCH_SIZE))
    if model.engine == "auto" and engine:
        model = replace(model, engine=engine["engine"])
    return replace(job, options=options, model=model)


def portable(model: ModelOptions) -> ModelOptions:
    """The same model for a process in another folder: files by their absolute paths."""

    def absolute(name: str | None) -> str | None:
        return str(Path(name).absolute()) if name and Path(name).exists() else name

    path = understand(model.model).path  # a repository may have the name of a folder elsewhere
    return replace(
        model,
        model=str(path.absolute()) if path else model.model,
        weights=absolute((model.weights or "").removeprefix("local-dir:")) or None,
        labels=absolute(model.labels),
        mirror=absolute(model.mirror),
    )


def go_on(command: str) -> str:
    """The command line as it was given, to go on with."""
    given = [word for word in sys.argv[2:] if word not in {"--resume", "--overwrite"}]
    return shlex.join(["resnest", command, "--resume", *given])


def identity(
    classifier: "Classifier",
    batch_size: int,
    extraction: Extraction,
    format_: str,
    shard: ListShard,
) -> dict[str, Any]:
    """All that decides the bytes of the output beside the inputs; plain data, as JSON holds it."""
    model, preparation = classifier.model, classifier.preparation
    try:
        sha256 = model.sha256()
    except OSError as error:
        raise CheckpointError(f"{model.path} cannot be read: {error}.") from error
    preprocessing: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(classifier.preprocessing).items()
    }
    shape = extraction.row_shape(model, classifier.preprocessing.size)
    return {
        "format": format_,
        "model": model.variant.id,
        "weights_sha256": sha256,
        "classes": model.num_classes,
        "preprocessing": preprocessing
        | {"crop_mode": preparation.crop_mode, "exif": preparation.exif}
        # Only where it is on: what earlier versions finished is still the same.
        | ({"fast_decode": True} if preparation.fast else {})
        | ({"gpu_decode": True} if preparation.on_gpu else {}),
        "extraction": asdict(extraction) | {"row_shape": list(shape)},
        "engine": asdict(classifier.engine.fingerprint(batch_size)),
        "versions": {
            "resnest_cli": __version__,
            "pillow": version("pillow"),
            "numpy": version("numpy"),
        },
        "shard": None if shard.count == 1 else asdict(shard),
    }


def without(identity: dict[str, Any], *names: str) -> dict[str, Any]:
    """An identity without some of its entries."""
    return {name: value for name, value in identity.items() if name not in names}


def check_same(target: object, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UsageError where an earlier run was begun with something else; names what differs."""
    if wrong := differences(then, now):
        raise UsageError(
            f"{target} was begun with something else: {wrong}. Use the same, another -o, or "
            "--overwrite to start afresh."
        )


def refused(what: object, *, unfinished: bool, done: str = "") -> UsageError:
    """What to say of an output that is there where neither --resume nor --overwrite was given."""
    if unfinished:
        return UsageError(
            f"{what} holds an unfinished run{done}: --resume goes on with it, --overwrite starts "
            "afresh."
        )
    return UsageError(f"{what} exists: --overwrite replaces it; give -o another name to keep it.")


_OPTIONS = {
    "pool", "stage", "head", "dtype", "normalize", "batch_size", "crop_pct", "interpolation",
    "crop_mode", "exif", "fast_decode", "gpu_decode", "shard", "topk", "threshold", "reject_below",
    "tta", "unknown",
}  # fmt: skip
_NAMES = {
    "weights_sha256": "weights",
    "engine.engine": "engine",
    "engine.device": "processor",
    "preprocessing.size": "image size",
    "list.sha256": "list of inputs",
}
_HASH = 64  # characters


def differences(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Each value that is not the same, as `name there, here`; empty where all are."""
    old, new = _flat(then), _flat(now)
    found = []
    for key in old | new:
        if old.get(key) != new.get(key):
            name = _NAMES.get(key, key.removeprefix("preprocessing.").replace("_", " "))
            if (option := key.rpartition(".")[2]) in _OPTIONS:
                name = f"--{option.replace('_', '-')}"
            found.append(f"{name} {_short(old.get(key))} there, {_short(new.get(key))} here")
    return "; ".join(found)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if prefix + key == "shard" and value is not None:
            flat[key] = f"{value.get('index', 'one')}/{value['count']}"
        elif isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _short(value: Any) -> str:
    if value is None:
        return "none"
    return value[:8] if isinstance(value, str) and len(value) == _HASH else str(value)


@dataclass(slots=True)
class Report:
    """How a run ended: `info` is `feats.json`, or `_summary.json` of a folder.

    The rest says what this start had to do with it.
    """

    info: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)  # by kind; of those that were read now
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    photos: int = 0
    elapsed: float = 0.0
    skipped: int = 0  # files that are no images
    finished_before: bool = False  # there was nothing to do
    parts: int = 0  # that are whole
    computed: int = 0  # of them by this start
    damaged: int = 0  # inputs that were computed again, since their parts were damaged

    def add(self, step: str, seconds: float) -> None:
        """A step took so long once more."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is done inside is writing, and part of the whole time."""
        start = monotonic()
        yield
        self.add("write", monotonic() - start)
        self.elapsed += monotonic() - start

    def text(self, times: str, why: str, made: str) -> str:
        """The report for people: `times` of the steps, `why` names where errors stand."""
        counts = self.info["counts"]
        lines = ["All was finished already."] if self.finished_before else []
        if not counts["inputs"]:  # there are more shards than batches
            lines.append("This shard has none of the inputs.")
        if times:
            speed = self.photos / max(self.elapsed, 1e-9)
            lines = [f"{count(self.photos, 'photo')}, {speed:.1f} photos/s; {times}."]
        if self.damaged:
            inputs = f"{count(self.damaged, 'input')} of damaged parts"
            lines.append(f"{inputs} {'was' if self.damaged == 1 else 'were'} computed again.")
        if self.skipped:
            lines.append(skipped_files(self.skipped))
        if counts["failed"]:
            ranked = sorted(self.failures.items(), key=lambda item: (-item[1], item[0]))
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in ranked)
            kinds = f" ({kinds})" if kinds else ""
            inputs = count(counts["inputs"], "input")
            lines.append(f"{counts['failed']:,} of {inputs} could not be read{kinds}: {why} why.")
        return "\n".join([*lines, made])


def failures_of(errors: Iterable[tuple[str | None, ErrorKind | None]]) -> dict[str, int]:
    """Failures by kind, of inputs with their error, if any, and its kind, where it is known."""
    return dict(Counter(kind or "other" for error, kind in errors if error is not None))


def summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Failures by kind of several parts."""
    return dict(sum(map(Counter, counts), Counter[str]()))


def carry_out(run: Callable[[Progress], Report], go_on: str, text: Callable[[Report], str]) -> None:
    """Runs with a bar, and says how it went; `go_on` is the command after an interruption.

    Raises:
        SystemExit: with 3 if an input failed, with 128 + n after signal n.
    """
    with interruptible(go_on), output.Bar() as bar:
        report = run(bar if bar.wanted else silent)
    output.message(text(report))
    if report.info["counts"]["failed"] and not report.finished_before:
        raise SystemExit(3)


@contextmanager
def interruptible(go_on: str) -> Iterator[None]:
    """Says with which command to go on where a signal ends what is done inside."""
    try:
        yield
    except (KeyboardInterrupt, StoppedError) as end:
        why = str(end) or "interrupted"
        output.message(f"{why}: what is done is kept. Go on with:\n  {go_on}")
        raise SystemExit(getattr(end, "exit_code", 130)) from None


def say_going_on(done: int, failed: int) -> None:
    """Says where a run goes on."""
    if done:
        output.message(f"Going on after {count(done, 'input')}, {failed:,} of them failed.")
