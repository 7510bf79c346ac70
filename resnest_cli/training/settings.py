"""Settings from recipes, files and flags, checked and resolved.

defaults < recipe (a TOML of the package) < `--config` file < flags. `args.toml` is a config file
with every setting in it.
"""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import write_text
from resnest_cli.model.variants import DEFAULT_MODEL, Preprocessing, find_variant
from resnest_cli.shards.finding import is_shards
from resnest_cli.training.checks import checked, checked_all, flag
from resnest_cli.training.config import Command, Config

DEFAULT_RECIPES = {"train": "quick", "finetune": "finetune"}
RECIPES = (
    "finetune", "finetune-small", "finetune-middle", "finetune-large", "quick", "tiny", "paper",
    "a1", "a2", "a3",
)  # fmt: skip


def load_settings(
    command: Command,
    *,
    data: str | None,
    recipe: str | None,
    config: Path | None,
    flags: Mapping[str, Any],
) -> Config:
    """The settings that a command line asks for; what is not decided stays None.

    Flags that are None were not given.

    Raises:
        UsageError: no data, an unknown recipe or key, a value of the wrong type or out of range;
            names the file and the key.
    """
    file = _read(config) if config is not None else {}
    where = str(config)
    if file.get("command", command) != command:
        raise UsageError(f"{where} is of `resnest {file['command']}`, not {command}.")
    given = {name: value for name, value in flags.items() if value is not None}
    name = recipe or checked(where, "recipe", file.get("recipe", DEFAULT_RECIPES[command]))
    settings: dict[str, Any] = {"command": command, "model": DEFAULT_MODEL}
    known = _recipe(name)
    known.pop("needs")
    tables = {key: known.pop(key, {}) for key in ("optimizers", "variants")}
    settings |= checked_all(f"the recipe {name}", known)
    settings |= checked_all(where, file)
    settings |= {key: checked(flag(key), key, value) for key, value in given.items()}
    settings["recipe"] = name
    own = _fitted(settings, tables)
    settings |= {key: value for key, value in own.items() if key not in file | given}
    if data is not None:
        settings["data"] = data
    if "data" not in settings:
        raise UsageError(f"name the DATA: resnest {command} FOLDER")
    if command == "train" and settings.get("weights"):
        raise UsageError("--weights: train starts from nothing; use `resnest finetune`.")
    return Config(**settings)


