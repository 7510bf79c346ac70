"""The machine's own rate: multiply-adds a second of a float32 matrix product, by torch.

A convolution is a matrix product at heart, so this is what a network could reach if it were nothing
else. It is no hard limit: a convolution by Winograd's method needs fewer products than are counted,
and an engine's kernels may suit this processor better than torch's library does.
"""

import time

import torch

_SIDE = {"cpu": 1024, "cuda": 4096, "mps": 2048}  # of the square matrices
_RUNS = 8


class Matmul:
    """Square products on one device with a number of threads (of the CPU)."""

    def __init__(self, device: str, threads: int) -> None:
        self.device, self.threads = device, threads
        self.side = _SIDE[device.partition(":")[0]]
        generator = torch.Generator().manual_seed(0)
        shape = (self.side, self.side)
        self._a, self._b = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
        self._seconds: list[float] = []

    @property
    def title(self) -> str:
        """What it is called while it runs."""
        return f"matrix product, {self.device}"

    @property
    def best(self) -> float:
        """Multiply-adds a second of the quickest product so far."""
        return self.side**3 / min(self._seconds)

    def run(self) -> None:
        """A few products, each timed. The number of threads and the precision are put back."""
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_num_threads(self.threads)
        if self.device.startswith("cuda") and torch.backends.cudnn.allow_tf32:
            torch.set_float32_matmul_precision("high")  # as its convolutions, which take TF32
        try:
            for _ in range(_RUNS):
                start = time.perf_counter()
                torch.mm(self._a, self._b)
                synchronise(self.device)
                self._seconds.append(time.perf_counter() - start)
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)


def synchronise(device: str) -> None:
    """Waits until an accelerator has done what it was given; nothing on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
