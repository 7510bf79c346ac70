"""One training step, forward, backward and optimiser: our network and timm's in the same loop.

    python -m tests.benchmarks.step [MODEL:SIZE:BATCH ...] [--rounds N] [--device cpu] [--amp DTYPE]
        [--apart]

Both get the same photos and labels, SGD with momentum, and cross-entropy; all four (each network in
both memory layouts) take turns in one process, which keeps freed memory as `resnest train` does.
Prints medians, and the ratio of the layout that `resnest train` takes to each of timm's.

`--apart` gives each network a process of its own, in turn: ours as `resnest train` runs, with kept
memory, the fused optimiser and the layout that it takes; timm's in a plain loop, in either layout,
of which each pair takes the quicker.
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
from resnest_cli.training.defaults import channels_last_pays
from resnest_cli.training.step import keep_memory

CASES = ["resnest14d:64:64", "resnest50d:224:16"]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
_WARM = 3  # steps until hardly a page is new


def main() -> None:
    """Measures and prints each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", choices=["off", "bfloat16", "float16"], default="off")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # NETWORK:LAYOUT
    options = parser.parse_args()
    if options.apart:
        apart(options)
        return
    if not options.only or options.only.startswith("ours"):
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
    used = layout_of_train(options)
    steps = {
        (name, layout): stepper(network, size, batch, layout, options)
        for name, network in (("ours", ours), ("timm", theirs))
        for layout in LAYOUTS
        if options.only in {None, f"{name}:{layout}"}
    }
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for step in steps.values():
        for _ in range(_WARM):
            step()
    for _ in range(options.rounds):
        for key, step in steps.items():
            begin = time.perf_counter()
            step()
            taken[key].append(time.perf_counter() - begin)
    rates = {key: batch / median(times) for key, times in taken.items()}
    print(f"\n{model}, {size} pixels, batch {batch}, medians of {options.rounds}")
    for (name, layout), rate in rates.items():
        print(f"  {name:<5} {layout:<14} {rate:>9.2f} photos/s")
    if options.only:
        return
    for layout in LAYOUTS:
        ratio = rates["ours", used] / rates["timm", layout]
        print(f"  ours as trained ({used}) / timm {layout}: {ratio:.2f}")


def apart(options: argparse.Namespace) -> None:
    """Each network alone: medians of the rates, and the ratio of each pair."""
    for case in options.cases:
        used = layout_of_train(options)
        rates: dict[str, list[float]] = {"ours": [], "timm": []}
        for _ in range(options.rounds):
            rates["ours"].append(rate_alone(case, f"ours:{used}", options))
            rates["timm"].append(max(rate_alone(case, f"timm:{at}", options) for at in LAYOUTS))
        ours, theirs = (median(found) for found in rates.values())
        pairs = " ".join(f"{a / b:.2f}" for a, b in zip(*rates.values(), strict=True))
        print(f"{case}, processes apart, {options.rounds} pairs: ours {ours:.2f} photos/s, "
              f"timm {theirs:.2f}, ratio {ours / theirs:.2f}; of each pair: {pairs}",
              flush=True)  # fmt: skip


def rate_alone(case: str, only: str, options: argparse.Namespace) -> float:
    """Photos a second of one network in a process of its own, the median of five steps."""
    command = [
        sys.executable, "-m", "tests.benchmarks.step", case, "--only", only,
        "--rounds", "5", "--device", options.device, "--amp", options.amp,
    ]  # fmt: skip
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"([\d.]+) photos/s", text)
    assert found is not None
    return float(found[1])


def layout_of_train(options: argparse.Namespace) -> str:
    """What `resnest train` takes."""
    pays = channels_last_pays(options.device, options.amp)
    return "channels last" if pays else "NCHW"


def stepper(
    network: torch.nn.Module, size: int, batch: int, layout: str, options: argparse.Namespace
) -> Callable[[], None]:
    """A function that does one training step of a copy of the network, and waits for it."""
    moved = deepcopy(network).to(options.device, memory_format=LAYOUTS[layout]).train()
    fused = (options.only or "").startswith("ours")  # as `optim.create_optimizer` makes it
    optimizer = torch.optim.SGD(
        moved.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=fused or None
    )
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
