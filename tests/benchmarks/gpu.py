"""What is to be known of a GPU, in one command of eight minutes: parity, rates, memory, training.

    python -m tests.benchmarks.gpu [--budget 480] [--only SECTION ...] > gpu.jsonl
    python -m tests.benchmarks.gpu --device cpu --tiny      the same here, with tiny networks

stdout gets a line of JSON for each figure as soon as it is known, stderr the same as tables, and at
the end what decides: our best network against timm's compiled one, and files to records against the
network. Each section is a process with its share of the budget: one that crashes, hangs or runs out
of time costs its own figures alone. What no longer fits is named in a line with "skipped".

parity    differences from the CPU in float32 (without and with TF32) and in half precision
network   photos/s and memory of the network alone, photos on the device, ours and timm's in turn;
          timm's as its users run it, and compiled; compiled for the largest batch only
step      a training step, ours as `resnest train` runs it, timm's network in a plain loop
files     JPEGs to records: decoded by the CPU, by it at reduced scale, and by the GPU
run       a run that is killed and resumed, and the bytes of one that was not
more      compiled for the other batches; cuDNN's own search for kernels; the compiler's

The figures are for photos of noise and weights of noise, which cost what others cost. Rates are
medians of three blocks of at least 0.3 s, after a warm-up.

A machine without a network gets what it lacks beside torch and its like as wheels, in a folder that
git ignores, in the versions that are used here (33 MB; what runs on a GPU needs no ONNX Runtime):

    python -m tests.benchmarks.gpu --wheels > /tmp/wheels.txt
    python -m pip download -q --no-deps --only-binary :all: --python-version 3.12 \\
      --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 -d .wheels -r /tmp/wheels.txt

There, in a checkout to which the folder was carried:

    python -m pip install -q --no-index --no-deps --target /tmp/site .wheels/*.whl
    PYTHONPATH=/tmp/site python -m tests.benchmarks.gpu > gpu.jsonl
    PYTHONPATH=/tmp/site python -m pytest -q -p no:cacheprovider -m gpu tests/gpu
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SHARES = {"parity": 50, "network": 140, "step": 60, "files": 100, "run": 80, "more": 50}
LEFT_OUT = ("torch", "torchvision", "numpy", "pillow", "onnxruntime", "onnx")  # of `wheels`
_START = 15  # seconds that a process may take to start and to end beside its share


# The command


def main() -> None:
    """Runs the sections one after the other, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--budget", type=float, default=480)
    parser.add_argument("--only", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--wheels", action="store_true", help="print what has to be carried along")
    parser.add_argument("--section", choices=SHARES, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.wheels:
        print("\n".join(wheels()))
        return
    if options.section:
        from tests.benchmarks import gpu_sections

        bench = Bench(options.device, options.tiny, time.monotonic() + options.seconds)
        getattr(gpu_sections, options.section)(bench)
        return
    begin, found = time.monotonic(), list[dict[str, Any]]()
    for number, name in enumerate(options.only):
        left = options.budget - (time.monotonic() - begin)
        ahead = sum(SHARES[one] for one in options.only[number:])
        seconds = left * SHARES[name] / ahead - _START  # what others left over is shared
        if seconds < 5:
            show({"section": name, "skipped": "the whole section", "why": "no time is left"})
            continue
        found += section(name, seconds, options)
    show({"section": "summary", "seconds": time.monotonic() - begin, **summary(found)})


def section(name: str, seconds: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Its results, shown as they come."""
    print(f"\n{name} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--section", name]
    command += ["--seconds", str(seconds), "--device", options.device]
    command += ["--tiny"] if options.tiny else []
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    late = threading.Timer(seconds + _START, kill, [process])
    late.start()
    found = []
    assert process.stdout is not None
    for line in process.stdout:
        with suppress(ValueError):
            found.append({"section": name, **json.loads(line)})
            show(found[-1])
    late.cancel()
    if process.wait():
        show({"section": name, "skipped": "the rest", "why": f"it ended with {process.returncode}"})
    return found


def kill(process: subprocess.Popen[str]) -> None:
    """With all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def show(result: dict[str, Any]) -> None:
    """A line for programs, and one for people."""
    print(json.dumps(result), flush=True)
    values = {name: value for name, value in result.items() if name not in {"section", "case"}}
    texts = [f"{name} {_shown(value)}" for name, value in values.items()]
    print(f"  {result.get('case', ''):<34} {'  '.join(texts)}", file=sys.stderr, flush=True)


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What decides, as far as it was measured."""
    rates = {
        (one["case"], one["batch"]): one["photos_per_second"]
        for one in found
        if "batch" in one and one["section"] in {"network", "more"}
    }
    said: dict[str, Any] = {}
    for batch in sorted({batch for _, batch in rates}):
        for side in ("ours", "timm"):
            names = [name for name, at in rates if at == batch and name.startswith(side)]
            if names:
                best = max(names, key=lambda name, at=batch: rates[name, at])
                said[f"{side} at {batch}"] = f"{rates[best, batch]:,.0f} ({best})"
        compiled = [rates.get((f"{side} compiled, bfloat16", batch)) for side in ("ours", "timm")]
        if all(compiled):
            said[f"compiled, ours / timm at {batch}"] = compiled[0] / compiled[1]
    for one in found:
        if "of_network" in one:
            said[f"files / network, {one['case']}"] = one["of_network"]
    return said


def wheels() -> list[str]:
    """NAME==VERSION of all that the command, the benchmark and the tests need, as it is here."""
    known, waiting = set(LEFT_OUT), ["pytest", "pytest-timeout", "timm"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting += [Requirement(text).name for text in project["dependencies"]]
    found = []
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in known:
            continue
        known.add(name)
        found.append(f"{name}=={metadata.version(name)}")
        needed = map(Requirement, metadata.requires(name) or [])
        waiting += [n.name for n in needed if n.marker is None or n.marker.evaluate({"extra": ""})]
    return sorted(found)


# What the sections share


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a section runs, and until when (monotonic)."""

    device: str
    tiny: bool
    until: float

    @property
    def on_card(self) -> bool:
        """Whether this is a GPU."""
        return self.device != "cpu"

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes, the largest last."""
        return (1, 4) if self.tiny else (1, 8, 64, 256)

    @property
    def size(self) -> int:
        """Pixels of a photo's side."""
        return 64 if self.tiny else 224

    def say(self, case: str, **values: Any) -> None:
        """A result."""
        print(json.dumps({"case": case, **values}), flush=True)

    def run(self, case: str, seconds: float, measure: Callable[[], dict[str, Any] | None]) -> None:
        """Measures a case if `seconds` are left; what fails is said, and the next follows."""
        if time.monotonic() + (0 if self.tiny else seconds) > self.until:
            self.say(case, skipped=case, why="no time is left")
            return
        begin = time.monotonic()
        try:
            values = measure()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.say(case, failed=f"{type(error).__name__}: {lines[0][:300]}")
            return
        if values is not None:
            self.say(case, **values, took=round(time.monotonic() - begin, 1))


def machine(device: str) -> dict[str, Any]:
    """What it was measured on."""
    import timm
    import torch

    from resnest_cli.cpu import usable_cores

    found = {"torch": torch.__version__, "timm": timm.__version__, "cores": usable_cores(),
             "python": platform.python_version()}  # fmt: skip
    if device != "cpu":
        card = torch.cuda.get_device_properties(device)
        found |= {"card": card.name, "memory_gb": card.total_memory / 1e9,
                  "cudnn": torch.backends.cudnn.version()}  # fmt: skip
    return found


def jpegs(folder: Path, count: int, width: int, height: int, first: int = 0) -> list[Path]:
    """Photos with structure and noise, about 100 kB for 500 x 375; each number is another."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)

    def make(number: int) -> Path:
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noise = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
        path = folder / f"{number:04}.jpg"
        Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(path, quality=90)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(make, range(first, first + count)))


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder; caches of ours lie there, too."""
    folder = tempfile.TemporaryDirectory()
    os.environ["RESNEST_HOME"] = f"{folder.name}/home"
    return folder


if __name__ == "__main__":
    main()
