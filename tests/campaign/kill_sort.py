"""Kills `resnest predict --sort-into` and `--undo` at random: no photo lost, doubled or altered.

    python -m tests.campaign.kill_sort [--kills 200] [--seed 0] [--photos 60] [--disk /dev/shm]

Rounds of sorting into a folder of classes and of taking back, by turns with --move on one disk,
--move to another disk and --copy. Each process is killed with SIGKILL at a random moment of its
life, goes on with --resume (or --undo again) and is killed anew, until it comes to its end; after
every single kill each photo must be there, whole. Then, as root: a disk that is too small, one that
fills up meanwhile, and a target that is read-only. Prints its figures.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.conftest import make_photo

Facts = tuple[str, int, int]  # hash, mode, time


def facts(path: Path) -> Facts:
    found = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), found.st_mode, found.st_mtime_ns


def files(*folders: Path) -> dict[str, Facts]:
    """Visible files; what a kill has left half written is hidden."""
    return {
        str(path): facts(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def make_photos(folder: Path, number: int) -> None:
    """Photos in two folders, half of the names twice; every third with a sidecar."""
    for index in range(number):
        path = folder / ("b" if index % 2 else "a") / f"{index // 4}-{index % 4 // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_photo(path, (200, 150), seed=index)
        if index % 3 == 0:
            path.with_name(f"{path.name}.xmp").write_text(f"tags of {index}")
        path.chmod(0o600 if index % 5 else 0o444)
        os.utime(path, ns=(10**18, 10**18 + index * 1_234_567_891))


def ended(
    command: list[str], wait: float | None, begun: Callable[[], bool] = lambda: True
) -> int | None:
    """The exit code of a command, or None where it was killed so many seconds after it had begun
    with what counts.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not begun() and process.poll() is None:
        time.sleep(0.001)
    try:
        _, err = process.communicate(timeout=wait)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    if process.returncode not in (0, 1):
        sys.exit(f"ended with {process.returncode}: {err.decode()}")
    return process.returncode


