"""What is asked for: a training job, and the settings of its run.

    defaults < recipe (a TOML of the package) < `--config` file < flags

Each is written once, as a field of `Config`, which gives its flag, its check and its line in
`args.toml`: a config file with every setting in it. One that is None is not decided yet; see
`defaults`.
"""

import time
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from resnest_cli.data.labelled_photos import Reading
from resnest_cli.errors import UsageError
from resnest_cli.files import reading, write_text, writing
from resnest_cli.model.names import find_named
from resnest_cli.model.variants import MAX_SCALE
from resnest_cli.net import Access
from resnest_cli.options import DEFAULT_MODEL, flag_of, setting, settings_of
from resnest_cli.text import did_you_mean, parse_duration

Command = Literal["train", "finetune"]

DEFAULT_RECIPES = {"train": "quick", "finetune": "finetune"}
RECIPES = (
    "finetune", "finetune-small", "finetune-middle", "finetune-large", "quick", "tiny", "demo",
    "paper", "a1", "a2", "a3",
)  # fmt: skip


def parse_channels(text: str) -> tuple[float, float, float] | None:
    """Numbers for red, green and blue, such as "0.485,0.456,0.406", or one for all; or None."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    if len(values) not in {1, 3} or not all(abs(value) <= MAX_SCALE for value in values):
        return None
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue


def parse_aa(text: str) -> tuple[int, int] | str | None:
    """An augmentation policy in timm's notation: "none", "auto" and "trivial" as they are,
    "rand-m9-n2" as (magnitude, operations), or None.

    The magnitude lies in 0 to 30, torchvision's bins; magnitude 9 and two operations unless said.
    """
    if text in {"none", "auto", "trivial"}:
        return text
    first, *parts = text.split("-")
    values = {"m": 9, "n": 2}
    for part in parts:
        if part[:1] not in values or not part[1:].isdecimal():
            return None
        values[part[0]] = int(part[1:])
    if first != "rand" or values["m"] > 30 or not 1 <= values["n"] <= 10:
        return None
    return values["m"], values["n"]


_data = partial(setting, panel="Data and model")
_photos = partial(setting, panel="What the network sees")
_learning = partial(setting, panel="How it learns")
_rate = partial(setting, panel="Learning rate")
_loss = partial(setting, panel="Loss and regularisation")
_teacher = partial(setting, panel="Teacher")
_machine = partial(setting, panel="Where it runs")
_CHANNELS = (
    lambda text: parse_channels(text) is not None,
    "three numbers such as 0.485,0.456,0.406, or one for all channels",
)
_FREEZE = {"auto", "none", "backbone", *(f"stages:{n}" for n in range(5))}


def _reading(name: str) -> Any:
    option = settings_of(Reading)[name].option._replace(panel="Data and model")
    return field(default=None, metadata={"option": option})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one run, in the order of `args.toml`; None is not decided yet.

    `data` is "" where there are `unlabelled` photos alone.
    """

    command: Command
    data: str
    val_data: str | None = _data(
        None, "Shards to validate with, where their index does not say.", "SHARDS", after="weights"
    )
    model: str = _data(
        MISSING, "Variant (see `resnest models`); finetune: or a checkpoint.", "-m MODEL", env=True
    )
    weights: str | None = _data(None, "finetune: other weights for the named variant.", "PATH|URL")
    recipe: str
    classes: int | None = _data(
        None, "How many classes you expect; another number is an error.", "[1, inf)"
    )
    class_names: str | None = _data(None, "Readable names of the folders: lines id,name.", "FILE")
    split_names: str | None = _reading("split_names")
    path_column: str | None = _reading("path_column")
    label_column: str | None = _reading("label_column")
    split_column: str | None = _reading("split_column")
    group_column: str | None = _data(
        None, "Of a table: photos with the same value there never lie on both sides.", "NAME"
    )
    base_folder: str | None = _reading("base_folder")
    extension: str | None = _reading("extension")
    multi_label: bool | None = _reading("multi_label")
    exclude: str | None = _reading("exclude")
    exclude_kinds: str | None = _reading("exclude_kinds")
    val_split: float = _data(
        0.2, "Share of each class that validates, where the data have no split (0.2).", "(0, 1)"
    )
    folds: int | None = _data(
        None,
        "Few photos: hold out each of K parts once, say how good that is, then train on all.",
        "K [2, 20]",
    )
    balanced: bool = _data(False, "Draw every class equally often.")
    class_weights: str = _data(
        "none",
        "In the loss: none, balanced, or a file id,weight; several labels: of present ones.",
        "WHAT",
    )
    in_chans: int | None = _photos(
        None,
        "Channels of photos: 3, or 1 for grey ones; unless said as the weights have.",
        "N [1, inf)",
    )
    img_size: int | None = _photos(None, "Side of the network's input in pixels.", "[8, 8192]")
    train_size: int | None = _photos(
        None, "Side while training, where other than --img-size.", "[8, 8192]"
    )
    start_size: int | None = _photos(
        None, "Side in the first epochs; grows to the training size.", "[8, 8192]"
    )
    crop_pct: float | None = _photos(
        None, "Validation: share of the resized shorter side that is kept.", "(0, 1]"
    )
    interpolation: Literal["bilinear", "bicubic"] | None = _photos(None, "How photos are resized.")
    scale: float = _photos(0.08, "Least share of a photo's area that a crop keeps.", "(0, 1]")
    ratio: float = _photos(4 / 3, "Crops are from 1/X to X times as wide as high.", "[1, 100]")
    hflip: float = _photos(0.5, "Probability to mirror a photo.", "[0, 1]")
    color_jitter: float = _photos(0.0, "Strength of changes in colour.", "[0, 1]")
    aa: str = _photos(
        "none",
        "none, auto (AutoAugment), trivial (TrivialAugment), or such as rand-m9-n2 (RandAugment).",
        "POLICY",
        check=(
            lambda text: parse_aa(text) is not None,
            'none, auto, trivial, or such as "rand-m9-n2"',
        ),
    )
    aug_repeats: int = _photos(
        1, "Repeated augmentation: each photo N times, of 1/N of the photos.", "[1, 100]"
    )
    reprob: float = _photos(0.0, "Probability to erase a rectangle.", "[0, 1]")
    mixup: float = _photos(0.0, "Mixup's alpha; 0 is off.", "[0, inf)")
    cutmix: float = _photos(0.0, "Cutmix's alpha; 0 is off.", "[0, inf)")
    epochs: int | None = _learning(None, "How often each photo is seen.", "[1, inf)")
    batch_size: int | None = _learning(
        None, "Photos in a batch, of each device.", "-b [1, 1048576]", env=True
    )
    grad_accum_steps: int = _learning(1, "Batches whose gradient makes one step.", "[1, 65536]")
    opt: Literal["sgd", "adamw", "lamb"] = _learning("sgd", "Optimiser.")
    lr: float | None = _rate(None, "Peak learning rate.", "(0, inf)")
    lr_base: float = _rate(
        0.1, "SGD without --lr: learning rate for 256 photos a step.", "(0, inf)"
    )
    momentum: float = _learning(0.9, "Of SGD.", "[0, 1)")
    weight_decay: float = _loss(1e-4, "Not on norms and biases.", "[0, inf)")
    layer_decay: float = _rate(
        1.0, "Learning rate of a block as a share of the next one's; 1 is off.", "(0, 1]"
    )
    sched: Literal["cosine", "step", "onecycle", "constant"] = _rate(
        "cosine", "Learning rate after warm-up; onecycle has its own rise."
    )
    warmup_epochs: float = _rate(0.0, "Epochs of linear warm-up.", "[0, inf)")
    min_lr: float = _rate(0.0, "Share of the peak at the end.", "[0, 1]")
    decay_epochs: float | None = _rate(None, "Of --sched step: epochs of a step.", "(0, inf)")
    decay_rate: float = _rate(0.1, "Of --sched step: times X at each.", "(0, 1]")
    clip_grad: float = _loss(0.0, "Largest norm of the gradient; 0 is off.", "[0, inf)")
    bce_loss: bool = _loss(False, "Binary cross entropy: each class by itself.")
    bce_target_thresh: float = _loss(
        0.0, "Of --bce-loss: targets above X count as 1; 0 is off.", "[0, 1)"
    )
    asl: bool = _loss(
        False, "Several labels: asymmetric loss (arXiv 2009.14119), not binary cross entropy."
    )
    asl_gamma_neg: float = _loss(
        4.0, "Of --asl: how little easy labels count that a photo does not have (4).", "[0, 20]"
    )
    asl_gamma_pos: float = _loss(1.0, "Of --asl: the same of those it has (1).", "[0, 20]")
    asl_margin: float = _loss(
        0.05, "Of --asl: probabilities of absent labels up to X count as 0 (0.05).", "[0, 1)"
    )
    min_precision: float | None = _loss(
        None,
        "Several labels: thresholds have this precision in validation, not the largest F1.",
        "(0, 1]",
    )
    smoothing: float = _loss(0.0, "Label smoothing.", "[0, 1)")
    drop: float = _loss(0.0, "Dropout before the classifier.", "[0, 1)")
    drop_path: float = _loss(0.0, "Stochastic depth of the last block.", "[0, 1)")
    drop_block: float = _loss(0.0, "DropBlock in the last two stages.", "[0, 1)")
    model_ema: bool = _learning(False, "Keep a moving average of the weights, too.")
    model_ema_decay: float = _learning(0.9998, "Of the moving average.", "[0, 1)")
    patience: int = _learning(
        0, "Stop after N epochs without a better one (top-1, then loss); 0 is off.", "[0, inf)"
    )
    freeze: str = _learning(
        "auto",
        "auto, none, backbone, or stages:N (stem and N of 4 stages).",
        "WHAT",
        check=(_FREEZE.__contains__, "auto, none, backbone, or stages:N with N from 0 to 4"),
    )
    unfreeze_every: int = _learning(
        0, "finetune: first the classifier alone, a stage more every N epochs.", "[0, inf)"
    )
    teacher: str | None = _teacher(
        None,
        "Learn from this network's answers, too: anything that --model takes, or a classifier as "
        ".onnx.",
        "MODEL",
    )
    teacher_weight: float = _teacher(
        0.5,
        "Share of the loss that compares with the teacher's answers (0.5); labels have the rest.",
        "(0, 1]",
    )
    teacher_temperature: float = _teacher(
        4.0, "Softens the answers of both: logits are divided by it (4).", "[1, 20]"
    )
    teacher_labels: str | None = _teacher(
        None, "The teacher's classes in order, an id or a name on each line.", "FILE"
    )
    teacher_size: int | None = _teacher(
        None, "Side of the teacher's input in pixels, where its file does not say.", "[8, 8192]"
    )
    teacher_mean: str | None = _teacher(
        None, "What it subtracts from pixels in [0, 1], likewise.", "R,G,B", check=_CHANNELS
    )
    teacher_std: str | None = _teacher(
        None, "What it divides them by then, likewise.", "R,G,B", check=_CHANNELS
    )
    teacher_classes: bool = _teacher(
        False, "Answer with all classes of the teacher, in its order, not with those of the data."
    )
    teacher_crops: int = _teacher(
        0,
        "Keep the teacher's answers for N crops of each photo on disk, and train on these crops; "
        "0 asks it anew for every crop.",
        "[0, 1000]",
    )
    unlabelled: str | None = _teacher(
        None, "A folder of more photos, which the teacher alone labels.", "DIR"
    )
    trust_onnx: bool = _teacher(
        False, "Run a teacher's .onnx unlike those of `resnest export`, if you trust it."
    )
    device: str = _machine("auto", "Where the network runs.", "auto|cpu|cuda|cuda:1|mps", env=True)
    devices: int = _machine(
        1,
        "Devices of this machine to train on, a process for each; more machines: torchrun.",
        "[1, 65536]",
    )
    sync_bn: bool = _machine(False, "GPUs: batch norms see the batches of all devices.")
    amp: Literal["off", "float16", "bfloat16"] = _machine("off", "Mixed precision.")
    channels_last: bool | None = _machine(None, "Memory format; where it is faster unless said.")
    workers: int | None = _machine(None, "Processes that load photos; 0 for none.", "-j [0, 256]")
    cache: bool = _machine(False, "Keep decoded photos in memory: 4 bytes a pixel.")
    seed: int = _machine(0, "Random seed; the same seed repeats the run.", f"[0, {2**63})")
    save_every: float = _machine(
        300.0, "Seconds between states saved within an epoch; 0 is off (300).", "[0, inf)"
    )
    keep_epochs: int = _machine(
        0, "Keep the weights of the last N epochs, for `resnest average`.", "[0, inf)"
    )
    time_budget: str | None = _machine(
        None,
        "End in time, such as 30m or 2h: fewer epochs, state saved.",
        "TIME",
        check=(parse_duration, "a time such as 90s, 30m, 2h or 1h30m"),
    )
    tensorboard: bool = _machine(False, "Write TensorBoard's files (extra: tensorboard).")

    @property
    def cached(self) -> bool:
        """Of resolved settings: whether the backbone's features are computed once, and kept."""
        return self.freeze == "backbone" and self.device == "cpu"

    @property
    def grey(self) -> bool:
        """Of resolved settings: whether the network sees photos in grey, of one channel."""
        return self.in_chans == 1

    @property
    def reading(self) -> Reading:
        """How the data are read, where they cannot say so themselves."""
        return Reading(**{name: getattr(self, name) for name in settings_of(Reading)})