def _fitted(settings: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a recipe says for the optimiser and the variant that were chosen, in its tables.

    Its warm-up is also kept to a quarter of the epochs that were asked for.
    """
    variant = find_variant(settings["model"])
    own = dict(tables["optimizers"].get(settings.get("opt", ""), {}))
    own |= tables["variants"].get(variant.id, {}) if variant is not None else {}
    if "epochs" in settings and "warmup_epochs" in settings:
        own["warmup_epochs"] = min(settings["warmup_epochs"], settings["epochs"] / 4)
    return own


def _recipe(name: str) -> dict[str, Any]:
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {near[0]}?" if near else f" There are {', '.join(RECIPES)}."
        raise UsageError(f"unknown recipe {name!r}.{hint} A file of your own goes to --config.")
    path = resources.files("resnest_cli.training").joinpath("recipes", f"{name}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def needs(name: str) -> str:
    """What a recipe says that it needs: data, devices, time."""
    return str(_recipe(name)["needs"])


def named(config: Path) -> set[str]:
    """The settings that a `--config` file has."""
    return set(_read(config))


def _read(path: Path) -> dict[str, Any]:
    try:
        # Surrogate escapes: a folder's name may be bytes that are not UTF-8.
        found = tomllib.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path}: is not TOML: {reason}.") from error
    for key, value in found.items():  # not shown: they may be nested however deep
        if isinstance(value, dict | list):
            kind = "a table" if isinstance(value, dict) else "an array"
            raise UsageError(f"{path}: {key} is {kind}; settings are lines NAME = VALUE.")
    return found


def resolve(
    config: Config,
    *,
    photos: int,
    preprocessing: Preprocessing,
    device: str,
) -> Config:
    """Decides what is still None, from the number of training photos and the device.

    Raises:
        UsageError: mixed precision that the device does not have; a warm-up that never ends.
    """
    from resnest_cli.training.loader import default_workers
    from resnest_cli.training.plan import channels_last_pays

    kind = device.partition(":")[0]
    if config.amp == "float16" and kind == "cpu":
        raise UsageError("--amp float16 needs a GPU; on a CPU use --amp bfloat16, or off.")
    freeze = config.freeze
    if freeze == "auto" and config.unfreeze_every:
        freeze = "none"
    if freeze == "auto":
        freeze = "backbone" if config.command == "finetune" and kind == "cpu" else "none"
    cached = freeze == "backbone" and kind == "cpu"
    if config.command == "train" and freeze == "backbone":
        raise UsageError(
            "--freeze backbone: train starts from nothing, so there is nothing to keep."
        )
    _check_together(config, freeze)
    _check_devices(config, kind, cached)
    batch = config.batch_size or _batch_size(photos // config.devices, cached)
    epochs = config.epochs or _epochs(photos, config, cached)
    if config.warmup_epochs >= epochs:
        raise UsageError(
            f"--warmup-epochs {config.warmup_epochs:g} leaves nothing of {epochs} epoch(s): lower "
            "it, or raise --epochs."
        )
    lr = config.lr or _learning_rate(config, batch, freeze, cached)
    changes: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch,
        "lr": lr,
        "decay_epochs": _decay_epochs(config, epochs),
        "freeze": freeze,
        "device": device,
        "img_size": preprocessing.size,
        "crop_pct": preprocessing.crop_pct,
        "interpolation": preprocessing.interpolation,
        "workers": default_workers(device) if config.workers is None else config.workers,
    }
    if cached:
        changes |= _NOT_CACHED
    elif config.channels_last is None:
        changes["channels_last"] = channels_last_pays(device, config.amp)
    return replace(config, **changes)


def _check_together(config: Config, freeze: str) -> None:
    """Raises UsageError for settings that contradict each other."""
    if config.unfreeze_every and config.command == "train":
        raise UsageError("--unfreeze-every: train starts from nothing, so nothing is frozen.")
    if config.unfreeze_every and freeze == "backbone":
        raise UsageError(
            "--unfreeze-every with --freeze backbone: leave out --freeze, or name what stays "
            "frozen for good with --freeze stages:N."
        )
    if config.balanced and config.class_weights == "balanced":
        raise UsageError(
            "--balanced draws rare classes more often already; with --class-weights balanced they "
            "would count twice. Leave out one of the two."
        )


def _check_devices(config: Config, kind: str, cached: bool) -> None:
    """Raises UsageError for what does not work on several devices, or needs GPUs."""
    if config.sync_bn and kind != "cuda":
        raise UsageError("--sync-bn needs GPUs: torch's SyncBatchNorm computes nowhere else.")
    if config.devices > 1 and cached:
        raise UsageError(
            f"{config.devices} devices: on CPUs the frozen backbone's features are computed once, "
            "and the rest takes seconds on one. Leave out --devices, or train more of the network: "
            "--freeze none, or stages:N."
        )


def _decay_epochs(config: Config, epochs: int) -> float | None:
    """A third of the run, unless said."""
    return config.decay_epochs or epochs / 3 if config.sched == "step" else None


def _batch_size(photos: int, cached: bool) -> int:
    """A power of two that gives small data a few steps an epoch."""
    most = 256 if cached else 64
    least = 16 if cached else 8
    wanted = max(least, photos // 16)
    return int(min(most, 2 ** round(math.log2(wanted))))


def _epochs(photos: int, config: Config, cached: bool) -> int:
    """Enough steps for little data, few epochs for much."""
    if cached:
        return 60
    if config.command == "finetune":
        return max(5, min(30, round(30_000 / max(1, photos))))
    return max(15, min(100, round(300_000 / max(1, photos))))


def _learning_rate(config: Config, batch: int, freeze: str, cached: bool) -> float:
    if config.opt == "sgd":
        return config.lr_base * batch * config.grad_accum_steps * config.devices / 256
    if config.opt == "lamb":
        return 0.005
    if cached or freeze == "backbone":
        return 0.003
    return 3e-4 if config.command == "finetune" else 1e-3


# What acts on pixels, on the network's depth or on how photos are loaded: nothing of it is left
# where features are computed once.
_NOT_CACHED: dict[str, Any] = {
    "aa": "none", "color_jitter": 0.0, "reprob": 0.0, "mixup": 0.0, "cutmix": 0.0, "scale": 1.0,
    "ratio": 1.0, "train_size": None, "start_size": None, "drop_path": 0.0, "drop_block": 0.0,
    "channels_last": False, "amp": "off", "workers": 0, "cache": False, "aug_repeats": 1,
    "layer_decay": 1.0,
}  # fmt: skip


def without_effect(given: Mapping[str, Any], config: Config) -> list[str]:
    """Sentences about settings that were given but do not act with the others, resolved.

    `given` are the flags; None is not given.
    """
    why: dict[str, str] = {}
    if config.freeze == "backbone" and config.device == "cpu":
        reason = "the frozen backbone's features are computed once; --freeze none lets it act"
        why |= {key: reason for key, off in _NOT_CACHED.items() if given.get(key, off) != off}
    if is_shards(config.data):
        why["val_split"] = "shards have a split of their own"
    if config.opt != "sgd":
        why |= dict.fromkeys(("momentum", "lr_base"), "it is for --opt sgd")
    elif given.get("lr") is not None:
        why["lr_base"] = "--lr is given"
    if config.devices == 1:
        why["sync_bn"] = "there is one device"
    if not config.model_ema:
        why["model_ema_decay"] = "there is no --model-ema"
    if config.sched in {"constant", "onecycle"}:
        why["min_lr"] = f"the schedule is {config.sched}"
    if config.sched == "onecycle":
        why["warmup_epochs"] = "one cycle has a rise of its own"
    if config.sched != "step":
        why |= dict.fromkeys(("decay_epochs", "decay_rate"), "it is for --sched step")
    if not config.bce_loss:
        why["bce_target_thresh"] = "it is for --bce-loss"
    elif config.bce_target_thresh and not (config.mixup or config.cutmix):
        why["smoothing"] = "--bce-target-thresh makes targets 0 or 1 again"
    return [
        f"{flag(key)} does nothing here: {reason}."
        for key, reason in why.items()
        if given.get(key) is not None
    ]


def write_args(path: Path, config: Config) -> None:
    """Writes every setting that is not None; `load_settings(config=path)` reads them back.

    Raises:
        ResnestError: the file cannot be written.
    """
    import tomli_w

    record = {name: value for name, value in asdict(config).items() if value is not None}
    head = f"# Repeats this run: resnest {config.command} --config args.toml\n"
    try:
        write_text(path, head + tomli_w.dumps(record))
    except OSError as error:
        raise ResnestError(f"{path}: cannot be written: {error.strerror or error}.") from error


def differences(old: Config, new: Config) -> list[str]:
    """What differs, as "lr: 0.1 there, 0.2 now"."""
    pairs = [(f.name, getattr(old, f.name), getattr(new, f.name)) for f in fields(Config)]
    return [f"{name}: {one} there, {two} now" for name, one, two in pairs if one != two]
