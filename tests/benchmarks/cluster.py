"""`resnest features --runner ray` against the local runner, and how its memory grows.

    python -m tests.benchmarks.cluster [--pairs 2] [--count 5000] [--model resnest50d]
        [--memory 10000 30000]

By default: photos/s of whole commands over the same folder, in turn, on a cluster that Ray starts
on this machine for each run; and the photos/s that either command reports itself, which leaves out
the start. Photos are those of ../shared/photos, else generated ones, hard-linked; weights are the
cached published ones, else seeded.

`--memory` makes folders of small photos on the fly and prints the peak of the driver and of the
worker that runs the network: their own pages (RssAnon), without what is mapped of files and of the
object store, and everything (RSS).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from resnest_cli.model.variants import get_variant
from resnest_cli.model.weights import find_cached
from tests.benchmarks.features import photos_in, repeated
from tests.benchmarks.oneshot import find_or_make_weights
from tests.conftest import make_photo
from tests.jobs.nodes import WORKER

RESNEST = [sys.executable, "-m", "resnest_cli", "features"]


def timed(photos: Path, model: str, out: Path, *more: str) -> tuple[float, float]:
    """Seconds of the whole command, and the photos/s that it reports."""
    command = [*RESNEST, str(photos), "-m", model, "-o", str(out), "--overwrite", *more]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stderr)
    found = re.search(r"([\d.,]+) photos/s", done.stderr)
    assert found is not None
    return seconds, float(found[1].replace(",", ""))


def overhead(options: argparse.Namespace, work: Path) -> None:
    """Pairs of both runners, in turn."""
    photos = repeated(photos_in(work), work / "many", options.count)
    few = repeated(photos_in(work), work / "few", 64)
    timed(few, options.model, work / "warm.npy")  # compiles the network
    results: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number in range(options.pairs):
        local = timed(photos, options.model, work / "local.npy")
        ray = timed(photos, options.model, work / "ray", "--runner", "ray")
        results["local"].append(local)
        results["ray"].append(ray)
        print(
            f"pair {number + 1}: local {local[0]:.1f} s ({local[1]:.1f} photos/s reported), "
            f"ray {ray[0]:.1f} s ({ray[1]:.1f} reported)",
            flush=True,
        )
    for name, runs in results.items():
        seconds, speed = median(r[0] for r in runs), median(r[1] for r in runs)
        print(
            f"{name:6} {options.count / seconds:6.1f} photos/s whole command, {speed:6.1f} reported"
        )
    whole = median(b[0] / a[0] for a, b in zip(results["local"], results["ray"], strict=True))
    steady = median(a[1] / b[1] for a, b in zip(results["local"], results["ray"], strict=True))
    print(f"ray takes {whole:.2f} times as long, {steady:.2f} times without the start")


def memory(options: argparse.Namespace, work: Path) -> None:
    """The peaks at each count of small photos."""
    model = work / "tiny.safetensors"
    subprocess.run([sys.executable, "-m", "tests.benchmarks.tiny", str(model)], check=True)
    seeds = [make_photo(work / f"s{i}.jpg", (64, 64), seed=i) for i in range(100)]
    for count in options.memory:
        photos = work / f"small-{count}"
        photos.mkdir()
        for index in range(count):
            os.link(seeds[index % len(seeds)], photos / f"{index}.jpg")
        out = work / f"out-{count}"
        command = [*RESNEST, str(photos), "-m", str(model), "-o", str(out), "--runner", "ray"]
        begun = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        peaks: dict[str, dict[str, float]] = {"driver": {}, "worker": {}}
        watching = threading.Thread(target=watch, args=(process, work, peaks))
        watching.start()
        _, err = process.communicate()
        watching.join()
        if process.returncode:
            raise SystemExit(err)
        seconds = time.perf_counter() - begun
        told = "; ".join(
            f"{who} {peak['RssAnon']:.0f} MB own, {peak['VmRSS']:.0f} MB in all"
            for who, peak in peaks.items()
        )
        print(f"{count:>7,} photos, {seconds:5.0f} s: {told}", flush=True)


def watch(process: "subprocess.Popen[str]", work: Path, peaks: dict[str, dict[str, float]]) -> None:
    """Notes the largest sizes of the driver and of its workers until the driver ends."""
    mark = f"RESNEST_HOME={work / 'home'}".encode()
    while process.poll() is None:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                title = (entry / "cmdline").read_bytes().decode(errors="replace")
                if int(entry.name) == process.pid:
                    who = "driver"
                elif title.startswith(WORKER) and mark in (entry / "environ").read_bytes():
                    who = "worker"
                else:
                    continue
                for line in (entry / "status").read_text().splitlines():
                    name, _, value = line.partition(":")
                    if name in {"VmRSS", "RssAnon"}:
                        size = int(value.split()[0]) * 1024 / 1e6
                        peaks[who][name] = max(size, peaks[who].get(name, 0.0))
            except OSError:  # it has just ended
                continue
        time.sleep(0.25)


def main() -> None:
    """Measures and prints what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--model", default="resnest50d")
    parser.add_argument("--memory", type=int, nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["RESNEST_HOME"] = str(work / "home")
        if options.memory:
            memory(options, work)
            return
        if options.model == "resnest50d":
            if not find_cached(get_variant(options.model)):
                os.environ["HF_HOME"] = str(work / "huggingface")
                os.environ.pop("HF_HUB_CACHE", None)
            find_or_make_weights(options.model)
        overhead(options, work)


if __name__ == "__main__":
    main()