_SETTINGS = settings_of(Config)


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What a command line asks for; `flags` are the settings given there, by `Config`'s names.

    `began` is when the program did, monotonic, for the time budget.
    """

    data: str | None = setting(
        None,
        "A folder of class folders (or with train/ and val/ in it), a table: path,label, or tar "
        "shards: a folder of `resnest pack`, or a quoted pattern.",
        "DATA",
        argument=True,
    )
    data_option: str | None = setting(None, "The same as DATA.", "--data DATA")
    recipe: str | None = setting(
        None,
        "Where settings that are not given come from: finetune, finetune-small, finetune-middle, "
        "finetune-large; quick, tiny, paper, a1, a2, a3.",
        "NAME",
    )
    config: Path | None = setting(None, "Settings as TOML, such as a run's args.toml.", "FILE")
    output: Path = setting(Path("runs"), "The folder of run folders.", "-o DIR")
    run: str | None = setting(None, "The run's name; with --resume which one (newest).", "NAME")
    resume: bool = setting(
        False, "Go on with an interrupted run; give DATA only if they were moved."
    )
    dry_run: bool = setting(False, "Check data and settings, tell the plan, and stop.")
    find_lr: bool = setting(False, "Look for a learning rate, draw lr_finder.png, and stop.")
    command: Command = "train"
    flags: Mapping[str, Any] = field(default_factory=dict)
    access: Access = field(default_factory=Access)
    began: float = field(default_factory=time.monotonic)

    @property
    def base(self) -> Path:
        """Where this command's runs lie."""
        return self.output / self.command


