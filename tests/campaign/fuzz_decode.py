"""Fuzzes decoding and preprocessing: damaged files of every format, in processes that may die.

    python -m tests.campaign.fuzz_decode --minutes 10 [--seed 0] [--workers 1] [--findings FOLDER]

Prints what became of the inputs. A finding is an input on which the decoder crashes, hangs, takes
too much memory, warns, or raises anything but an ImageError of one line; it is saved, and the exit
code is 1.
"""

import argparse
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from resnest_cli.errors import ImageError
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import preprocess
from resnest_cli.model.variants import Preprocessing
from tests.campaign.mutate import Mutator

HANG = 10.0  # seconds on one input
# With the usual limit of 179 million pixels most time would go into filling memory. With this one,
# an input that takes 200 MB takes more than 25 times what its pixels need.
MAX_PIXELS = 2**21
MAX_GROWTH = 200 * 2**20  # bytes over what the process takes when it starts
_HARD_LIMIT = 3 * 2**30  # bytes of address space: an honest MemoryError instead of a slow machine
_CONFIG = Preprocessing(48, 0.875, "bicubic")
_SPAWN = multiprocessing.get_context("spawn")


def examine(data: bytes) -> str:
    """`decoded`, the reason of a refusal, or a finding, which starts with an exclamation mark."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        # Pillow itself checks the frames of a GIF, on opening: a warning below 179 million pixels.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            preprocess(decode(data, max_pixels=MAX_PIXELS), _CONFIG)
            outcome = "decoded"
        except ImageError as error:
            outcome = re.sub(r"[0-9a-f]*\d[0-9a-f]*|'.*'|\(.*", "…", str(error))[:60]
            if not str(error).isprintable() or not str(error):
                outcome = f"!message {str(error)!r}"
            if "memory" in outcome:
                outcome = f"!memory {outcome}"
        except Exception as error:  # what must not happen
            outcome = f"!exception {error!r}"
    return f"!warning {seen[0].message}" if seen else outcome


def peak() -> int:
    """Most bytes of memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(pipe: Connection, seed: int, only: str, first: int, step: int, log: str) -> None:
    """In a process of its own: examine inputs first, first + step, ... and report each of them."""
    with Path(log).open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 2)  # libtiff writes there, and so does a dying libc
    resource.setrlimit(resource.RLIMIT_AS, (_HARD_LIMIT, _HARD_LIMIT))
    mutator, index = Mutator(seed, only), first
    for name in mutator.files.names:  # every codec is loaded once
        examine(mutator.files[name])
    start = peak()
    while True:
        pipe.send(index)
        name, data = mutator.make(index)
        began = time.monotonic()
        outcome = examine(data)
        growth = peak() - start
        if growth > MAX_GROWTH and not outcome.startswith("!"):
            outcome = f"!memory {growth >> 20} MB more ({outcome})"
        pipe.send((name, outcome, time.monotonic() - began, growth))
        if growth > MAX_GROWTH:
            return  # the peak never sinks: go on in a new process
        index += step


@dataclass
class Results:
    """What became of the inputs."""

    folder: Path
    mutator: Mutator
    outcomes: Counter[str] = field(default_factory=Counter)
    by_file: Counter[tuple[str, bool]] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)
    growth: tuple[int, int] = (0, -1)

    def add(self, index: int, name: str, outcome: str, seconds: float, growth: int) -> None:
        self.outcomes[outcome] += 1
        self.by_file[name, outcome == "decoded"] += 1
        self.slowest = max(self.slowest, (seconds, index))
        self.growth = max(self.growth, (growth, index))
        if outcome.startswith("!"):
            self.find(outcome[1:].split(maxsplit=1)[0], index, outcome[1:])

    def find(self, kind: str, index: int, what: str) -> None:
        """Save an input that did what it must not."""
        self.findings[kind] += 1
        name, data = self.mutator.make(index)
        path = self.folder / f"{kind}-{index}-{name.replace('/', '-')}"
        path.write_bytes(data)
        print(f"FOUND input {index}: {what}: {path}", flush=True)

    def show(self, minutes: float) -> None:
        total = sum(self.outcomes.values())
        decoded = self.outcomes["decoded"]
        print(f"{total:,} inputs in {minutes:.1f} min: {decoded:,} decoded, ", end="")
        print(f"{total - decoded:,} refused or found")
        kinds = {kind: self.findings[kind] for kind in ("crash", "hang", "memory")}
        print("findings:", kinds | dict(self.findings))
        print(f"slowest {self.slowest[0]:.2f} s (input {self.slowest[1]}); most memory over the")
        print(f"start {self.growth[0] / 2**20:.0f} MB (input {self.growth[1]})")
        print("\nrefused, by kind")
        for outcome, count in self.outcomes.most_common(41):
            if outcome != "decoded":
                print(f"{count:9,}  {outcome}")
        print("\nby file: decoded, not")
        for name in self.mutator.files.names:
            print(f"{self.by_file[name, True]:9,} {self.by_file[name, False]:9,}  {name}")


class Lane:
    """One worker process after another, each going on where the last one ended."""

    def __init__(self, results: Results, first: int, step: int) -> None:
        self.results, self.step = results, step
        self.index = first
        self.start(first)

    def start(self, index: int) -> None:
        self.pipe, child = _SPAWN.Pipe()
        log = str(self.results.folder / "stderr.log")
        mutator = self.results.mutator
        arguments = (child, mutator.seed, mutator.only, index, self.step, log)
        self.process = _SPAWN.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        child.close()
        self.busy, self.since = False, time.monotonic()

    def poll(self) -> None:
        """Take in reports; notice death and silence."""
        try:
            while self.pipe.poll(0):
                report = self.pipe.recv()
                self.since = time.monotonic()
                self.busy = isinstance(report, int)
                if isinstance(report, int):
                    self.index = report
                else:
                    self.results.add(self.index, *report)
        except (EOFError, OSError):
            self.process.join()  # before killing it: how did it end?
            code = self.process.exitcode
            if self.busy or code:
                self.results.find("crash", self.index, f"crash, exit code {code}")
            self.start(self.index + self.step)
        if self.busy and time.monotonic() - self.since > HANG:
            self.stop()
            self.results.find("hang", self.index, f"hang of more than {HANG:.0f} s")
            self.start(self.index + self.step)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", help="start from files whose names begin so: heic/")
    parser.add_argument("--findings", type=Path, help="folder; default: a new temporary one")
    options = parser.parse_args()
    folder = options.findings or Path(tempfile.mkdtemp(prefix="fuzz-decode-"))
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(folder, Mutator(options.seed, options.only))
    began = time.monotonic()
    lanes = [Lane(results, number, options.workers) for number in range(options.workers)]
    while time.monotonic() - began < options.minutes * 60:
        for lane in lanes:
            lane.poll()
        time.sleep(0.01)
    for lane in lanes:
        lane.stop()
    results.show((time.monotonic() - began) / 60)
    return 1 if results.findings else 0


if __name__ == "__main__":
    sys.exit(main())
