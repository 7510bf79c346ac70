"""Settings from recipes, files and flags, checked and resolved.

defaults < recipe (a TOML of the package) < `--config` file < flags. `args.toml` is a config file
with every setting in it.
"""

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import write_text
from resnest_cli.model.variants import DEFAULT_MODEL, Preprocessing, find_variant
from resnest_cli.training.config import Command, Config
from resnest_cli.training.policies import parse_aa

DEFAULT_RECIPES = {"train": "quick", "finetune": "finetune"}
RECIPES = ("finetune", "quick", "paper")

Check = tuple[type | tuple[type, ...], Callable[[Any], bool], str]

_NUMBER = (int, float)


def _choice(*values: str) -> Check:
    return str, lambda value: value in values, "one of " + ", ".join(values)


def _share(most: str = "[0, 1]") -> Check:
    if most == "[0, 1)":
        return _NUMBER, lambda value: 0 <= value < 1, "a number in [0, 1)"
    if most == "(0, 1]":
        return _NUMBER, lambda value: 0 < value <= 1, "a number in (0, 1]"
    if most == "(0, 1)":
        return _NUMBER, lambda value: 0 < value < 1, "a number in (0, 1)"
    return _NUMBER, lambda value: 0 <= value <= 1, "a number in [0, 1]"


def _whole(least: int, most: int = 10**9) -> Check:
    return int, lambda value: least <= value <= most, f"a whole number from {least}"


_AT_LEAST_0: Check = _NUMBER, lambda value: 0 <= value < math.inf, "a number, 0 or more"
_ABOVE_0: Check = _NUMBER, lambda value: 0 < value < math.inf, "a number above 0"
_TEXT: Check = str, bool, "a text"
_BOOL: Check = bool, lambda _: True, "true or false"

_CHECKS: dict[str, Check] = {
    "command": _choice("train", "finetune"),
    "data": _TEXT,
    "model": _TEXT,
    "weights": _TEXT,
    "recipe": _TEXT,
    "classes": _whole(1),
    "class_names": _TEXT,
    "val_split": _share("(0, 1)"),
    "img_size": _whole(8, 8192),
    "crop_pct": _share("(0, 1]"),
    "interpolation": _choice("bilinear", "bicubic"),
    "scale": _share("(0, 1]"),
    "ratio": (_NUMBER, lambda value: 1 <= value <= 100, "a number from 1 to 100"),
    "hflip": _share(),
    "color_jitter": _share(),
    "aa": (str, lambda value: parse_aa(value) is not None, 'none, auto, or such as "rand-m9-n2"'),
    "reprob": _share(),
    "mixup": _AT_LEAST_0,
    "cutmix": _AT_LEAST_0,
    "balanced": _BOOL,
    "epochs": _whole(1),
    "batch_size": _whole(1, 1 << 20),
    "opt": _choice("sgd", "adamw"),
    "lr": _ABOVE_0,
    "lr_base": _ABOVE_0,
    "momentum": _share("[0, 1)"),
    "weight_decay": _AT_LEAST_0,
    "sched": _choice("cosine", "constant"),
    "warmup_epochs": _AT_LEAST_0,
    "min_lr": _share(),
    "clip_grad": _AT_LEAST_0,
    "smoothing": _share("[0, 1)"),
    "drop": _share("[0, 1)"),
    "drop_path": _share("[0, 1)"),
    "drop_block": _share("[0, 1)"),
    "model_ema": _BOOL,
    "model_ema_decay": _share("[0, 1)"),
    "patience": _whole(0),
    "freeze": (
        str,
        lambda value: value in {"auto", "none", "backbone", *(f"stages:{n}" for n in range(5))},
        "auto, none, backbone, or stages:N with N from 0 to 4",
    ),
    "device": _TEXT,
    "amp": _choice("off", "float16", "bfloat16"),
    "channels_last": _BOOL,
    "workers": _whole(0, 256),
    "seed": (int, lambda value: 0 <= value < 2**63, "a whole number from 0"),
    "save_every": _AT_LEAST_0,
}


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
    name = recipe or _checked(where, "recipe", file.get("recipe", DEFAULT_RECIPES[command]))
    settings: dict[str, Any] = {"command": command, "model": DEFAULT_MODEL}
    known = _recipe(name)
    tables = {key: known.pop(key, {}) for key in ("optimizers", "variants")}
    settings |= _all_checked(f"the recipe {name}", known)
    settings |= _all_checked(where, file)
    settings |= {key: _checked(_flag(key), key, value) for key, value in given.items()}
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


def _read(path: Path) -> dict[str, Any]:
    try:
        # Surrogate escapes: a folder's name may be bytes that are not UTF-8.
        return tomllib.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not TOML: {error}.") from error


def _all_checked(where: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _checked(where, key, value) for key, value in settings.items()}


def _checked(where: str, key: str, value: Any) -> Any:
    if key not in _CHECKS:
        near = difflib.get_close_matches(key.replace("-", "_"), _CHECKS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"{where}: unknown setting {key!r}.{hint}")
    kind, fits, words = _CHECKS[key]
    wrong = isinstance(value, bool) and kind is not bool
    if wrong or not isinstance(value, kind) or not fits(value):
        shown = where if where.startswith("--") else f"{where}: {key}"
        raise UsageError(f"{shown} must be {words}, not {value!r}.")
    return float(value) if kind is _NUMBER and isinstance(value, int) else value


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


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
    if freeze == "auto":
        freeze = "backbone" if config.command == "finetune" and kind == "cpu" else "none"
    cached = freeze == "backbone" and kind == "cpu"
    if config.command == "train" and freeze == "backbone":
        raise UsageError(
            "--freeze backbone: train starts from nothing, so there is nothing to keep."
        )
    batch = config.batch_size or _batch_size(photos, cached)
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
        "freeze": freeze,
        "device": device,
        "img_size": preprocessing.size,
        "crop_pct": preprocessing.crop_pct,
        "interpolation": preprocessing.interpolation,
        "workers": default_workers(device) if config.workers is None else config.workers,
    }
    if cached:  # nothing that needs pixels, or the network's depth, acts on cached features
        changes |= {"aa": "none", "color_jitter": 0.0, "reprob": 0.0, "mixup": 0.0, "cutmix": 0.0}
        changes |= {"scale": 1.0, "ratio": 1.0, "drop_path": 0.0, "drop_block": 0.0}
        changes |= {"channels_last": False, "amp": "off", "workers": 0}
    elif config.channels_last is None:
        changes["channels_last"] = channels_last_pays(preprocessing.size, device, config.amp)
    return replace(config, **changes)


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
        return config.lr_base * batch / 256
    if cached or freeze == "backbone":
        return 0.003
    return 3e-4 if config.command == "finetune" else 1e-3


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


assert set(_CHECKS) == {f.name for f in fields(Config)}
assert all(f.default is not MISSING or f.name in {"command", "data", "model", "recipe"}
           for f in fields(Config))  # fmt: skip
