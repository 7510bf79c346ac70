"""`--devices` and torchrun: what is written, who prints, and that all end when one does."""

import contextlib
import csv
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resnest_cli.training import state as resume
from tests.conftest import Cli, make_photo
from tests.processes import wait_for

ROOT = Path(__file__).parents[2]
CLASSES, PHOTOS = 2, 12
MINUTE = 60.0

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of twelve photos: 20 train, 4 validate."""
    for label in range(CLASSES):
        for index in range(PHOTOS):
            path = tmp_path / "data" / f"class{label}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_photo(path, (40, 40), seed=100 * label + index)
    return tmp_path / "data"


@pytest.fixture
def place(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MARK", str(tmp_path))  # by which the processes of a test are found
    for name in ("FAULT", "FAULT_AT", "SLOW"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def arguments(model: Path, *more: str) -> list[str]:
    """Of a run of two epochs of three steps on two devices, with a state after each step."""
    return [
        "finetune", "data", "--model", str(model), "--freeze", "none", "--epochs", "2", "-b", "4",
        "-j", "0", "--save-every", "0.000001", *more,
    ]  # fmt: skip


def torchrun(*more: str, module: str = "resnest_cli") -> list[str]:
    """Its start; without "--" torchrun would take --run for one of its own options."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*launcher, *more, "-m", "--", module]


def agent(*given: str) -> tuple[list[str], int]:
    """One of two machines, each with one process; and the port at which they meet."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", "job",
        "--rdzv-endpoint", f"localhost:{port}", "-m", "--", "tests.training.faulty", *given,
    ]  # fmt: skip
    return command, port


@contextlib.contextmanager
def started(command: list[str], log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs beside the test, in a session of its own; its output goes to a file."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | more,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        for pid in mine():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def reachable(port: int) -> bool:
    """Whether something listens there: the first agent, which holds the store."""
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


@contextlib.contextmanager
def started_when(
    ready: Callable[[], bool], command: list[str], log: Path, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`started`, as soon as it is ready for that."""
    wait_for(ready)
    with started(command, log, **more) as process:
        yield process


def finished(command: list[str], place: Path, **more: str) -> tuple[int, str]:
    """Exit code and output; at most three minutes."""
    with started(command, place / "log", **more) as process:
        code = process.wait(180)
        wait_until_all_are_gone()
    return code, (place / "log").read_text()


def environment(pid: int) -> dict[str, str]:
    text = b""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/environ").read_bytes()
    pairs = [item.decode(errors="replace").partition("=") for item in text.split(b"\0") if item]
    return {name: value for name, _, value in pairs}


