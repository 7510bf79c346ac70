"""`--exclude` at the command line: finetune, its resumed run, evaluate, pack; shards refuse it."""

import csv
import json
import tomllib
from pathlib import Path

import pytest

from resnest_cli.data.shards import from_text
from resnest_cli.model import checkpoint_header
from tests.commands.test_training import data, place
from tests.conftest import Cli

__all__ = ["data", "place"]  # fixtures

pytestmark = pytest.mark.usefixtures("no_pictures")

HEAD = "path,kind,score,partner,suggestion\n"
ROWS = "red/0.png,label,0.9,,blue\nred/1.png,copy,0.9,red/2.png,\nblue/3.png,label,0.8,,red\n"
SAID = "3 photos left out: 1 copy, 2 label"
EXCLUDED = [("blue/3.png", "label"), ("red/0.png", "label"), ("red/1.png", "copy")]


@pytest.fixture
def issues(place: Path) -> Path:
    path = place / "issues.csv"
    path.write_text(HEAD + ROWS)
    return path


def test_a_run_and_its_resumed_one(
    cli: Cli, data: Path, place: Path, issues: Path, tiny_checkpoint: Path
) -> None:
    given = ("finetune", "data", "--model", tiny_checkpoint, "--exclude", "issues.csv")
    planned = cli(*given, "--dry-run")
    assert planned.code == 0, planned.err
    assert f"issues.csv: {SAID}" in planned.out
    done = cli(*given, "--epochs", "2")
    assert done.code == 0, done.err
    assert f"issues.csv: {SAID}" in done.err
    run = place / "runs/finetune/exp"
    assert tomllib.loads((run / "args.toml").read_text())["exclude"] == str(issues)
    with (run / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    excluded = [(row["path"], row["error"]) for row in rows if row["split"] == "excluded"]
    assert excluded == EXCLUDED
    assert sum(row["split"] in {"train", "val"} for row in rows) == 27
    best = checkpoint_header.read_info(run / "weights/best.safetensors")
    assert best.provenance["excluded"] == {"label": 2, "copy": 1}
    resumed = ("finetune", "--resume", "--epochs", "3")
    other = cli(*resumed, "--exclude-kinds", "label")
    assert other.code == 2
    assert "exclude_kinds: None there, label now" in other.err
    issues.write_text(HEAD + ROWS.splitlines()[0])
    changed = cli(*resumed)
    assert changed.code == 2
    assert "these are not the photos to leave out that" in changed.err
    issues.rename(place / "gone.csv")  # split.csv has all that the run needs
    assert cli(*resumed).code == 0
    shown = cli("evaluate", run / "split.csv", "-m", run / "weights/best.safetensors",
                "--split", "all", "--format", "json")  # fmt: skip
    assert json.loads(shown.out)["all"]["photos"] == 27


def test_evaluate(cli: Cli, data: Path, place: Path, issues: Path, tiny_checkpoint: Path) -> None:
    (data / "red/broken.jpg").unlink()
    for name, index in (("blue", 0), ("green", 1), ("red", 2)):
        (data / name).rename(data / str(index))
    issues.write_text((HEAD + ROWS).replace("red", "2").replace("blue", "0"))
    given = ("evaluate", "data", "-m", tiny_checkpoint, "--format", "json")
    found = [
        cli(*given, *more)
        for more in ((), ("--exclude", issues), ("--exclude", issues, "--exclude-kinds", "copy"))
    ]
    assert [one.code for one in found] == [0, 0, 0], found[-1].err
    figures = [json.loads(one.out) for one in found]
    assert [one["photos"] for one in figures] == [30, 27, 29]
    assert [one["excluded"] for one in figures] == [0, 3, 1]
    assert SAID in found[1].err


def test_shards_are_packed_without_them(cli: Cli, data: Path, place: Path, issues: Path) -> None:
    packed = cli("pack", "data", "-o", "shards", "--exclude", "issues.csv")
    assert packed.code == 3, packed.err  # broken.jpg
    index = from_text((place / "shards/index.json").read_bytes(), "index.json")
    assert index is not None
    assert [(name, error) for name, _, error in index.left_out if error in {"label", "copy"}] == (
        EXCLUDED
    )
    assert sum((*index.train_counts, *index.val_counts)) == 27
    refused = cli("train", "shards", "--exclude", "issues.csv", "--dry-run")
    assert refused.code == 2
    assert "resnest pack DATA -o DIR --exclude issues.csv" in " ".join(refused.err.split())
