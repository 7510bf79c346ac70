"""What runs the network: batches of photos in, logits or features out.

Engines know no files and no terminal. There are two: ONNX Runtime on the CPU, which starts in a
tenth of torch's time, and torch on any device. `auto` is the first unless the device is, or may be,
an accelerator.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack, get_args

from resnest_cli.errors import EngineError, UsageError, installed, need
from resnest_cli.model.onnx_file import needed
from resnest_cli.options import Amp, EngineName
from resnest_cli.progress import Notify, ignore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnest_cli.model.loading import Model

    Float32 = NDArray[np.float32]

# What a network can give; as `onnx_graph.OUTPUTS`, which says the shapes. The last has both of each
# photo in one row, (N, num_features + classes).
Output = Literal[
    "map0", "map1", "map2", "map3", "map4", "features", "logits", "features+logits"
]  # fmt: skip

_TORCH_ONLY = "--amp, --compile and --cuda-graphs"

# There whenever a driver for NVIDIA (desktop, Jetson, under Windows' Linux) or AMD is loaded.
_DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/usr/lib/wsl/lib/libcuda.so.1", "/dev/kfd")


class TorchOptions(TypedDict, total=False):
    """What only the torch engine can do; see `torch_engine`."""

    amp: Amp
    compiled: bool
    graphs: bool


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What decides the bits of an engine's answers, beside the model and the photos.

    A job that is resumed must find it unchanged. `device` is the kind of processor, whose
    instruction set decides how sums are rounded; `batch_size` stands for the batch boundaries. The
    number of threads is not part of it: it changes no bit, see tests/inference/test_onnx_engine.py.
    """

    engine: str
    version: str
    precision: str
    device: str
    batch_size: int


class Engine(Protocol):
    """A network with weights, ready to run."""

    name: str
    device: str

    def logits(self, batch: "Float32") -> "Float32":
        """Preprocessed photos (N, 3, H, W) -> logits (N, classes)."""
        ...

    def output(self, batch: "Float32", name: Output) -> "Float32":
        """Preprocessed photos (N, 3, H, W) -> one output; nothing is computed beyond it."""
        ...

    def fingerprint(self, batch_size: int) -> Fingerprint:
        """What decides the bits of its answers in batches of this size."""
        ...


def create_engine(
    model: "Model",
    device: str = "auto",
    engine: EngineName = "auto",
    notify: Notify = ignore,
    output: Output = "logits",
    **special: Unpack[TorchOptions],
) -> Engine:
    """The engine for this model on `device`, both checked by `check_engine_name`.

    It is ready for `output` and photos of the size of `model.preprocessing`; what getting ready for
    others costs is paid when that is asked for. Where `engine` is auto, `special` options mean
    torch, and torch serves where ONNX Runtime cannot, which `notify` is given the reason for.

    Raises:
        UsageError: the machine has no such device; an exported network that was to run elsewhere,
            or lacks the output.
        EngineError: ONNX Runtime was asked for and cannot serve.
        CheckpointError: the weights cannot be used.
    """
    wanted = _wanted(special)
    if model.exported:
        _check_exported(model, device, engine, wanted)
    if engine == "onnx" or model.exported:
        return _onnx(model, output, notify)
    if engine == "auto" and not wanted and _is_cpu(device):
        try:
            return _onnx(model, output, notify)
        except EngineError as error:
            if not installed("torch"):
                raise
            notify(f"{error}\nThe torch engine serves instead; it is slower to start.")
    from resnest_cli.inference.torch_engine import TorchEngine

    return TorchEngine(model.network(), device, notify=notify, **special)


def _wanted(special: TorchOptions) -> bool:
    """Whether something is asked for that only torch can do."""
    return special.get("amp", "off") != "off" or bool(
        special.get("compiled") or special.get("graphs")
    )


def _check_exported(model: "Model", device: str, engine: str, special: bool) -> None:
    if engine != "torch" and not special and device in {"auto", "cpu"}:
        return
    leave = f"Leave out {f'--device {device}' if not special else _TORCH_ONLY}, or "
    if engine == "torch":  # which is asked for by commands as well
        leave = "Torch cannot run it: leave out --engine torch, if it was given, or "
    raise UsageError(
        f"{model.name} is an exported network, which runs in ONNX Runtime on the CPU. {leave}"
        "give the checkpoint that it was exported from."
    )


def compile_model(model: "Model") -> bool:
    """Compiles a model ahead of its first use; False where the result could not be stored."""
    with needed("onnxruntime"):
        from resnest_cli.inference import onnx_engine
    return onnx_engine.compile_model(model)


def _onnx(model: "Model", output: Output, notify: Notify) -> Engine:
    with needed("onnxruntime"):
        from resnest_cli.inference import onnx_engine
    return onnx_engine.create(model, output, notify=notify)


def _is_cpu(device: str) -> bool:
    """Whether this is the CPU; of auto torch is asked, but only where it may have a choice."""
    if device == "auto" and accelerator_likely() and installed("torch"):
        from resnest_cli.inference.torch_engine import resolve_device

        return resolve_device("auto") == "cpu"
    return device in {"auto", "cpu"}


def accelerator_likely() -> bool:
    """Whether drivers speak for an accelerator; takes microseconds, and torch has the last word."""
    if sys.platform == "darwin":
        return os.uname().machine == "arm64"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}:
        return False
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    return any(map(os.path.exists, _DRIVERS))


def check_device_name(device: str) -> None:
    """Raises UsageError for a device other than auto, cpu, cuda, cuda:N, mps; needs no weights."""
    kind, _, number = device.partition(":")
    if kind not in {"auto", "cpu", "cuda", "mps"} or (
        ":" in device and (kind != "cuda" or not number.isdecimal())
    ):
        raise UsageError(f"unknown device {device!r}: use auto, cpu, cuda, cuda:1 or mps.")


def check_engine_name(engine: str, device: str, **special: Unpack[TorchOptions]) -> None:
    """Checks an engine's name, and whether it runs on the device and in that way."""
    amp, graphs = special.get("amp", "off"), special.get("graphs")
    if engine not in get_args(EngineName):
        raise UsageError(f"unknown engine {engine!r}: use auto, torch or onnx.")
    if engine == "onnx" and device not in {"auto", "cpu"}:
        raise UsageError(
            f"the onnx engine runs on the CPU, not on {device}. Use --engine torch (or auto), or "
            "--device cpu."
        )
    if amp not in get_args(Amp):
        raise UsageError(f"unknown precision {amp!r}: use off, bfloat16 or float16.")
    if engine == "onnx" and _wanted(special):
        raise UsageError(f"{_TORCH_ONLY} belong to the torch engine, not to --engine onnx.")
    if graphs and special.get("compiled"):
        raise UsageError("--compile records CUDA graphs itself: leave out --cuda-graphs.")
    if graphs and device in {"cpu", "mps"}:
        raise UsageError(f"--cuda-graphs needs an NVIDIA GPU; the device is {device}.")
    if engine == "torch" or device not in {"auto", "cpu"} or _wanted(special):
        need("torch", "the torch engine")


def check_gpu_decode(engine: str, device: str, fast_decode: bool) -> None:
    """Refuses what --gpu-decode does not go with; before weights are fetched."""
    if fast_decode:
        raise UsageError("--gpu-decode and --fast-decode exclude each other: choose one.")
    if engine == "onnx" or device in {"cpu", "mps"}:
        where = "--engine onnx" if engine == "onnx" else f"--device {device}"
        raise UsageError(f"--gpu-decode needs an NVIDIA GPU and torch: leave out {where}.")
