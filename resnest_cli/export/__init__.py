"""A network as a file for other programs, and proof that it still says the same.

export.py       the way through the rest
formats.py      .onnx and .pt2 files, and what they say about themselves
parity.py       exported against original, on photos and on noise
int8.py         an .onnx in 8 bits, and what that changes: size, accuracy, speed
float16.py      an .onnx in 16 bits
openvino.py     the .xml and .bin of OpenVINO
hub_folder.py   a folder that Hugging Face's hub and timm read, with its model card
"""

from dataclasses import dataclass
from pathlib import Path

from resnest_cli.errors import UsageError
from resnest_cli.options import setting


@dataclass(frozen=True, slots=True)
class ExportJob:
    """The file that is written, and what is done with it; with `calibrate` it has 8 bits."""

    output: Path = Path()
    check: str | None = setting(None, "Compare the file with the model on these photos.", "DATA")
    fp16: bool = setting(False, "16 bits (.onnx, .xml): half the size; says what else it changes.")
    int8: bool = setting(False, "8 bits (.onnx): smaller; says what else it changes.")
    calibrate: str | None = setting(
        None, "Photos like those to come, for --int8: a folder or a table; half measure.", "DATA"
    )
    calibrate_photos: int = setting(200, "At most so many calibrate.", "[1, 100000]")
    opset: int | None = setting(None, "ONNX's operators, 13 or later: 17.")

    def check_options(self) -> None:
        """Raises a UsageError where they do not go with the file's name or each other."""
        kind = self.output.suffix.lower()
        if kind not in {".onnx", ".pt2", ".xml"}:
            raise UsageError(
                f"{self.output}: give -o a name that ends in .onnx, .pt2, or .xml for OpenVINO."
            )
        if kind != ".onnx" and (self.int8 or self.opset is not None):
            wrong = "--int8" if self.int8 else "--opset"
            raise UsageError(f"{wrong} goes with .onnx, not with {kind}.")
        if kind == ".pt2" and self.fp16:
            raise UsageError("--fp16 goes with .onnx and .xml, not with .pt2.")
        if self.int8 and self.fp16:
            raise UsageError("--fp16 with --int8: leave out one of the two.")
        if self.int8 != (self.calibrate is not None):
            raise UsageError("--int8 needs photos like those to come: --int8 --calibrate DATA.")
