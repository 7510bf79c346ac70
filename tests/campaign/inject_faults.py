"""Fails or kills commands at every system call on what they write: what is left must be sound.

    python -m tests.campaign.inject_faults [--points 40] [--seed 0] [--only features.npy ...]

Linux, with strace. Each command runs once under strace, which tells the calls on files below its
folder. Then it runs again for each of a seeded draw of calls, which fails with ENOSPC, EIO, EMFILE
or EACCES, or kills the process. Afterwards:

    a file under a final name is whole: that of before, or that of a run without a fault
    the exit code is 1 with a message in words, or that of a whole run, whose files are there then
    the same command again, without a fault, gives the same bytes and leaves nothing else

Prints how the runs ended; ends with 1 and the calls where any of that does not hold.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.conftest import make_photo

# Temporary names that are the same in every run, so that strace can be told them.
PROGRAM = """
import sys, os, itertools
numbers = itertools.count()
os.urandom = lambda size: next(numbers).to_bytes(size, "big")
from resnest_cli.jobs import local
local.MOST_INPUTS = 2
sys.argv = ["resnest", *sys.argv[1:]]
from resnest_cli.__main__ import main
main()
"""
CALLS = {
    "openat": ("ENOSPC", "EMFILE", "EACCES"), "write": ("ENOSPC", "EIO"), "fsync": ("EIO",),
    "rename": ("EIO", "ENOSPC"), "mkdir": ("ENOSPC",), "ftruncate": ("EIO",), "unlink": ("EIO",),
    "close": ("EIO",),
}  # fmt: skip
LINE = re.compile(r"^\d+ +(\w+)\((.*)$")


@dataclass(frozen=True)
class Job:
    """A command that writes below `out/`, and how it ends without a fault."""

    arguments: tuple[str, ...]
    code: int = 0
    again: tuple[str, ...] = ()  # what goes on after a fault, beside the same arguments
    stream: str = ""  # a file that is written as the records come


class Point(NamedTuple):
    call: str
    path: str
    number: int
    fault: str


JOBS = {
    "features.npy": Job(("features", "photos", "-o", "out/f.npy", "-b", "2"), 3, ("--resume",)),
    "features.npz": Job(("features", "photos", "-o", "out/f.npz", "-b", "2"), 3, ("--resume",)),
    "features.csv": Job(("features", "photos", "-o", "out/f.csv", "-b", "2"), 3, ("--resume",)),
    "merge": Job(("merge", "shards/1.npy", "shards/2.npy", "-o", "out/m.npy")),
    "predict.csv": Job(("predict", "photos", "-o", "out/p.csv"), 3, stream="p.csv"),
    "predict.html": Job(("predict", "photos", "--html", "out/p.html", "--format", "json"), 3),
    "evaluate": Job(("evaluate", "data", "-o", "out/eval", "--html", "out/e.html")),
    "export.onnx": Job(("export", "-o", "out/m.onnx")),
    "export.hub": Job(("export", "--hub", "out/hub")),
}


def run(job: Job, *more: str, strace: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    model = () if job.arguments[0] == "merge" else ("-m", "demo")
    command = [*strace, sys.executable, "-c", PROGRAM, *job.arguments, *model, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def content() -> dict[str, bytes]:
    return {
        str(p.relative_to("out")): p.read_bytes() for p in Path("out").rglob("*") if p.is_file()
    }


def fresh() -> None:
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir()


def points(job: Job) -> list[Point]:
    """Every call on a file below `out`, each fault of it, and a kill."""
    fresh()
    names = ",".join(CALLS)
    traced = run(job, strace=("strace", "-f", "-y", "-o", "log", "-e", f"trace={names}"))
    assert traced.returncode == job.code, traced.stderr
    below, counts = str(Path("out").resolve()), Counter[tuple[str, str]]()
    for line in Path("log").read_text(errors="replace").splitlines():
        found = LINE.match(line)
        if found is None or found[1] not in CALLS or "ENOENT" in line:
            continue
        path = re.search(rf'{re.escape(below)}/[^">]*|(?<=")out/[^"]*', found[2])
        if path is not None:
            counts[found[1], str(Path(path[0]).resolve())] += 1
    return [
        Point(call, path, number, fault)
        for (call, path), count in sorted(counts.items())
        for number in range(1, count + 1)
        for fault in (*CALLS[call], "SIGKILL")
    ]


def wrong(job: Job, point: Point, expected: dict[str, bytes], ends: Counter[str]) -> list[str]:
    """What does not hold after this fault."""
    fresh()
    what = f"signal={point.fault}" if point.fault == "SIGKILL" else f"error={point.fault}"
    inject = f"inject={point.call}:{what}:when={point.number}"
    paths = ("-P", point.path, "-P", os.path.relpath(point.path))  # as calls may name it
    strace = ("strace", "-f", "-o", "log", *paths, "-e", f"trace={point.call}")
    done = run(job, strace=(*strace, "-e", inject))
    killed = done.returncode in (-9, 137)
    hit = killed or "INJECTED" in Path("log").read_text(errors="replace")
    ends["killed" if killed else f"exit {done.returncode}" if hit else "no such call"] += 1
    found, faults = content(), []
    for name, data in found.items():
        whole = data == expected.get(name, data)
        if name == job.stream:
            whole = expected[name].startswith(data) and data[-1:] in (b"", b"\n")
        if not whole and not Path(name).name.startswith("."):
            faults.append(f"{name} is not whole")
    if done.returncode == job.code:
        missing = [name for name in expected if name not in found]
        faults += [f"ended well without {name}" for name in missing]
    elif not killed and (done.returncode != 1 or "error: " not in done.stderr):
        faults.append(f"exit {done.returncode}: {done.stderr[-300:]}")
    if "internal error" in done.stderr or "Traceback" in done.stderr:
        faults.append(done.stderr[-400:])
    finished = done.returncode == job.code
    again = run(job, *job.again)
    if again.returncode != job.code and not (finished and job.again and again.returncode == 0):
        faults.append(f"again: exit {again.returncode}: {again.stderr[-300:]}")
    now = content()
    faults += [f"again: {n}" for n in expected.keys() | now if expected.get(n) != now.get(n)]
    return faults


def prepare() -> None:
    """Photos, one of them broken, photos with their classes, and two shards."""
    for index in range(6):
        make_photo(Path("photos") / f"{index}.png", (64, 48), seed=index)
        name = ("goldfish", "teapot")[index % 2]
        Path("data", name).mkdir(exist_ok=True)
        make_photo(Path("data", name) / f"{index}.png", (64, 48), seed=index)
    Path("photos/3.png").write_bytes(b"broken")
    for index in ("1", "2"):
        job = Job(("features", "photos", "-o", f"shards/{index}.npy", "-b", "2"))
        assert run(job, "--shard", f"{index}/2").returncode in (0, 3)


def main() -> None:
    """Runs the campaign and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=40, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(JOBS), choices=list(JOBS))
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["RESNEST_HOME"] = f"{folder}/home"
        for name in ("photos", "data", "shards"):
            Path(name).mkdir()
        prepare()
        for name in options.only:
            job, ends = JOBS[name], Counter[str]()
            run(job)  # compiles the model
            fresh()
            whole = run(job)
            assert whole.returncode == job.code, whole.stderr
            expected = content()
            every = points(job)
            drawn = random.Random(options.seed).sample(every, min(options.points, len(every)))
            for point in drawn:
                if faults := wrong(job, point, expected, ends):
                    bad += 1
                    print(f"  {point}: {faults}", flush=True)
            print(f"{name}: {len(drawn)} of {len(every)} points, {dict(ends)}", flush=True)
        os.chdir("/")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
