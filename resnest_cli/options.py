"""Options, each written once, where its value is kept; and the records that commands share.

    class Config:                                              a field of a record
        lr: float | None = setting(None, "Peak learning rate.", "(0, inf)")

    def predict(*, model: ModelOptions,                        all fields of a record
                topk: Annotated[int, Option("How many classes.", "-k [1, inf)")] = 5):

Name, type and default give the flag, its placeholder and its choices. `commands.flags` makes the
command line of them, `Setting.refused` checks what a flag, a recipe or a file says.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from resnest_cli.errors import UsageError


class Option(NamedTuple):
    """What an option's name, type and default do not say.

    `form` is nearly what help shows: "-o FILE", "-j [0, 256]", "SHARE [0, 1)". It has a short flag,
    or the flags instead of those that follow from the name ("--null -0"), a placeholder, and the
    bounds of a number. With `env` the variable RESNEST_NAME is read, too. `check` is for texts:
    whether one fits, and what fits in words. `after` names options that it follows in `--help`,
    where it stands elsewhere in the code.
    """

    help: str
    form: str = ""
    panel: str | None = None
    env: bool = False
    check: tuple[Callable[[str], object], str] = (bool, "a text")
    parser: Callable[[Any], Any] | None = None
    after: str = ""
    argument: bool = False

    @property
    def flags(self) -> list[str]:
        """Those in `form`."""
        return [word for word in self.form.split() if word.startswith("-")]

    @property
    def metavar(self) -> str | None:
        """The placeholder in `form`."""
        words = self.form.split()[len(self.flags) :]
        return words[0] if len(words) in {1, 3} else None

    @property
    def bounds(self) -> str:
        """The interval in `form`, such as "[0, 1)"."""
        words = self.form.split()[len(self.flags) :]
        return " ".join(words[-2:]) if len(words) > 1 else ""


NO_FLAG = Option("")


def setting(default: Any, help_: str, form: str = "", **more: Any) -> Any:
    """A field of a record, and what `Option` says of it."""
    return field(default=default, metadata={"option": Option(help_, form, **more)})


class Setting(NamedTuple):
    """A named value; `kind` is its type without None."""

    name: str
    kind: Any
    default: Any
    option: Option = NO_FLAG

    @property
    def flags(self) -> list[str]:
        """Such as "--batch-size" and "-b"; both of a switch that may also be turned off."""
        given = self.option.flags
        if any(word.startswith("--") for word in given):
            return given
        flag = flag_of(self.name)
        if self.kind is bool and self.default is not False:
            flag += f"/{flag_of('no_' + self.name)}"
        return [flag, *given]

    @property
    def several(self) -> bool:
        """Whether it may be given again and again."""
        return get_origin(self.kind) is tuple

    def refused(self, value: Any) -> str | None:
        """What the value would have to be, in words; None where it fits."""
        if choices := get_args(self.kind):
            return None if value in choices else "one of " + ", ".join(choices)
        if self.kind is bool:
            return None if isinstance(value, bool) else "true or false"
        if self.kind is str:
            fits, words = self.option.check
            return None if isinstance(value, str) and fits(value) else words
        number = isinstance(value, self.kind | int) and not isinstance(value, bool)
        return None if number and self._within(value) else self._numbers()

    def wanted(self) -> str | None:
        """After "it is": what a text that is refused is not; None where there are no words."""
        if get_origin(self.kind) is Literal:
            return "none of " + ", ".join(get_args(self.kind))
        if self.kind in {int, float, bool}:
            return f"not {self.refused('')}"
        return None

    def _within(self, value: float) -> bool:
        bounds = self.option.bounds
        least, most = ends(bounds)
        if self.kind is int and value > 10**9 and math.isinf(most):
            return False
        above = value >= least if bounds[0] == "[" else value > least
        return above and (value <= most if bounds[-1] == "]" else value < most)

    def _numbers(self) -> str:
        bounds = self.option.bounds
        least, most = ends(bounds)
        if math.isinf(least):
            return "a whole number" if self.kind is int else "a number"
        if self.kind is int:
            to = f" to {most:.0f}" if bounds[-1] == "]" else ""
            return f"a whole number from {least:g}{to}"
        if most < math.inf:
            return f"a number in {bounds}"
        return f"a number above {least:g}" if bounds[0] == "(" else f"a number, {least:g} or more"


def ends(bounds: str) -> tuple[float, float]:
    """The least and the most of an interval such as "[0, 1)"; infinite where there is none."""
    least, most = map(float, bounds[1:-1].split(",")) if bounds else (-math.inf, math.inf)
    return least, most


def flag_of(name: str) -> str:
    """ "weight_decay" -> "--weight-decay"."""
    return "--" + name.strip("_").replace("_", "-")


def settings_of(record: type) -> dict[str, Setting]:
    """The fields of a record, those without a flag among them."""
    return {
        one.name: setting_of(one.name, one.type, one.default, one.metadata.get("option"))
        for one in fields(record)
    }


def setting_of(name: str, annotation: Any, default: Any, option: Option | None = None) -> Setting:
    """An option, of what its parameter or field says."""
    kind, marks = parts_of(annotation)
    if get_origin(kind) in {Union, UnionType}:
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    found = (option, *(mark for mark in marks if isinstance(mark, Option)), NO_FLAG)
    return Setting(name, kind, default, next(filter(None, found)))


def parts_of(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type, and what `Annotated` says of it."""
    if get_origin(annotation) is not Annotated:
        return annotation, ()
    return annotation.__origin__, annotation.__metadata__