def checked(where: str, key: str, value: Any) -> Any:
    """The value of a setting, which `where` names: a file, a recipe or the flag.

    A whole number becomes a float where any number serves. UsageError says what does not fit.
    """
    if key not in _SETTINGS:
        hint = did_you_mean(key.replace("-", "_"), _SETTINGS, 1)
        raise UsageError(f"{where}: unknown setting {key!r}.{hint}")
    known = _SETTINGS[key]
    if (words := known.refused(value)) is not None:
        if where.startswith("--"):
            raise UsageError(f"{where}: {value} is not {words}.")
        raise UsageError(f"{where}: {key} must be {words}, not {value!r}.")
    return float(value) if known.kind is float else value


def given_settings(job: TrainingJob) -> dict[str, Any]:
    """What a command line names itself, in its `--config` file or beside it, each value checked."""
    command, where = job.command, str(job.config)
    file = _read(job.config) if job.config is not None else {}
    if file.get("command", command) != command:
        raise UsageError(f"{where} is of `resnest {file['command']}`, not {command}.")
    given = {key: checked(where, key, value) for key, value in file.items()}
    given |= {key: checked(flag_of(key), key, value) for key, value in job.flags.items()}
    words = {"recipe": job.recipe, "data": job.data}
    return given | {key: value for key, value in words.items() if value is not None}


