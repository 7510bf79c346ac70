"""`resnest finetune` killed with SIGKILL at random moments and resumed: the same bytes at the end.

Shared by the slow test and by `tests/campaign/kill_training.py`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resnest_cli.errors import ResnestError
from resnest_cli.model import checkpoint
from resnest_cli.training import state
from tests.conftest import make_photo

ROOT = Path(__file__).parents[2]
CLASSES, PHOTOS = 3, 20


def make_data(folder: Path, *, several: bool = False) -> Path:
    """Three classes of twenty photos; or a table that gives each photo several labels, or none."""
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(PHOTOS):
            make_photo(folder / f"class{label}" / f"{index}.jpg", seed=100 * label + index)
    if not several:
        return folder
    rows = ["path,labels"]
    for index, path in enumerate(sorted(folder.glob("*/*.jpg"))):
        labels = [f"l{k}" for k in range(CLASSES) if index >> k & 1]
        rows.append(f"{path.relative_to(folder)},{'|'.join(labels)}")
    (folder / "photos.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "photos.csv"


def command(data: Path, model: Path, runs: Path, name: str, *more: str) -> list[str]:
    """A run of 192 steps over 16 epochs that saves its state after every step."""
    return [
        sys.executable, "-m", "resnest_cli", "finetune", str(data), "--model", str(model),
        "--freeze", "none", "--epochs", "16", "-b", "4", "-j", "1", "--save-every", "0.001",
        "--output", str(runs), "--run", name, *more,
    ]  # fmt: skip


def run(arguments: list[str]) -> float:
    """Runs to the end; its seconds."""
    begin = time.monotonic()
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begin


@dataclass
class Trial:
    """How often a run was killed, and what was found after each kill.

    `undisturbed` are the seconds of a last part that ended before its kill was due.
    """

    kills: int = 0
    with_state: int = 0
    with_weights: int = 0
    leftovers: int = 0
    undisturbed: float | None = None


def killed_run(arguments: list[str], folder: Path, longest: float, seed: int, most: int) -> Trial:
    """Kills the run, process group and all, up to `most` times; then lets it end.

    After each kill every state that is there must load, or the one before it, and so must every
    file of weights.
    """
    chance, trial = random.Random(seed), Trial()
    while trial.kills < most:
        begin = time.monotonic()
        with subprocess.Popen(
            [*arguments, *(["--resume"] if folder.is_dir() else [])],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                process.wait(chance.uniform(0, longest))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                trial.kills += 1
            else:
                assert process.stderr is not None
                assert process.returncode == 0, process.stderr.read().decode()
                trial.undisturbed = time.monotonic() - begin
                break
        check(folder, trial)
    run([*arguments, *(["--resume"] if folder.is_dir() else [])])
    return trial


def check(folder: Path, trial: Trial) -> None:
    """What is on disk can be loaded."""
    trial.leftovers += len(list(folder.rglob("*.tmp")))
    found = state.states(folder / "resume")
    if found:
        assert state.load_state(folder / "resume", _no_damage) is not None
        trial.with_state += 1
    weights = list((folder / "weights").glob("*.safetensors"))
    for path in weights:
        checkpoint.load(path)
    trial.with_weights += bool(weights)
    rows = found and state.read_record(found[0]).rows
    if rows:
        assert {"best.safetensors", "last.safetensors"} <= {path.name for path in weights}


def _no_damage(text: str) -> None:
    raise ResnestError(text)


def outcome(folder: Path) -> dict[str, bytes]:
    """The bytes of all weights, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir())}


def campaign(
    work: Path, model: Path, count: int, seed: int, *more: str, several: bool = False
) -> Iterator[tuple[str, Trial]]:
    """Runs, each killed up to five times, until there were `count` kills in all.

    Each run must end with the very bytes of a run that nobody disturbed. `more` flags are given;
    with `several`, photos have several labels.
    """
    data = make_data(work / "data", several=several)
    seconds = run(command(data, model, work / "runs", "quiet", *more))
    expected = outcome(work / "runs" / "finetune" / "quiet")
    kills = number = 0
    while kills < count:
        name = f"run{number}"
        arguments = command(data, model, work / "runs", name, *more)
        folder = work / "runs" / "finetune" / name
        trial = killed_run(arguments, folder, seconds, seed + number, min(5, count - kills))
        assert outcome(folder) == expected, f"{name} ended with other weights"
        kills, number = kills + trial.kills, number + 1
        if not trial.kills and trial.undisturbed is not None:
            seconds = min(seconds, trial.undisturbed)  # the first run was slowed by something else
        yield name, trial
