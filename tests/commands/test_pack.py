"""`resnest pack`, and `train` and `finetune` from its shards, at the command line."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch

from tests.commands.test_devices import finished, torchrun
from tests.conftest import Cli, make_photo
from tests.data.making import files, make_data, others
from tests.server import File, Reply, Server
from tests.training import kills

pytest.importorskip("webdataset")

ROOT = Path(__file__).parents[2]
SHORT = ("--freeze", "none", "--epochs", "2", "-b", "4", "-j", "0")
PACK = ("--photos-per-shard", "5")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MARK", str(tmp_path))  # by which the processes of a test are found
    make_data(tmp_path / "data")
    return tmp_path


@pytest.fixture
def shards(cli: Cli, place: Path) -> Path:
    assert cli("pack", "data", "-o", "shards", *PACK).code == 0
    return place / "shards"


def last(place: Path, run: str, command: str = "finetune") -> bytes:
    return (place / "runs" / command / run / "weights" / "last.safetensors").read_bytes()


def test_pack_lists_what_it_leaves_out(cli: Cli, place: Path) -> None:
    (place / "data" / "class1" / "broken.jpg").write_bytes(b"\xff\xd8\xff half a photo")
    found = cli("pack", "data", "-o", "shards", *PACK)
    assert found.code == 3
    assert found.out == ""
    words = " ".join(found.err.split())
    assert "24 photos to train on, 6 to validate (split by class); 3 classes" in words
    assert "class1/broken.jpg: is damaged" in words
    assert "24 photos in 5 shards to train on, 6 in 2 to validate; all verified." in words
    again = cli("pack", "data", "-o", "shards", *PACK)
    assert "6 in 2 to validate, of which 7 were there; all verified." in again.err


def test_pack_says_what_is_wrong(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "with -o" in cli("pack", "data").err
    assert "no such folder" in cli("pack", "nowhere", "-o", "shards").err
    for more, words in (
        (("--val-split", "1.5"), "--val-split: 1.5 is not a number in (0, 1)"),
        (("--classes", "7"), "--classes 7: data has 3 classes"),
        (("--photos-per-shard", "0"), "photos-per-shard"),
    ):
        found = cli("pack", "data", "-o", "shards", *more)
        assert (found.code, words in found.err) == (2, True), found.err
    (place / "file").write_text("")
    assert "file: is a file" in cli("pack", "data", "-o", "file").err
    assert not (place / "shards").exists()
    monkeypatch.setitem(sys.modules, "webdataset", None)
    found = cli("pack", "data", "-o", "shards")
    assert (found.code, "Run: pip install webdataset" in found.err) == (1, True)


def test_the_folder_and_the_pattern_train_alike(
    cli: Cli, place: Path, shards: Path, tiny_checkpoint: Path, server: Server,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    model = ("--model", tiny_checkpoint)
    first = cli("finetune", "shards", *model, *SHORT, "--run", "folder")
    assert first.code == 0, first.err
    assert "24 photos to train on, 6 to validate (in 5 and 2 shards); 3 classes" in first.err
    run = place / "runs" / "finetune" / "folder"
    for name in ("train_batch.jpg", "val_predictions.jpg", "report.html", "shards.json"):
        assert (run / name).stat().st_size > 0
    for path in shards.glob("[!.]*"):
        server.files[f"/s/{path.name}"] = File(path.read_bytes())
    far = server.url("/s/train-{000000..000004}.tar")
    done = cli("finetune", "--data", far, *model, *SHORT, "--run", "far")
    assert done.code == 0, done.err
    assert "val_predictions.jpg was not drawn" not in done.err
    request.getfixturevalue("no_pictures")
    pattern = "shards/train-{000000..000004}.tar"
    done = cli("finetune", "--data", pattern, *model, *SHORT[:-1], "1", "--run", "pattern")
    assert done.code == 0, done.err
    assert same_tensors(place, "folder", "pattern")
    assert same_tensors(place, "folder", "far")

    settings = tomllib.loads((run / "args.toml").read_text())
    assert settings["data"] == str(shards)
    assert cli("finetune", "--config", run / "args.toml", "--run", "again").code == 0
    assert last(place, "again") == last(place, "folder")
    other = cli("finetune", "shards", *model, *SHORT, "--seed", "1", "--run", "other")
    assert other.code == 0, other.err
    assert not same_tensors(place, "folder", "other")


def same_tensors(place: Path, one: str, two: str) -> bool:
    """Whether the last weights are the same bits; their headers name the data."""
    from safetensors.torch import load

    first, second = load(last(place, one)), load(last(place, two))
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.usefixtures("no_pictures")
def test_train_from_shards(cli: Cli, place: Path, shards: Path) -> None:
    (place / "names.csv").write_text("class0,Null\nclass1,Eins\nclass2,Zwei\n")
    found = cli(
        "train", "shards", "--model", "resnest14t", "--img-size", "32", "--epochs", "1", "-b", "8",
        "-j", "0", "--class-weights", "balanced", "--class-names", "names.csv",
    )  # fmt: skip
    assert found.code == 0, found.err
    from resnest_cli.model import checkpoint_header

    info = checkpoint_header.read_info(place / "runs/train/exp/weights/best.safetensors")
    assert info.class_names == ("Null", "Eins", "Zwei")
    assert info.provenance["photos"] == 24
    dry = cli("train", "shards", "--model", "resnest14t", "--img-size", "32", "--dry-run")
    assert dry.code == 0, dry.err
    assert "class1" in dry.out


@pytest.mark.usefixtures("no_pictures")
def test_shards_of_others_train(cli: Cli, place: Path, tiny_checkpoint: Path) -> None:
    pattern = others(place / "theirs", place / "data")
    others(place / "theirs", place / "data", "val-{}.tar", shards=1)
    val = ("--val-data", "theirs/val-0.tar")
    done = cli("finetune", "--data", pattern, *val, "--model", tiny_checkpoint, *SHORT)
    assert done.code == 0, done.err
    assert "30 photos to train on, 30 to validate (in 2 and 1 shards); 3 classes" in done.err
    again = cli("finetune", "--resume", "--epochs", "3")
    assert again.code == 0, again.err
    (place / "theirs" / "train-1.tar").unlink()
    gone = cli("finetune", "--resume", "--epochs", "4")
    assert gone.code == 1
    assert "train-1.tar: cannot be read: No such file" in gone.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--balanced",), "--balanced draws photos in any order"),
        (("--cache", "--freeze", "none"), "--cache keeps all photos in memory"),
        ((), "--freeze backbone: on a CPU it keeps the features of all photos"),
        (("--data", "shards"), "DATA shards and --data shards: give one of the two"),
    ],
)
def test_what_shards_cannot_do(
    cli: Cli, shards: Path, tiny_checkpoint: Path, more: tuple[str, ...], words: str
) -> None:
    found = cli("finetune", "shards", "--model", tiny_checkpoint, "--device", "cpu", *more)
    assert found.code == 2
    assert words in found.err
    assert not Path("runs").exists()


def test_val_data_goes_with_shards(cli: Cli, place: Path, shards: Path) -> None:
    found = cli("train", "data", "--val-data", "shards/val-000000.tar")
    assert (found.code, "--val-data goes with shards" in found.err) == (2, True)
    found = cli("train", "shards", "--val-split", "0.5", "--model", "resnest14t", "--dry-run",
                "--img-size", "32")  # fmt: skip
    assert "--val-split does nothing here: shards have a split of their own." in found.err


@pytest.mark.usefixtures("no_pictures")
def test_an_interrupted_run_goes_on_to_the_same_bits(
    cli: Cli, place: Path, shards: Path, tiny_checkpoint: Path
) -> None:
    given = ("finetune", "shards", "--model", tiny_checkpoint, *SHORT, "--save-every", "0.000001")
    assert cli(*given, "--run", "whole").code == 0
    command = [sys.executable, "-m", "resnest_cli", *map(str, given), "--epochs", "2"]
    run = place / "runs" / "finetune" / "killed"
    kill_after_step(command, run, 3)
    again = cli(*given, "--run", "killed", "--resume")
    assert again.code == 0, again.err
    assert "Going on with" in again.err
    assert last(place, "killed") == last(place, "whole")


def kill_after_step(command: list[str], run: Path, step: int) -> None:
    """Kills a run in the middle of its first epoch, of six steps."""
    from tests.commands.test_devices import wait_for_states

    with subprocess.Popen(
        [*command, "--run", run.name], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        wait_for_states(run, step)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_training_change_nothing(
    cli: Cli, place: Path, shards: Path, tiny_checkpoint: Path, server: Server
) -> None:
    for path in shards.glob("[!.]*"):
        server.files[f"/s/{path.name}"] = File(path.read_bytes())
    far = server.url("/s/")
    more = ("--data", far, "--freeze", "none", "--epochs", "6", "-b", "4", "-j", "1")
    command = [
        sys.executable, "-m", "resnest_cli", "finetune", *more, "--model", str(tiny_checkpoint),
        "--save-every", "0.001", "--output", str(place / "runs"), "--run",
    ]  # fmt: skip
    seconds = kills.run([*command, "quiet"])
    folder = place / "runs" / "finetune" / "killed"
    trial = kills.killed_run([*command, "killed"], folder, seconds, seed=3, most=4)
    assert trial.kills
    assert kills.outcome(folder) == kills.outcome(place / "runs" / "finetune" / "quiet")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_of_packing_change_nothing(place: Path) -> None:
    for index in range(600):
        make_photo(place / "data" / "class0" / f"more{index}.jpg", (50, 40), seed=10_000 + index)
    command = [sys.executable, "-m", "resnest_cli", "pack", "data", "-j", "2", "-o"]
    begin = time.monotonic()
    subprocess.run([*command, "quiet", *PACK], check=True, capture_output=True)
    seconds = time.monotonic() - begin
    kept = 0
    for number in range(8):
        with subprocess.Popen(
            [*command, "killed", *PACK], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:  # fmt: skip
            time.sleep(seconds * (0.55 + 0.05 * number))
            os.killpg(process.pid, signal.SIGKILL)
        there = files(place / "killed") if (place / "killed").exists() else {}
        for name, data in there.items():
            if not name.endswith(".tmp"):
                assert data == (place / "quiet" / name).read_bytes(), name
                kept += 1
    assert kept
    done = subprocess.run([*command, "killed", *PACK], check=True, capture_output=True, text=True)
    assert files(place / "killed") == files(place / "quiet")
    assert "all verified" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_devices_share_shards(place: Path, shards: Path, tiny_checkpoint: Path) -> None:
    given = ["finetune", "shards", "--model", str(tiny_checkpoint), *SHORT]
    code, text = finished([*torchrun(), *given, "--run", "torchrun"], place)
    assert code == 0, text
    command = [sys.executable, "-m", "resnest_cli", *given, "--devices", "2", "--run", "devices"]
    code, text = finished(command, place)
    assert code == 0, text
    assert "2 epochs of batches of 4 on each of 2 devices" in " ".join(text.split())
    assert last(place, "torchrun") == last(place, "devices")
    rows = (place / "runs/finetune/devices/results.csv").read_text().splitlines()
    assert len(rows) == 3
    from resnest_cli.model import checkpoint_header

    info = checkpoint_header.read_info(place / "runs/finetune/devices/weights/last.safetensors")
    assert info.metrics["photos"] == 6  # each counts once


def test_a_shard_that_breaks_in_the_run_ends_it(
    cli: Cli, place: Path, shards: Path, tiny_checkpoint: Path, server: Server
) -> None:
    for path in shards.glob("[!.]*"):
        server.files[f"/s/{path.name}"] = File(path.read_bytes())
    server.script("/s/train-000003.tar", *[Reply(404)] * 20)
    done = cli("finetune", "--data", server.url("/s/"), "--model", tiny_checkpoint, *SHORT)
    assert done.code == 1
    assert "/s/train-000003.tar: the shard cannot be fetched: it answered 404" in done.err