class Campaign:
    """One folder of photos, its state before, and what is counted."""

    def __init__(self, work: Path, disk: Path, number: int, seed: int) -> None:
        self.photos, self.model = work / "in", work / "tiny.safetensors"
        self.random = random.Random(seed)
        subprocess.run([sys.executable, "-m", "tests.benchmarks.tiny", self.model], check=True)
        make_photos(self.photos, number)
        self.before = files(self.photos)
        self.targets = {"move": work / "out", "move to another disk": disk / "out",
                        "copy": work / "copies"}  # fmt: skip
        self.kills, self.rounds = Counter[str](), Counter[str]()
        self.seconds = dict[str, tuple[float, float]]()  # a run's; those of bringing files

    def command(self, what: str, target: Path) -> list[str]:
        begin = [sys.executable, "-m", "resnest_cli", "predict"]
        if what == "undo":
            return [*begin, "--undo", str(target)]
        return [*begin, str(self.photos), "-m", str(self.model), "--sort-into", str(target),
                f"--{what.split(maxsplit=1)[0]}", "--resume"]  # fmt: skip

    def check(self, how: str, target: Path) -> None:
        """After a kill: what was there is there; a move has it once, or once more for an instant.

        The one file in whose transfer the kill fell may have both names.
        """
        there = Counter(files(self.photos, target).values())
        lost = Counter(self.before.values()) - there
        altered = set(there) - set(self.before.values())
        more = there - Counter(self.before.values())
        doubled = more.total() if how != "copy" else 0
        if lost or altered or doubled > 1:
            sys.exit(f"{how}: {lost.total()} lost, {len(altered)} altered, {doubled} doubled")

    def step(self, how: str, action: str, most: int) -> None:
        """Sorts or takes back, and is killed on the way."""
        target = self.targets[how]
        command = self.command(how if action == "sort" else "undo", target)
        tries = 0
        while self.kills.total() < most:
            whole, acting = self.seconds[f"{how}, {action}"]
            tries += 1  # each one may live longer, so that it comes to its end on any machine
            if self.random.random() < 0.2:
                code = ended(command, self.random.uniform(0, 1.05 * whole))
            else:  # while files are brought to their places
                wait = self.random.uniform(0, tries * acting)
                (target / ".lock").unlink(missing_ok=True)  # of the one that was killed before
                code = ended(command, wait, partial(self.acts, target))
            if code is not None:
                break
            self.kills[f"{how}, {action}, {self.state(target)}"] += 1
            self.check(how, target)
            if action == "undo" and not list(target.glob(".resnest-*")):
                break  # after its last step
        else:
            ended(command, None)
        if action == "undo" and target.exists():
            (target / ".lock").unlink(missing_ok=True)
            target.rmdir()

    def acts(self, target: Path) -> bool:
        return (target / ".lock").exists() and self.state(target) in {"planned", "undoing"}

    def state(self, target: Path) -> str:
        journals = sorted(target.glob(".resnest-sort-*")) if target.exists() else []
        if not journals:
            return "no journal"
        try:
            text = journals[-1].read_bytes()[-2000:].splitlines()[-1]
        except (OSError, IndexError):
            return "no journal"
        words = ("planned", "finished", "undoing")
        return next((word for word in words if f'"state": "{word}"'.encode() in text), "planning")

    def timed(self, how: str) -> dict[str, Facts]:
        """An uninterrupted run there and back; what there is after the first half."""
        target = self.targets[how]
        for action, what in (("sort", how), ("undo", "undo")):
            begun = time.perf_counter()
            process = subprocess.Popen(
                self.command(what, target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            acts = None
            while process.poll() is None:
                if acts is None and self.acts(target):
                    acts = time.perf_counter()
                time.sleep(0.0005)
            assert process.returncode == 0
            end = time.perf_counter()
            self.seconds[f"{how}, {action}"] = end - begun, max(0.02, end - (acts or end))
            if action == "sort":
                there = files(self.photos, target)
        assert files(self.photos) == self.before
        assert not target.exists()
        return there

    def run(self, most: int) -> None:
        expected = {how: self.timed(how) for how in self.targets}
        while self.kills.total() < most:
            for how, target in self.targets.items():
                self.step(how, "sort", most)
                assert files(self.photos, target) == expected[how], how
                left = list(target.rglob(".*.tmp"))
                assert not left, left
                self.step(how, "undo", most)
                assert files(self.photos) == self.before, how
                assert not target.exists(), list(target.rglob("*"))
                self.rounds[how] += 1


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def full_and_read_only(campaign: Campaign, work: Path) -> None:
    needed = sum(Path(name).stat().st_size for name in campaign.before)
    with small_disk(work / "small", "64k") as disk:
        command = campaign.command("move", disk / "out")
        assert ended(command, None) == 1  # too small from the beginning
        assert (files(campaign.photos), files(disk)) == (campaign.before, {})
        print(f"too small a disk ({needed / 1e3:.0f} kB needed): nothing done")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        program = (
            "import sys; from resnest_cli.sorting import sort; sort.free_bytes = lambda _: None\n"
            "from resnest_cli.__main__ import main; main()"
        )
        unaware = [sys.executable, "-c", program, *command[3:]]
        (disk / "filler").write_bytes(bytes(63 * 2**20 + 2**19))
        assert ended(unaware, None) == 1  # fills up on the way
        campaign.check("move", disk / "out")
        moved = len(files(disk / "out"))
        assert 0 < moved < len(campaign.before), moved
        (disk / "filler").unlink()
        assert ended(unaware, None) == 0
        assert len(files(disk / "out")) == len(campaign.before)
        assert ended(campaign.command("undo", disk / "out"), None) == 0
        assert files(campaign.photos) == campaign.before
        print(f"full after {moved} of {len(campaign.before)} files: went on, and back")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert ended(command, None) == 1
        assert files(campaign.photos) == campaign.before
        print("read-only target: nothing done")


def main() -> None:
    """Runs the campaign and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--disk", type=Path, default="/dev/shm", help="a folder on another disk")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory(dir=options.disk) as other,
    ):
        work, disk = Path(folder), Path(other)
        assert work.stat().st_dev != disk.stat().st_dev, "--disk is on the same disk"
        os.environ["RESNEST_HOME"] = str(work / "home")
        campaign = Campaign(work, disk, options.photos, options.seed)
        campaign.run(options.kills)
        print(f"{campaign.kills.total()} kills of {options.photos} photos' runs, which take")
        for name, (whole, acting) in campaign.seconds.items():
            print(f"  {whole:4.1f} s, {1000 * acting:4.0f} ms of them to bring files: {name}")
        print("killed while the journal said")
        for state, number in sorted(campaign.kills.items()):
            print(f"  {number:4}  {state}")
        print(f"rounds there and back: {dict(campaign.rounds)}; none lost, doubled or altered")
        if os.geteuid() == 0:
            full_and_read_only(campaign, work)


if __name__ == "__main__":
    main()
