"""A network made ready for one size of batch: compiled, or recorded as a CUDA graph.

Both pay for it once, and run batches of that size only: the first one's, to which smaller ones are
padded. A larger one is got ready for anew.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from resnest_cli.errors import EngineError

Run = Callable[[Tensor], Tensor]
Make = Callable[[Run, Tensor], Run]


@dataclass(frozen=True, slots=True)
class _Ready:
    """What runs batches of `size`, which it was made with."""

    run: Run
    size: int


class FixedBatches:
    """Runs a network's outputs, each through what `make` makes of it for the first batch.

    `make` gets the network's function and a batch, and may keep the batch's place in memory.
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._ready: dict[str, _Ready] = {}

    def __call__(self, name: str, run: Run, photos: Tensor) -> Tensor:
        """The output `name`, which `run` computes, of photos (N, 3, H, W)."""
        count = len(photos)
        ready = self._ready.get(name)
        if ready is None or count > ready.size:
            ready = self._ready[name] = _Ready(self._make(run, photos), count)
        if count < ready.size:
            rest = photos.new_zeros(ready.size - count, *photos.shape[1:])
            whole = torch.cat([photos, rest])
            layout = torch.channels_last if _is_channels_last(photos) else torch.contiguous_format
            photos = whole.contiguous(memory_format=layout)
        # What was recorded writes into the same place again.
        return ready.run(photos)[:count].clone()


def _is_channels_last(photos: Tensor) -> bool:
    return photos.is_contiguous(memory_format=torch.channels_last)


def compiling(notify: Callable[[str], None]) -> Make:
    """torch.compile; `notify` is told how long that took.

    Raises (when it compiles):
        EngineError: it cannot be done here.
    """

    def make(run: Run, photos: Tensor) -> Run:
        # On CUDA this mode also records the whole batch as one graph.
        mode = "reduce-overhead" if photos.device.type == "cuda" else "default"
        compiled = cast("Run", torch.compile(run, dynamic=False, mode=mode))
        begin = time.monotonic()
        try:
            compiled(photos)
        except torch.OutOfMemoryError:  # says the caller better
            raise
        except Exception as error:
            raise EngineError(
                f"torch cannot compile the network here: {_first_line(error)}. Leave out --compile."
            ) from error
        took = time.monotonic() - begin
        notify(f"Compiled for batches of {len(photos)} in {took:.0f} s.")
        return compiled

    return make


def recording(run: Run, photos: Tensor) -> Run:
    """Records the network's kernels as a CUDA graph, which starts them all with one call.

    Follows torch.cuda.CUDAGraph's documentation: a few runs on a stream of their own, then the
    recording, whose input and output keep their places in memory. Not run on a GPU so far.

    Raises:
        EngineError: it cannot be done here.
    """
    place = photos.clone(memory_format=torch.preserve_format)
    graph: Any = torch.cuda.CUDAGraph()
    try:
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run(place)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            out = run(place)
    except torch.OutOfMemoryError:  # says the caller better
        raise
    except RuntimeError as error:
        raise EngineError(
            f"the network cannot be recorded as a CUDA graph here: {_first_line(error)}. Leave out "
            "--cuda-graphs."
        ) from error

    def replay(photos: Tensor) -> Tensor:
        place.copy_(photos)
        graph.replay()
        return out

    return replay


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
