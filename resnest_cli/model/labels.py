"""Class index <-> name.

Labels identify nothing by themselves: `crane` and `maillot` stand twice in ImageNet's list; the
index does. The bundled list has the bytes of the file that PyTorch's hub publishes.
"""

import hashlib
from functools import cache
from pathlib import Path

from resnest_cli.errors import LabelsError
from resnest_cli.paths import resnest_home

LABELS_FILE = "imagenet_classes.txt"
IMAGENET_CLASSES = 1000
_IDS_FILE = "imagenet_wnids.txt"
LABELS_SHA256 = "1f386e0d1cb6e28b9c2dac651c3dea6801e98ad1b41a14ce6bb1a093d72069f5"


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 ImageNet class names, by index: the copy fetched with weights, else the bundled."""
    for path in (resnest_home() / LABELS_FILE, bundled_labels()):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() == LABELS_SHA256:
            return tuple(data.decode("utf-8").split("\n"))
    raise LabelsError(
        f"{bundled_labels()} is missing or damaged. Install resnest-cli again, or pass --labels."
    )


@cache
def imagenet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes, by index; they are in alphabetical order.

    Source: timm's `imagenet_synsets.txt`, the order of ILSVRC 2012.
    """
    return tuple(Path(__file__).with_name(_IDS_FILE).read_text(encoding="ascii").split())


def bundled_labels() -> Path:
    """The list that came with the program: in the package when installed, else beside it."""
    package = Path(__file__).parents[1]
    installed = package / LABELS_FILE
    return installed if installed.exists() else package.parent / LABELS_FILE


def read_labels(path: str | Path, expected: int) -> tuple[str, ...]:
    """Class names from a UTF-8 text file, one a line in the order of the indices.

    Raises:
        LabelsError: not readable, not UTF-8, an empty line, or not `expected` lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise LabelsError(
            f"{path}: is not UTF-8 text (byte {error.start}). Labels are one name a line."
        ) from error
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    if len(lines) != expected:
        raise LabelsError(
            f"{path}: has {len(lines)} lines; the network has {expected} classes. "
            "Give one class name a line, in the order of the class indices."
        )
    if "" in lines:
        raise LabelsError(f"{path}: line {lines.index('') + 1} is empty; each class needs a name.")
    return tuple(lines)


def labels_for(num_classes: int) -> tuple[str, ...]:
    """Names for a network that carries none: ImageNet's for 1000 classes, else `class 0`, ..."""
    if num_classes == IMAGENET_CLASSES:
        return imagenet_labels()
    return tuple(f"class {index}" for index in range(num_classes))
