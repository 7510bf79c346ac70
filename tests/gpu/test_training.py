"""Training on a GPU: in every precision, killed and resumed, with a process group of one."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from resnest_cli.training import state
from resnest_cli.training.distributed import World
from resnest_cli.training.state import State
from resnest_cli.training.step import Stepper
from tests.conftest import Cli, make_photo
from tests.training.test_loop import (
    CLASSES,
    CONFIG,
    Kept,
    KilledError,
    Photos,
    Watch,
    network,
    same,
    timeless,
    trainer,
)  # fmt: skip

WAYS = [("off", False), ("off", True), ("bfloat16", True), ("float16", True)]


@pytest.mark.parametrize(("amp", "channels_last"), WAYS)
@pytest.mark.parametrize("opt", ["sgd", "adamw", "lamb"])
def test_it_learns(device: str, amp: str, channels_last: bool, opt: str) -> None:
    if amp == "float16" and device == "cpu":
        pytest.skip("float16 is not for a CPU")
    config = replace(
        CONFIG, device=device, amp=amp, channels_last=channels_last, opt=opt, drop_path=0.0,
        lr=0.05 if opt == "sgd" else 0.005, mixup=0.0, cutmix=0.0, drop=0.0, drop_block=0.0,
    )  # fmt: skip
    stepper = Stepper(config, network(config).train(), CLASSES)
    batch, losses = Photos().batch(0), list[float]()
    for step in range(30):
        stepper.add_gradient(batch, 0, step, last=True)
        loss, photos = stepper.step(config.lr)
        losses.append(loss / photos)
    print(amp, channels_last, opt, losses[0], losses[-1], stepper.scaler.state_dict())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.isfinite().all() for p in stepper.network.parameters())


class OnDisk(Kept):
    """States go through files, as those of a run do."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def save_state(self, found: State) -> None:
        state.save_state(self.folder, found)


@pytest.mark.parametrize(
    ("amp", "opt"), [("off", "sgd"), ("bfloat16", "adamw"), ("float16", "sgd"), ("float16", "lamb")]
)
def test_killed_and_resumed_gives_the_same_bits(
    device: str, tmp_path: Path, amp: str, opt: str
) -> None:
    if device == "cpu" and amp == "float16":
        amp = "bfloat16"
    rate = 0.05 if opt == "sgd" else 0.003
    config = replace(CONFIG, device=device, amp=amp, opt=opt, lr=rate, save_every=1e-9)

    def kill(done: int) -> None:
        if done == 6:
            raise KilledError

    straight, again, kept = (OnDisk(tmp_path / name) for name in ("one", "two", "three"))
    trainer(config, straight, Watch()).run()
    trainer(config, again, Watch()).run()
    assert same(again.weights["last"], straight.weights["last"]), "a run does not repeat itself"
    with pytest.raises(KilledError):
        trainer(config, kept, Watch(kill)).run()
    torch.manual_seed(12345)
    found = state.load_state(kept.folder, pytest.fail)
    assert found is not None
    assert found.record.step == 5
    trainer(config, kept, Watch(), found).run()
    assert same(kept.weights["last"], straight.weights["last"])
    assert same(kept.weights["best"], straight.weights["best"])
    assert same(kept.weights["last_ema"], straight.weights["last_ema"])
    assert timeless(kept.rows) == timeless(straight.rows)


def photos_in(folder: Path) -> Path:
    for label in range(3):
        for index in range(8):
            place = folder / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            make_photo(place / f"{index}.png", seed=100 * label + index)
    return folder


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("amp", ["off", "bfloat16", "float16"])
def test_the_commands(
    cli: Cli, tmp_path: Path, tiny_checkpoint: Path, device: str, amp: str
) -> None:
    """Two processes load photos into pinned memory; the weights serve on a CPU."""
    if amp == "float16" and device == "cpu":
        pytest.skip("float16 is not for a CPU")
    data, runs = photos_in(tmp_path / "data"), tmp_path / "runs"
    how: list[Any] = ["--output", runs, "--run", "a", "--device", device, "--amp", amp, "-b", "6"]
    how += ["--epochs", "3", "-j", "2", "--mixup", "0.2", "--model-ema", "--freeze", "none"]
    done = cli("finetune", data, "--model", tiny_checkpoint, *how)
    assert done.code == 0, done.err
    weights = runs / "finetune" / "a" / "weights" / "last.safetensors"
    photo = next(data.glob("*/*.png"))
    assert cli("predict", photo, "--model", weights, "--device", "cpu").code == 0
    done = cli("evaluate", data, "--model", weights, "--device", device, "--amp", amp)
    assert done.code == 0, done.err