AUTO = -1  # in place of a batch size
MOST_PHOTOS = 4096  # in a batch
MAX_PIXELS = 178_956_970  # of a photo; where Pillow, too, refuses: 512 MiB of RGB
DEFAULT_MODEL = "resnest50d"
DECODING_LIMIT = 60.0  # seconds after which the decoder of a photo counts as hung
Amp = Literal["off", "bfloat16", "float16"]  # precision of the convolutions where it is not float32
EngineName = Literal["auto", "torch", "onnx"]
Interpolation = Literal["bilinear", "bicubic"]
CropMode = Literal["center", "border", "squash"]  # see images.preprocess


def batch_size_or_auto(text: object) -> int:
    """A number from 1 to 4096, or `auto`."""
    if str(text) == "auto":
        return AUTO
    if not (str(text).isdecimal() and 1 <= int(str(text)) <= MOST_PHOTOS):
        raise UsageError(
            f"--batch-size {text} is neither a number from 1 to {MOST_PHOTOS} nor auto."
        )
    return int(str(text))


ALL_FRAMES = 0


class Every(NamedTuple):
    """Which frames of a video are looked at: one in so many seconds (s) or frames (f)."""

    number: float
    unit: Literal["s", "f"]


def every_of(text: object) -> Every:
    """What "1s", "0.5s" or "10f" stands for; UsageError for anything else."""
    word = str(text).strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)s|(\d+)f", word, re.ASCII)
    number = float(found[1] or found[2]) if found else 0.0
    if found is None or not 1e-3 <= number <= 1e9:
        raise UsageError(
            f"--every {word}: say how far apart frames of a video are: in seconds, such as 1s or "
            "0.5s, or in frames, such as 10f."
        )
    return Every(number, "s" if found[1] else "f")


def frames_of(text: object) -> int:
    """How many frames "all" (`ALL_FRAMES`) or a number stands for; UsageError for anything else."""
    word = str(text).strip()
    if word == "all":
        return ALL_FRAMES
    if not (word.isascii() and word.isdecimal() and 1 <= int(word) <= 10**9):
        raise UsageError(f"--frames {word} is neither a number of frames from 1 on nor all.")
    return int(word)