def load_settings(job: TrainingJob) -> Config:
    """The settings that a command line asks for; what is not decided stays None."""
    command, given = job.command, given_settings(job)
    name = given.get("recipe", DEFAULT_RECIPES[command])
    settings: dict[str, Any] = {"command": command, "model": DEFAULT_MODEL}
    known = _recipe(name)
    known.pop("needs")
    tables = {key: known.pop(key, {}) for key in ("optimizers", "variants")}
    settings |= {key: checked(f"the recipe {name}", key, value) for key, value in known.items()}
    settings |= given | {"recipe": name}
    # What the recipe says of the optimiser and the variant that were chosen, in its tables; its
    # warm-up is kept to a quarter of the epochs that were asked for.
    variant = find_named(settings["model"])
    own = dict(tables["optimizers"].get(settings.get("opt", ""), {}))
    own |= tables["variants"].get(variant.id, {}) if variant is not None else {}
    if "epochs" in settings and "warmup_epochs" in settings:
        own["warmup_epochs"] = min(settings["warmup_epochs"], settings["epochs"] / 4)
    settings |= {key: value for key, value in own.items() if key not in given}
    if "data" not in settings:
        if not (settings.get("unlabelled") and settings.get("teacher_classes")):
            raise UsageError(
                f"name the DATA: resnest {command} FOLDER. Photos without labels alone do with "
                "--unlabelled DIR --teacher MODEL --teacher-classes."
            )
        settings["data"] = ""
    for name in ("unlabelled", "teacher_classes"):
        if settings.get(name) and not settings.get("teacher"):
            raise UsageError(f"{flag_of(name)} needs a --teacher: name one, or leave it out.")
    if command == "train" and settings.get("weights"):
        raise UsageError("--weights: train starts from nothing; use `resnest finetune`.")
    return Config(**settings)


