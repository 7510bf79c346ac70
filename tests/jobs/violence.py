"""Kills a run at every step that touches a file, and goes on: the bytes must be those of no kill.

    python -m tests.jobs.violence FOLDER
        npy|npz|csv|parquet|retry|overwrite|merge|join|update|update-csv
        [--every N]
        [--double N]

A step is a call that opens, writes, syncs, renames, cuts or removes; a process is killed before one
of them, or in the middle of a write. Each trial is a fork of this process, which has one thread.
`--double` kills N times more at two random steps, the second one while going on from the first.
"""

import argparse
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

# Before numpy is imported: its threads would make forks unsafe.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from resnest_cli import files
from resnest_cli.jobs import local
from resnest_cli.jobs.file_output import held
from resnest_cli.jobs.listing import ListShard
from resnest_cli.jobs.merge import merge
from tests.jobs import fake

COUNT = 21  # inputs, in batches of 4
FLAGS = ("retry", "overwrite", "update")
steps: Counter[str] = Counter()
os_write = os.write
deadly = 0  # the number of the step that kills; 0 for none


def step(name: str, half=lambda: None) -> None:
    steps[name] += 1
    if steps.total() == deadly:
        half()
        os.kill(os.getpid(), signal.SIGKILL)


class Killing:
    """A file whose writes may be the last."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        def half():
            self._file.write(bytes(data)[: len(data) // 2])
            self._file.flush()

        step("write", half)
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *end):
        return self._file.__exit__(*end)


def armed() -> None:
    """Puts a step in front of whatever touches a file."""

    def stepping(owner, name):
        original = getattr(owner, name)

        def call(*arguments, **options):
            step(name)
            return original(*arguments, **options)

        setattr(owner, name, call)

    original_open = Path.open

    def opened(self, mode="r", *arguments, **options):
        if mode.startswith("r") and "+" not in mode:
            return original_open(self, mode, *arguments, **options)
        step("open")
        return Killing(original_open(self, mode, *arguments, **options))

    Path.open = opened

    def begun(path, mode, **options):
        step("open")
        return Killing(open(path, mode, **options))  # noqa: PTH123

    files.open = begun

    def written(descriptor, data):
        half = bytes(data)[: len(data) // 2]
        step("write", lambda: os_write(descriptor, half))
        return os_write(descriptor, data)

    os.write = written
    for name in ("fsync", "ftruncate", "replace", "unlink", "mkdir", "rmdir"):
        stepping(os, name)


def trial(action, kill_at: int = 0) -> tuple[int, int]:
    """Runs in a fork: how it ended, and how many steps it took."""
    global deadly  # noqa: PLW0603 - of this fork
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(told)
            deadly = kill_at
            armed()
            action()
            os_write(tell, f"{steps.total()} {dict(steps)}".encode())
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    os.close(tell)
    count = os.read(told, 10_000).decode()
    os.close(told)
    _, status = os.waitpid(child, 0)
    if kill_at == 0:
        trial.seen = count
    return os.waitstatus_to_exitcode(status), int(count.split()[0]) if count else 0


class Scenario:
    """What is done in a folder of its own, once without a kill and then with them."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.base = folder
        self.kind, _, suffix = kind.partition("-")
        self.suffix = suffix or (kind if kind in ("npz", "csv", "parquet") else "npy")
        self.list = folder / "list.txt"
        names = [f"photo {i}{' bad' if i % 5 == 3 else ''}.jpg" for i in range(COUNT)]
        names[7] = 'odd, "name".jpg'
        self.list.write_text("\n".join(names) + "\n")
        self.healed = {names[8], names[13]}
        local.MOST_INPUTS = 4  # every batch a part

    def prepare(self, name: str) -> Path:
        folder = self.base / name
        folder.mkdir()
        target = folder / f"out.{self.suffix}"
        if self.kind in ("retry", "overwrite"):
            self._in_fork(lambda: fake.run(fake.job_for(target, self.list)))
        if self.kind == "update":
            old = self.list.with_name("old.txt")
            names = self.list.read_text().replace("photo 9.jpg\n", "").splitlines()
            old.write_text("\n".join(["gone.jpg", *reversed(names)]))
            self._in_fork(lambda: fake.run(fake.job_for(target, old)))
        if self.kind == "join":
            for i in (1, 2):
                part, names = folder / f"part{i}.npy", folder / f"list{i}"
                names.write_text("".join(f"{i}-{n}{' bad' * (n == 2)}.jpg\n" for n in range(5)))
                self._in_fork(lambda: fake.run(fake.job_for(part, names)))  # noqa: B023 - now
        if self.kind == "merge":
            for i in (1, 2, 3):
                part = folder / f"part{i}.npy"
                self._in_fork(
                    lambda part=part, i=i: fake.run(
                        fake.job_for(part, self.list, shard=ListShard(i, 3))
                    )
                )
        return target

    @staticmethod
    def _in_fork(action) -> None:
        assert trial(action)[0] == 0

    def first(self, target: Path) -> None:
        if self.kind in ("merge", "join"):
            order = (2, 1, 3) if self.kind == "merge" else (2, 1)
            with held(target):
                merge([target.with_name(f"part{i}.npy") for i in order], target,
                      overwrite=False)  # fmt: skip
            return
        self._run(target, **{self.kind: True} if self.kind in FLAGS else {})

    def again(self, target: Path) -> None:
        """What a user does after a kill."""
        if self.kind in ("merge", "join", "update"):
            self.first(target)
            return
        if self.kind == "overwrite":  # killed before it began: the older run is still whole
            self._run(target, resume=True)
            return
        self._run(target, resume=True, retry=self.kind == "retry")

    def _run(self, target: Path, **flags: bool) -> None:
        if self.kind == "retry":
            fake.HEALED.update(self.healed)
        fake.run(fake.job_for(target, self.list), **flags)


def content(target: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() if p.is_file() else b"?" for p in target.parent.iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind")
    parser.add_argument("--double", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="only every so many steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    scenario = Scenario(options.folder, options.kind)
    target = scenario.prepare("whole")
    code, total = trial(lambda: scenario.first(target))
    assert code == 0, "the run without a kill"
    print(options.kind, trial.seen)
    expected = content(target)
    assert len(expected) >= 2, expected
    rng = random.Random(options.seed)
    plans = [(n, 0) for n in range(1 + options.seed % options.every, total + 1, options.every)]
    plans += [(rng.randint(1, total), rng.randint(1, total)) for _ in range(options.double)]
    killed = 0
    for number, (first, second) in enumerate(plans):
        target = scenario.prepare(str(number))
        code, _ = trial(lambda target=target: scenario.first(target), first)
        assert code in (0, -signal.SIGKILL), (first, code)
        killed += code != 0
        if second:
            code, _ = trial(lambda target=target: scenario.again(target), second)
            assert code in (0, -signal.SIGKILL), (first, second, code)
            killed += code != 0
        code, _ = trial(lambda target=target: scenario.again(target))
        found = content(target)
        differing = [n for n in expected.keys() | found if expected.get(n) != found.get(n)]
        if code or differing:
            sys.exit(f"killed at {first}, {second}: code {code}, differing {differing}")
    print(f"{options.kind}: {killed} kills in {len(plans)} trials, {total} steps; same bytes")


if __name__ == "__main__":
    main()
