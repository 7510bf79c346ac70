"""One training step, forward, backward and optimiser: our network and timm's in the same loop.

    python -m tests.benchmarks.step [MODEL:SIZE:BATCH ...] [--rounds N] [--device cpu] [--amp DTYPE]
        [--apart]

Both get the same photos and labels, SGD with momentum, and cross-entropy; all four (each network in
both memory layouts) take turns in one process, which keeps freed memory as `resnest train` does.
Prints medians, and the ratio of the layout that `resnest train` takes to each of timm's.

`--apart` gives each side processes of its own, in turn: ours as `resnest train` runs, which keeps
freed memory, timm's in a plain loop, which does not, in its quicker layout.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from statistics import median

import timm
import torch
import torch.nn.functional as F

from resnest_cli import build
from resnest_cli.training.allocator import keep_memory
from resnest_cli.training.plan import channels_last_pays

CASES = ["resnest14d:64:64", "resnest50d:224:16"]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}


def main() -> None:
    """Measures and prints each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", choices=["off", "bfloat16", "float16"], default="off")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--only", choices=["ours", "timm"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apart:
        apart(options)
        return
    if options.only != "timm":
        keep_memory()
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, "
          f"amp {options.amp}")  # fmt: skip
    for case in options.cases:
        model, size, batch = case.split(":")
        measure(model, int(size), int(batch), options)


def measure(model: str, size: int, batch: int, options: argparse.Namespace) -> None:
    """One case: photos a second of all four, and the ratios."""
    torch.manual_seed(0)
    ours = build(model)
    theirs = timm.create_model(model)
    theirs.load_state_dict(ours.state_dict())
    steps = {
        (name, layout): stepper(network, size, batch, layout, options)
        for name, network in (("ours", ours), ("timm", theirs))
        for layout in LAYOUTS
        if options.only in {None, name}
    }
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for step in steps.values():
        step()
    for _ in range(options.rounds):
        for key, step in steps.items():
            begin = time.perf_counter()
            step()
            taken[key].append(time.perf_counter() - begin)
    rates = {key: batch / median(times) for key, times in taken.items()}
    print(f"\n{model}, {size} pixels, batch {batch}, medians of {options.rounds}")
    for (name, layout), rate in rates.items():
        print(f"  {name:<5} {layout:<14} {rate:>9.1f} photos/s")
    if options.only:
        return
    pays = channels_last_pays(size, options.device, options.amp)
    used = "channels last" if pays else "NCHW"
    for layout in LAYOUTS:
        ratio = rates["ours", used] / rates["timm", layout]
        print(f"  ours as trained ({used}) / timm {layout}: {ratio:.2f}")


def apart(options: argparse.Namespace) -> None:
    """Pairs of processes, one for each side: the median over pairs of the best layout's rate."""
    for case in options.cases:
        rates: dict[str, list[float]] = {"ours": [], "timm": []}
        for _ in range(options.rounds):
            for side, found in rates.items():
                command = [
                    sys.executable, "-m", "tests.benchmarks.step", case, "--only", side,
                    "--rounds", "3", "--device", options.device, "--amp", options.amp,
                ]  # fmt: skip
                text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found.append(max(float(rate) for rate in re.findall(r"([\d.]+) photos/s", text)))
        ours, theirs = (median(found) for found in rates.values())
        pairs = " ".join(f"{a / b:.2f}" for a, b in zip(*rates.values(), strict=True))
        print(f"{case}, processes apart, {options.rounds} pairs: ours {ours:.1f} photos/s, "
              f"timm {theirs:.1f}, ratio {ours / theirs:.2f}; of each pair: {pairs}",
              flush=True)  # fmt: skip


def stepper(
    network: torch.nn.Module, size: int, batch: int, layout: str, options: argparse.Namespace
) -> Callable[[], None]:
    """A function that does one training step of a copy of the network, and waits for it."""
    moved = deepcopy(network).to(options.device, memory_format=LAYOUTS[layout]).train()
    optimizer = torch.optim.SGD(moved.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    photos = torch.randn(batch, 3, size, size, device=options.device)
    photos = photos.contiguous(memory_format=LAYOUTS[layout])
    labels = torch.randint(0, 1000, (batch,), device=options.device)
    kind = options.device.partition(":")[0]

    def step() -> None:
        half = options.amp != "off"
        context = torch.autocast(kind, getattr(torch, options.amp)) if half else nullcontext()
        optimizer.zero_grad()
        with context:
            loss = F.cross_entropy(moved(photos), labels)
        loss.backward()
        optimizer.step()
        if kind == "cuda":
            torch.cuda.synchronize()

    return step


if __name__ == "__main__":
    main()
