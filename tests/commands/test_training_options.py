"""Options of `train` and `finetune` at the command line: recipes, time, range test, averaging."""

import shutil
import tomllib
from pathlib import Path

import pytest

from resnest_cli.model import checkpoint, checkpoint_header
from resnest_cli.training.settings import RECIPES, needs
from tests.commands.test_training import data, place, rows_of
from tests.conftest import Cli
from tests.training import kills

__all__ = ["data", "place"]  # fixtures

SHORT = ("--epochs", "1", "-b", "4", "--img-size", "32", "-j", "0")

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_runs(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path, recipe: str
) -> None:
    model = ("--model", str(tiny_checkpoint))
    more = [*SHORT, "--train-size", "32", "--start-size", "32"]
    more += ["--freeze", "none"] if not recipe.startswith("finetune") else []
    done = cli("finetune", data, *model, "--recipe", recipe, *more, "--run", recipe)
    assert done.code == 0, done.err
    words = " ".join(done.err.split())
    assert f"recipe {recipe}: {needs(recipe)}" in words
    assert "ImageNet" in needs(recipe) or recipe == "finetune"
    assert len(rows_of(place / "runs" / "finetune" / recipe)) == 1
    assert ("does nothing here" in done.err) == (recipe == "finetune")  # no pixels there


def test_options_work_on_cached_features(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path
) -> None:
    arguments = (
        "finetune", data, "--model", tiny_checkpoint, "--epochs", "6", "-b", "5",
        "--grad-accum-steps", "2", "--sched", "onecycle", "--class-weights", "balanced",
        "--bce-loss", "--opt", "lamb", "--keep-epochs", "3", "--tensorboard",
    )  # fmt: skip
    done = cli(*arguments, "--run", "one")
    assert done.code == 0, done.err
    run = place / "runs/finetune/one"
    kept = sorted((run / "weights").glob("epoch-*"))
    assert [path.name for path in kept] == [f"epoch-{n:04d}.safetensors" for n in (4, 5, 6)]
    assert list((run / "tensorboard").iterdir())
    done = cli("average", *kept, "-o", place / "mean.safetensors")
    assert done.code == 0, done.err
    assert checkpoint_header.read_info(place / "mean.safetensors").class_names == (
        "blue",
        "green",
        "red",
    )
    done = cli(*arguments, "--layer-decay", "0.5", "--aug-repeats", "2", "--run", "two")
    assert done.code == 0
    assert "--layer-decay does nothing here" in done.err
    assert "--aug-repeats does nothing here" in done.err
    names = ("last.safetensors", "best.safetensors")
    outcomes = [kills.outcome(place / "runs/finetune" / name) for name in ("one", "two")]
    assert all(outcomes[0][name] == outcomes[1][name] for name in names)


def test_gradual_unfreezing(cli: Cli, data: Path, place: Path, tiny_checkpoint: Path) -> None:
    start = checkpoint.load(tiny_checkpoint).tensors
    arguments = (
        "finetune", data, "--model", tiny_checkpoint, *SHORT, "--epochs", "2", "--unfreeze-every",
        "1", "--freeze", "stages:3", "--class-weights", place / "weights.csv",
    )  # fmt: skip
    (place / "weights.csv").write_text("red,1\ngreen,2\nblue,0.5\n")
    assert cli(*arguments).code == 0
    last = checkpoint.load(place / "runs/finetune/exp/weights/last.safetensors").tensors
    changed = {n.partition(".")[0] for n in start if n in last and not start[n].equal(last[n])
               if start[n].shape == last[n].shape}  # fmt: skip
    assert changed == {"layer4"}  # and the classifier, which is another one
    for more, text in (
        (("--freeze", "backbone"), "leave out --freeze"),
        (("--balanced", "--class-weights", "balanced"), "count twice"),
        (("--class-weights", "none.csv"), "none.csv: cannot be read"),
        (("--time-budget", "soon"), "--time-budget: soon is not a time such as"),
        (("--find-lr", "--resume"), "leave out --resume"),
    ):
        done = cli("finetune", data, "--model", tiny_checkpoint, *SHORT,
                   "--unfreeze-every", "1", *more)  # fmt: skip
        assert (done.code, text in done.err) == (2, True), done.err