def _recipe(name: str) -> dict[str, Any]:
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES, 1) or f" There are {', '.join(RECIPES)}."
        raise UsageError(f"unknown recipe {name!r}.{hint} A file of your own goes to --config.")
    path = resources.files("resnest_cli.training").joinpath("recipes", f"{name}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def needs(name: str) -> str:
    """What a recipe says that it needs: data, devices, time."""
    return str(_recipe(name)["needs"])


def _read(path: Path) -> dict[str, Any]:
    with reading(path, UsageError):
        # Surrogate escapes: a folder's name may be bytes that are not UTF-8.
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path}: is not TOML: {reason}.") from error
    for key, value in found.items():  # not shown: they may be nested however deep
        if isinstance(value, dict | list):
            kind = "a table" if isinstance(value, dict) else "an array"
            raise UsageError(f"{path}: {key} is {kind}; settings are lines NAME = VALUE.")
    return found


def write_args(path: Path, config: Config) -> None:
    """Writes every setting that is decided; `load_settings(config=path)` reads them back."""
    import tomli_w

    record = {name: value for name, value in asdict(config).items() if value not in {None, ""}}
    head = f"# Repeats this run: resnest {config.command} --config args.toml\n"
    with writing(path):
        write_text(path, head + tomli_w.dumps(record))
