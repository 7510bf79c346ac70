"""Kills `resnest features` at random until it is finished anyway: no kill may change a byte.

    python -m tests.campaign.kill_features [--kills 50] [--seed 0] [--photos 400] [--format npy]

Each kill is SIGKILL, by turns for all processes of the run or for the caller alone, at a random
moment between the start and the time that a whole run takes; then the run goes on with `--resume`
and is killed again, until it comes to its end. Then it starts over, until there were as many kills.
Parts are small (64 inputs) and some photos cannot be read. Prints how far the runs were when they
were killed.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.planted_photos import partly_broken

PROGRAM = """
import sys
sys.argv = ["resnest", "features", *sys.argv[1:]]
from resnest_cli.jobs import local
local.MOST_INPUTS = 64
from resnest_cli.__main__ import main
main()
"""


def content(target: Path) -> dict[str, bytes]:
    files = {target, *(target.with_suffix(suffix) for suffix in (".csv", ".json", ".stat"))}
    return {path.suffix: path.read_bytes() for path in files}


def state_of(target: Path) -> str:
    """How far a run had come."""
    folder = target.with_name(target.name + ".parts")
    if not (folder / "_manifest.json").exists():
        return "finished" if target.exists() else "before the first part"
    if (folder / "_assembled.json").exists():
        whole = json.loads((folder / "_assembled.json").read_text())["whole"]
        return "renaming" if whole else "assembling"
    if list(folder.glob("assembled.*")):
        return "assembling"
    return "between parts" if list(folder.glob("part-*")) else "before the first part"


def killed(command: list[str], wait: float, whole_group: bool) -> bool:
    """Whether the run was killed after so many seconds, or came to its end before."""
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    try:
        _, err = process.communicate(timeout=wait)
    except subprocess.TimeoutExpired:
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        return True
    if process.returncode not in (0, 3):  # some photos cannot be read; 0: was finished before
        sys.exit(f"ended with {process.returncode}: {err.decode()}")
    return False


def main() -> None:
    """Runs the campaign and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--format", default="npy", choices=["npy", "npz", "csv", "parquet"])
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["RESNEST_HOME"] = str(work / "home")
        model = work / "tiny.safetensors"
        photos = partly_broken(work / "photos", options.photos, (200, 150))
        subprocess.run([sys.executable, "-m", "tests.benchmarks.tiny", str(model)], check=True)
        common = [sys.executable, "-c", PROGRAM, str(photos), "-m", str(model), "-q"]
        whole, out = work / f"whole.{options.format}", work / f"out.{options.format}"
        killed([*common, "-o", str(work / "warm.npy")], 600, whole_group=True)
        begun = time.perf_counter()
        killed([*common, "-o", str(whole)], 600, whole_group=True)
        seconds = time.perf_counter() - begun
        expected = content(whole)
        kills, rounds, states = Counter[str](), 0, Counter[str]()
        while kills.total() < options.kills:
            group = kills.total() % 2 == 0
            wait = rng.uniform(0, 1.05 * seconds)
            if killed([*common, "-o", str(out), "--resume"], wait, group):
                kills["all processes" if group else "the caller"] += 1
                states[state_of(out)] += 1
            elif content(out) != expected:
                sys.exit(f"other bytes after {kills.total()} kills")
            else:
                rounds += 1
                for path in out.parent.glob(f"{out.stem}.*"):
                    path.unlink(missing_ok=True)
        killed([*common, "-o", str(out), "--resume"], 600, whole_group=True)
        assert content(out) == expected, "other bytes at the end"
        left = [path.name for path in work.glob("*.parts")]
        assert not left, left
        print(
            f"{options.format}: {kills.total()} kills ({dict(kills)}), a run takes {seconds:.1f} s"
        )
        print(f"killed {dict(states)}")
        print(f"{rounds + 1} runs came to their end, each with the bytes of an uninterrupted one")


if __name__ == "__main__":
    main()
