"""One training step, forward, backward and optimiser: our network and timm's in the same loop.

    python -m tests.benchmarks.step [MODEL:SIZE:BATCH ...] [--rounds N] [--device cpu] [--amp DTYPE]

Both get the same photos and labels, SGD with momentum, and cross-entropy; all four (each network in
both memory layouts) take turns in one process, which keeps freed memory as `resnest train` does.
Prints medians, and the ratio of the layout that `resnest train` takes to each of timm's.
"""

import argparse
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
    options = parser.parse_args()
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
    pays = channels_last_pays(size, options.device, options.amp)
    used = "channels last" if pays else "NCHW"
    for layout in LAYOUTS:
        ratio = rates["ours", used] / rates["timm", layout]
        print(f"  ours as trained ({used}) / timm {layout}: {ratio:.2f}")


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
