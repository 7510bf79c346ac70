"""What a run is about, as plain data that another process can be sent. No numpy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from resnest_cli.images.limits import MAX_PIXELS

if TYPE_CHECKING:
    from resnest_cli.images.preprocess import CropMode
    from resnest_cli.inference.engine import EngineName
    from resnest_cli.model.variants import Interpolation

AUTO = -1  # in place of a batch size
Amp = Literal["off", "bfloat16", "float16"]  # precision of the convolutions where it is not float32


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Which inputs, and how they are read; see the options of `resnest predict`.

    `batch_size` may be `AUTO`; see `batch_size`.
    `time_limit` is in seconds, for decoding one photo where it is isolated.
    """

    inputs: tuple[str, ...]
    from_file: str | None
    null_separated: bool
    recursive: bool
    batch_size: int
    workers: int
    isolate: bool
    time_limit: float


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which network, on what, fed how; see the options of `resnest predict` and `Classifier`."""

    model: str
    weights: str | None
    labels: str | None
    device: str
    engine: "EngineName"
    img_size: int | None
    crop_pct: float | None
    interpolation: "Interpolation | None"
    crop_mode: "CropMode | None"
    exif: bool
    mirror: str | None
    offline: bool
    amp: Amp = "off"
    compiled: bool = False
    fast_decode: bool = False
    gpu_decode: bool = False
    graphs: bool = False
    trust_onnx: bool = False
    max_pixels: int = MAX_PIXELS