# Options of several commands, as parameters or as fields of records.
ModelName = Annotated[
    str,
    Option(
        "A variant (see `resnest models`), a name or address of Hugging Face's hub, a folder with "
        "a config.json, or a checkpoint file.",
        "-m MODEL",
        env=True,
    ),
]
Weights = Annotated[
    str | None,
    Option("Other weights for the named variant. A path never connects.", "PATH|URL|NAME"),
]
Labels = Annotated[
    str | None, Option("Class names, one a line, instead of the model's own.", "FILE")
]
Device = Annotated[
    str,
    Option(
        "Where the network runs; auto takes an accelerator where there is one.",
        "auto|cpu|cuda|cuda:1|mps",
        env=True,
    ),
]
ImgSize = Annotated[int | None, Option("Side of the network's input in pixels.", "[1, 8192]")]
Mirror = Annotated[
    str | None,
    Option(
        "Where weights are looked for before the published hosts and the hub.",
        "URL|FOLDER",
        env=True,
    ),
]
Offline = Annotated[bool, Option("Never connect to anything.", env=True)]
Workers = Annotated[
    int, Option("Photos that are decoded at once, each in a process of its own.", "-j [0, 256]")
]
AutoWorkers = Annotated[
    int | None,
    Option(
        "Photos that are decoded at once: as many as there are cores.",
        "-j [0, 256]",
        after="batch_size",
    ),
]
BatchSize = Annotated[
    int,
    Option(
        "Photos that the network sees at once.", f"-b [1, {MOST_PHOTOS}]", env=True, after="labels"
    ),
]
Html = Annotated[Path | None, Option("Also write a page to look at in a browser.", "FILE")]
TableFormat = Annotated[Literal["table", "json"], Option("How it is printed on stdout.")]
Tta = Annotated[
    bool, Option("Average each photo with its mirror image.", after="max_pixels gpu_decode")
]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Which inputs, and how they are read; `batch_size` may be `AUTO`.

    `time_limit` is in seconds, for decoding one photo.
    """

    inputs: tuple[str, ...] = setting(
        (),
        "Files, folders, archives, quoted globs, URLs; - for stdin.",
        "[PHOTO...]",
        argument=True,
    )
    from_file: str | None = setting(
        None, "A file of further inputs, one a line; - for stdin.", "LIST"
    )
    null_separated: bool = setting(False, "The list is NUL-separated (find -print0).", "--null -0")
    recursive: bool = setting(True, "Read the folders inside folders.")
    batch_size: int = setting(
        8,
        "Photos that the network sees at once; auto tries out which is best here.",
        "-b N|auto",
        env=True,
        parser=batch_size_or_auto,
    )
    workers: Workers = 1
    frames: int | None = setting(
        None,
        "Pages of a TIFF, and frames of a GIF, WebP, PNG or AVIF: all, or N of them evenly spread; "
        "unless said the first one.",
        "N|all",
        parser=frames_of,
    )
    every: Every | None = setting(
        None,
        "Read videos, too: a frame for each so many seconds (1s) or frames (10f).",
        "1s|10f",
        parser=every_of,
    )
    time_limit: float = field(default_factory=lambda: DECODING_LIMIT)  # seconds for a photo


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which network, on what, fed how; the arguments of `Classifier`."""

    model: ModelName = DEFAULT_MODEL
    weights: Weights = None
    labels: Labels = None
    device: Device = "auto"
    engine: EngineName = setting(
        "auto", "What runs the network; auto is onnx on a CPU, torch on an accelerator.", env=True
    )
    img_size: ImgSize = None
    crop_pct: float | None = setting(
        None, "Share of the resized shorter side that is kept.", "SHARE [0.01, 1]"
    )
    interpolation: Interpolation | None = setting(None, "How photos are resized.")
    crop_mode: CropMode | None = setting(
        None,
        "center (the usual one) cuts the edges off, border pads, squash ignores the aspect ratio.",
    )
    exif: bool = setting(True, "Turn photos upright; published accuracies were measured without.")
    mirror: Mirror = None
    offline: Offline = False
    amp: Amp = setting("off", "Convolutions in half precision (torch engine); float32 unless said.")
    compiled: bool = setting(
        False, "Run the network through torch.compile, for long runs (torch engine).", "--compile"
    )
    fast_decode: bool = setting(
        False, "Decode large JPEGs at reduced scale: quicker, answers change a bit."
    )
    gpu_decode: bool = setting(
        False, "Decode JPEGs on the NVIDIA GPU: answers change a bit (torch engine)."
    )
    graphs: bool = setting(
        False, "Record the network as one CUDA graph (torch engine, NVIDIA GPU).", "--cuda-graphs"
    )
    trust_onnx: bool = setting(
        False, "Run an .onnx unlike those of `resnest export`, if you trust it."
    )
    max_pixels: int = setting(
        MAX_PIXELS,
        "Refuse photos of more pixels; one takes up to 12 bytes of memory for each.",
        "[1, inf)",
        env=True,
    )


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where the work is done, and how a Ray cluster does it."""

    runner: Literal["local", "ray"] = setting(
        "local", "Where the work is done: in this process, or on a Ray cluster."
    )
    ray_address: str | None = setting(
        None,
        "A running Ray cluster (auto: the one of this machine), not one that is started here.",
        "ADDRESS",
    )
    gpus_per_worker: float | None = setting(
        None,
        "GPUs of each of Ray's workers; 0.5 shares one. 1 where the cluster has any.",
        "N [0, inf)",
    )
    concurrency: int | None = setting(
        None, "How many workers Ray runs: one on each node, or one for each GPU.", "[1, inf)"
    )
    path_column: str | None = setting(
        None,
        "Column of a Parquet or CSV input that has the paths (ray): path, unless said.",
        "NAME",
    )


How = Literal["copy", "link", "move"]  # photos are sorted
_SORTING = "Sorting"


@dataclass(frozen=True, slots=True)
class SortOptions:
    """What becomes of the photos themselves, once they are predicted."""

    sort_into: Path | None = setting(
        None,
        "Put each photo into the folder of its class in DIR, or into `unsure` where the answer is "
        "refused. Nothing is ever replaced.",
        "DIR",
        panel=_SORTING,
    )
    copy: bool = setting(False, "Copies are sorted, the photos stay.", panel=_SORTING)
    link: bool = setting(
        False, "Symbolic links to the photos are sorted, which stay.", panel=_SORTING
    )
    move: bool = setting(
        False,
        "The photos themselves are sorted, and their sidecars (x.jpg.xmp, x.xmp). Of several "
        "labels the most probable counts.",
        panel=_SORTING,
    )
    live_photos: bool = setting(
        False, "The x.mov of a live photo goes with its x.heic or x.jpg.", panel=_SORTING
    )
    dry_run: bool = setting(
        False, "Only show where each photo would go; nothing is written.", panel=_SORTING
    )
    undo: Path | None = setting(
        None,
        "Take the last sorting into DIR back: what was moved returns, copies and links go.",
        "DIR",
        panel=_SORTING,
    )

    @property
    def how(self) -> How | None:
        """What becomes of the photos; None: nothing.

        Raises:
            UsageError: that is not clear.
        """
        hows: tuple[How, ...] = ("copy", "link", "move")
        chosen = [how for how in hows if getattr(self, how)]
        if self.sort_into is None:
            if chosen or self.live_photos or self.dry_run:
                raise UsageError(
                    "--copy, --link, --move, --live-photos and --dry-run go with --sort-into DIR."
                )
            return None
        if len(chosen) != 1:
            raise UsageError(
                "--sort-into takes one of --copy, --link and --move. Look at the plan first with "
                "--dry-run."
            )
        return chosen[0]


@dataclass(frozen=True, slots=True)
class XmpOptions:
    """Whether classes become keywords in XMP sidecars, and how."""

    xmp: bool = setting(
        False,
        "Also write the classes that are at least 50% probable, or --threshold, as keywords into "
        "XMP files beside the photos. What others wrote there stays; photos are never touched.",
    )
    xmp_name: Literal["x.jpg.xmp", "x.xmp"] | None = setting(
        None,
        "How the XMP file of x.jpg is called: x.jpg.xmp (digiKam, darktable, Immich, PhotoPrism), "
        "unless said, or x.xmp (Adobe, Capture One, Immich).",
    )
    xmp_parent: str | None = setting(
        None,
        'Where the keywords hang in a hierarchy of keywords, such as AI or "AI|animals".',
        "KEYWORD",
    )


_MOST_ALARMS = 0.5  # share of false alarms that anybody could want


def share_of(text: object) -> float:
    """A share of false alarms in (0, 0.5], of "5%" or 0.05.

    Raises:
        UsageError: anything else.
    """
    word = str(text).strip()
    try:
        share = float(word[:-1]) / 100 if word.endswith("%") else float(word)
    except ValueError:
        share = math.nan
    if not 0 < share <= _MOST_ALARMS:
        percent = word.isdecimal() and 1 <= int(word) <= 100 * _MOST_ALARMS
        hint = f" For {word} percent write {word}%." if percent else ""
        raise UsageError(
            f"--unknown {word}: give the share of false alarms that is accepted, such as 5% or "
            f"0.05; at most 50%.{hint}"
        )
    return share