def test_resume_knows_the_new_options(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path
) -> None:
    options = ("--grad-accum-steps", "2", "--sched", "step", "--layer-decay", "0.9",
               "--unfreeze-every", "1", "--bce-loss")  # fmt: skip
    assert cli("finetune", data, "--model", tiny_checkpoint, *SHORT, *options).code == 0
    written = tomllib.loads((place / "runs/finetune/exp/args.toml").read_text())
    assert written["decay_epochs"] == pytest.approx(1 / 3)
    for other in (
        ("--grad-accum-steps", "3"), ("--sched", "cosine"), ("--layer-decay", "0.8"),
        ("--unfreeze-every", "2"), ("--no-bce-loss",), ("--aug-repeats", "2"),
        ("--class-weights", "balanced"), ("--decay-rate", "0.3"),
    ):  # fmt: skip
        done = cli("finetune", "--resume", *other)
        assert done.code == 2, other
        assert other[0].removeprefix("--no-").strip("-").replace("-", "_") in done.err
    more = ("--epochs", "2", "--keep-epochs", "1", "--time-budget", "1h", "--no-tensorboard")
    assert cli("finetune", "--resume", *more).code == 0
    assert (place / "runs/finetune/exp/weights/epoch-0002.safetensors").exists()


def test_a_time_budget(cli: Cli, data: Path, place: Path, tiny_checkpoint: Path) -> None:
    arguments = ("finetune", data, "--model", tiny_checkpoint, "-b", "4", "-j", "0",
                 "--freeze", "none")  # fmt: skip
    done = cli(*arguments, "--epochs", "100000", "--time-budget", "2s")
    assert done.code == 0, done.err
    assert "The time budget of 2s is used up after" in done.err
    assert "--resume --time-budget 4s" in done.err
    run = place / "runs/finetune/exp"
    assert (run / "weights/last.safetensors").exists()
    assert (run / "weights/best.safetensors").exists()
    before = rows_of(run)
    done = cli("finetune", "--resume")
    assert done.code == 0
    assert "is used up" in done.err
    assert rows_of(run) == before
    # Epochs that nobody asked for are fewer from the start, and the schedule ends in time.
    done = cli(*arguments, "--time-budget", "20s", "--dry-run")
    long = cli(*arguments, "--dry-run")
    assert done.code == long.code == 0
    assert epochs(done.out) <= epochs(long.out)
    done = cli(*arguments, "--time-budget", "0.001s", "--dry-run")  # one epoch
    assert epochs(done.out) < epochs(long.out)


def epochs(plan: str) -> int:
    return int(plan.rsplit("training", maxsplit=1)[-1].split("epoch", maxsplit=1)[0].strip())


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_find_lr(cli: Cli, data: Path, place: Path, tiny_checkpoint: Path, freeze: str) -> None:
    arguments = ("finetune", data, "--model", tiny_checkpoint, *SHORT, "--freeze", freeze)
    done = cli(*arguments, "--find-lr")
    assert done.code == 0, done.err
    flag, rate = done.out.split()
    assert flag == "--lr"
    assert 1e-6 < float(rate) < 10
    folder = place / "runs/finetune/lr-finder"
    assert (folder / "lr_finder.png").stat().st_size > 10_000
    rows = (folder / "lr_finder.csv").read_text().splitlines()
    assert rows[0] == "lr,loss,smoothed"
    assert len(rows) > 30
    assert not (folder / "weights").exists()
    assert not (folder / "args.toml").exists()
    shutil.rmtree(place / "runs")
    assert cli(*arguments, *done.out.split()).code == 0


def test_help_has_headings(cli: Cli) -> None:
    out = cli("train", "--help-all").out
    headings = ["Examples:", "Arguments:", "Options:", "Data and model:", "What the network sees:",
                "How it learns:", "Learning rate:", "Loss and regularisation:",
                "Where it runs:"]  # fmt: skip
    places = [out.index(f"{heading}\n") for heading in headings]
    assert places == sorted(places)
    assert out.count("--mixup") == 2  # its option and an example