@pytest.mark.usefixtures("no_pictures")
def test_with_a_teacher_and_class_weights(
    cli: Cli, tmp_path: Path, tiny_checkpoint: Path, device: str
) -> None:
    data = photos_in(tmp_path / "data")
    for index in range(4):
        (data / "class0" / f"{index}.png").unlink()
    how: list[Any] = ["--output", tmp_path / "runs", "--run", "one", "--device", device, "-b", "4"]
    done = cli("finetune", data, "--model", tiny_checkpoint, *how, "--epochs", "2", "-j", "0",
               "--class-weights", "balanced", "--freeze", "none")  # fmt: skip
    assert done.code == 0, done.err
    teacher = tmp_path / "runs" / "finetune" / "one" / "weights" / "last.safetensors"
    how[3] = "two"
    done = cli("finetune", data, "--model", tiny_checkpoint, *how, "--epochs", "2", "-j", "0",
               "--teacher", teacher, "--freeze", "none")  # fmt: skip
    assert done.code == 0, done.err


def test_killed_by_the_system_and_resumed(
    tmp_path: Path, tiny_checkpoint: Path, device: str
) -> None:
    """SIGKILL, in a process of its own, and the bytes of a run that was not killed."""
    data, runs = photos_in(tmp_path / "data"), tmp_path / "runs"

    def command(name: str) -> list[str]:
        return [
            sys.executable, "-m", "resnest_cli", "finetune", str(data), "--output", str(runs),
            "--model", str(tiny_checkpoint), "--run", name, "--device", device, "-b", "4",
            "--epochs", "3" if device == "cpu" else "10", "-j", "0", "--save-every", "0.001",
            "--freeze", "none", "--amp", "off" if device == "cpu" else "bfloat16",
        ]  # fmt: skip

    root = Path(__file__).parents[2]
    subprocess.run(command("quiet"), cwd=root, check=True, capture_output=True)
    folder = runs / "finetune" / "killed"
    how: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command("killed"), cwd=root, start_new_session=True, **how) as process:
        while process.poll() is None and not state.states(folder / "resume"):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    subprocess.run([*command("killed"), "--resume"], cwd=root, check=True, capture_output=True)
    found = {path.name: path.read_bytes() for path in (folder / "weights").iterdir()}
    quiet = runs / "finetune" / "quiet" / "weights"
    assert found == {path.name: path.read_bytes() for path in quiet.iterdir()}


def test_a_process_group_of_one(device: str) -> None:
    """What a run of several devices does with its group: exchange on the CPU, gradients there."""
    groups = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(groups, store=dist.HashStore(), rank=0, world_size=1)
    try:
        found = [torch.zeros(2, dtype=torch.float64)]
        dist.all_gather(found, torch.tensor([3.0, 4.0], dtype=torch.float64))
        assert found[0].tolist() == [3.0, 4.0]
        box = ["a"]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        flat = torch.ones(5, device=device)
        dist.broadcast(flat, src=0)
        config = replace(CONFIG, device=device, mixup=0.0, cutmix=0.0, clip_grad=0.0)
        steppers = [Stepper(config, network(config).train(), CLASSES) for _ in range(2)]
        steppers[1]._learner = World(size=2).learner(steppers[1].network, unused=False)
        assert isinstance(steppers[1]._learner, DistributedDataParallel)
        for stepper in steppers:
            for step in range(3):
                stepper.add_gradient(Photos().batch(step), 0, step, last=True)
                stepper.step(0.05)
        one, two = (stepper.network.state_dict() for stepper in steppers)
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, two[name], rtol=1e-4, atol=1e-5)
    finally:
        dist.destroy_process_group()


def test_more_processes_than_cards_are_refused(cli: Cli, tmp_path: Path, card: str) -> None:
    count = torch.cuda.device_count() + 1
    world = World(size=count, local_size=count)
    with pytest.raises(Exception, match="need as many GPUs"):
        world.device(card)
