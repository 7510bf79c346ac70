"""How fast a network is on this machine, and where its time goes.

benchmark.py   starts what measures, and shows how far it is
measure.py     engines and photos, timed in turn; the figures
timing.py      cases in turn, shares of the stages, the machine's own rate
"""

from dataclasses import dataclass
from typing import Literal

from resnest_cli.options import DEFAULT_MODEL, Device, ImgSize, ModelName, setting

Engines = Literal["all", "auto", "onnx", "torch"]


@dataclass(frozen=True, slots=True)
class BenchmarkJob:
    """What is timed; `min_time` is in seconds."""

    model: ModelName = DEFAULT_MODEL
    engine: Engines = setting("all", "all that can run here; auto is the one that predict takes.")
    device: Device = "auto"
    batch_size: tuple[int, ...] = setting(
        (),
        "Photos that the network sees at once; may be given several times.  [default: 1,8,32]",
        "-b N[,N...]",
    )
    img_size: ImgSize = None
    repeats: int = setting(5, "Blocks of runs that are timed.", "[5, 1000]")
    min_time: float = setting(0.5, "How long a block of runs lasts at least.", "SECONDS [0, 600]")
    photos: str | None = setting(
        None, "Also time decoding, resizing and the whole, on these photos.", "DIR"
    )