def mine() -> list[int]:
    """The processes of this test, but for itself."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            given = environment(int(path.name))
            if given.get("MARK") == os.environ["MARK"] and "PYTEST_CURRENT_TEST" in given:
                found.append(int(path.name))
    return found


def workers() -> dict[int, int]:
    """Process ids by rank."""
    found = {pid: environment(pid).get("RANK") for pid in mine()}
    return {int(rank): pid for pid, rank in sorted(found.items(), reverse=True) if rank is not None}


def wait_until_all_are_gone() -> None:
    wait_for(lambda: not mine())


def wait_for_states(run: Path, count: int = 1) -> None:
    """Until the run has done so many steps."""

    def done() -> bool:
        for path in resume.states(run / "resume"):
            with contextlib.suppress(Exception):
                if resume.read_record(path).step >= count:
                    return True
        return False

    wait_for(done)


def weights(run: Path) -> bytes:
    return (run / "weights" / "last.safetensors").read_bytes()


def test_two_devices(cli: Cli, place: Path, tiny_checkpoint: Path) -> None:
    given = arguments(tiny_checkpoint, "--devices", "2", "--epochs", "1")
    code, text = finished([sys.executable, "-m", "resnest_cli", *given], place)
    assert code == 0, text
    run = place / "runs" / "finetune" / "exp"
    assert [path.name for path in run.parent.iterdir()] == ["exp"]
    for line in ("Run folder: ", "1 epoch of batches of 4 on each of 2 devices", "Best top-1: "):
        assert text.count(line) == 1, text
    assert "Warning" not in text
    settings = tomllib.loads((run / "args.toml").read_text())
    assert (settings["devices"], settings["batch_size"]) == (2, 4)
    with (run / "results.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3"]

    # Another number of devices would be another run.
    alone = cli("finetune", "data", "--resume", "--epochs", "3")
    assert alone.code == 2
    assert "was trained on 2 devices" in alone.err
    assert "--devices 2, or torchrun with 2 processes" in alone.err


def test_what_cannot_be_done_on_several_devices(
    cli: Cli, place: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--devices: 0 is not a whole number" in cli("train", "data", "--devices", "0").err
    for name in ("--sync-bn", "--no-sync-bn"):
        result = cli("train", "data", "--dry-run", "-m", "resnest14t", "--img-size", "32", name)
        assert ("--sync-bn needs GPUs" in result.err) == (name == "--sync-bn")


@pytest.mark.slow
def test_torchrun_does_the_same(place: Path, tiny_checkpoint: Path) -> None:
    given = arguments(tiny_checkpoint)
    code, text = finished([*torchrun(), *given, "--run", "torchrun"], place)
    assert code == 0, text
    command = [sys.executable, "-m", "resnest_cli", *given, "--devices", "2", "--run", "devices"]
    code, text = finished(command, place)
    assert code == 0, text
    runs = place / "runs" / "finetune"
    assert weights(runs / "torchrun") == weights(runs / "devices")


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "several"), [(0, False), (1, True)])
def test_one_killed_ends_all_and_resume_goes_on(
    place: Path, tiny_checkpoint: Path, rank: int, several: bool
) -> None:
    """Of photos with one label, and of photos with several."""
    resnest = [sys.executable, "-m", "resnest_cli"]
    given = arguments(tiny_checkpoint, "--devices", "2", "--epochs", "8", "--mixup", "0.2")
    if several:
        sets = ("a|b", "a", "", "b")
        rows = [
            f"class{label}/{n}.png,{sets[(label + n) % 4]}" for label in (0, 1) for n in range(12)
        ]
        (place / "data" / "photos.csv").write_text("\n".join(["path,labels", *rows]))
        given[1] = "data/photos.csv"
    run = place / "runs" / "finetune" / "exp"
    with started([*resnest, *given], place / "log") as process:
        wait_for_states(run)
        os.kill(workers()[rank], signal.SIGKILL)
        code = process.wait(MINUTE)
        wait_until_all_are_gone()
    text = (place / "log").read_text()
    assert code == 1, text
    assert f"process {rank} was killed by SIGKILL" in text
    assert "Traceback" not in text
    code, text = finished([*resnest, *given, "--resume"], place)
    assert code == 0, text
    code, text = finished([*resnest, *given, "--run", "quiet"], place)
    assert code == 0, text
    assert ("Best mAP: " in text) == several
    assert weights(run) == weights(run.with_name("quiet"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_ends_all(place: Path, tiny_checkpoint: Path, name: str) -> None:
    resnest = [sys.executable, "-m", "resnest_cli"]
    given = arguments(tiny_checkpoint, "--devices", "2", "--epochs", "8", "--save-every", "0")
    run = place / "runs" / "finetune" / "exp"
    number = getattr(signal, name)
    with started([*resnest, *given], place / "log") as process:
        wait_for_states(run)
        process.send_signal(number)
        code = process.wait(MINUTE)
        wait_until_all_are_gone()
    text = (place / "log").read_text()
    assert code == 128 + number, text
    assert f"Stopped by {name}; everything so far is saved" in text
    assert "--devices 2 --run exp --resume" in text
    assert "Traceback" not in text
    code, text = finished([*resnest, *given, "--resume"], place)
    assert code == 0, text


@pytest.mark.slow
def test_photos_that_vanish_are_left_out_on_all_and_a_lost_disk_ends_all(
    place: Path, tiny_checkpoint: Path
) -> None:
    faulty, given = torchrun(module="tests.training.faulty"), arguments(tiny_checkpoint)
    run, straight = (place / "runs" / "finetune" / name for name in ("exp", "straight"))
    one = {"FAULT": "vanish", "FAULT_AT": "0", "VANISHING": str(place / "data/class0/1.png")}
    code, text = finished([*faulty, *given, "--run", "one"], place, **one)
    assert code == 0, text
    assert text.count("class0/1.png does not exist; it is left out from here on.") == 1
    assert "1 photo could not be read" in text
    (place / "data/class0/1.png.gone").rename(place / "data/class0/1.png")

    code, text = finished([*faulty, *given, "--run", "straight"], place)
    assert code == 0, text
    disk = {"FAULT": "vanish", "FAULT_AT": "1", "VANISHING": str(place / "data")}
    code, text = finished([*faulty, *given, "--run", "exp"], place, **disk)
    assert code == 1, text
    assert text.count("Is the disk with the data still there?") == 1
    (place / "data.gone").rename(place / "data")
    code, text = finished([*faulty, *given, "--run", "exp", "--resume"], place)
    assert code == 0, text
    assert "that were lost are back" in text
    assert weights(run) == weights(straight)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["nan", "error"])
def test_what_goes_wrong_on_one_ends_all(place: Path, tiny_checkpoint: Path, fault: str) -> None:
    command = [*torchrun(module="tests.training.faulty"), *arguments(tiny_checkpoint)]
    begin = time.monotonic()
    code, text = finished(command, place, FAULT=fault)
    assert code != 0
    assert time.monotonic() - begin < 2 * MINUTE  # with the start
    if fault == "nan":
        # Three batches an epoch and device; the second device has every second one.
        assert text.count("error: the loss became nan in epoch 2, batch 2.") == 1, text
        assert "process 1 of 2" not in text
    else:
        assert "error: process 1 of 2: photo.jpg: was moved." in text
    states = resume.states(place / "runs" / "finetune" / "exp" / "resume")
    assert resume.read_record(states[0]).step == 3


@pytest.mark.slow
def test_torchrun_starts_again_from_the_last_state(place: Path, tiny_checkpoint: Path) -> None:
    """The second of two processes dies in the middle of an epoch; the run has no name."""
    command = torchrun("--max-restarts", "1", module="tests.training.faulty")
    code, text = finished([*command, *arguments(tiny_checkpoint)], place, FAULT="die", FAULT_AT="4")
    assert code == 0, text
    runs = place / "runs" / "finetune"
    assert [path.name for path in runs.iterdir()] == ["exp"]
    assert "Going on with runs/finetune/exp." in text
    code, text = finished([*torchrun(), *arguments(tiny_checkpoint), "--run", "quiet"], place)
    assert code == 0, text
    assert weights(runs / "exp") == weights(runs / "quiet")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_machines_of_which_one_is_replaced(
    place: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two agents on this machine; one is killed, with its process, and started again."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # see the README
    given = arguments(tiny_checkpoint, "--epochs", "10")
    command, port = agent(*given)
    run = place / "runs" / "finetune" / "exp"
    with (
        started(command, place / "log1", SLOW="0.3") as first,
        started_when(lambda: reachable(port), command, place / "log2", SLOW="0.3") as second,
    ):
        wait_for_states(run, 4)
        second.kill()  # its process follows by itself
        time.sleep(3)
        with started(command, place / "log3", SLOW="0.3") as third:
            codes = first.wait(240), third.wait(240)
            texts = [(place / f"log{number}").read_text() for number in (1, 2, 3)]
            assert codes == (0, 0), "\n=====\n".join(texts)
            wait_until_all_are_gone()
    assert [path.name for path in run.parent.iterdir()] == ["exp"]
    assert any("Going on with runs/finetune/exp." in text for text in texts)
    with (run / "results.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(n) for n in range(1, 11)]
    # As many threads each as before, which decide the last bits.
    command, port = agent(*given, "--run", "quiet")
    with (
        started(command, place / "log1") as first,
        started_when(lambda: reachable(port), command, place / "log2") as second,
    ):
        assert (first.wait(240), second.wait(240)) == (0, 0)
    assert weights(run) == weights(run.with_name("quiet"))


@pytest.mark.slow
def test_no_orphans_when_the_launcher_is_killed(place: Path, tiny_checkpoint: Path) -> None:
    command = [*torchrun(module="tests.training.faulty"), *arguments(tiny_checkpoint)]
    command += ["--epochs", "200"]
    with started(command, place / "log", SLOW="0.1") as process:
        wait_for_states(place / "runs" / "finetune" / "exp")
        process.kill()
        wait_until_all_are_gone()
