"""What each setting may be, whether it comes from a recipe, a file or a flag."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from resnest_cli.errors import UsageError
from resnest_cli.training.budget import parse_duration
from resnest_cli.training.config import Config
from resnest_cli.training.policies import parse_aa

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
    "val_data": _TEXT,
    "model": _TEXT,
    "weights": _TEXT,
    "recipe": _TEXT,
    "classes": _whole(1),
    "class_names": _TEXT,
    "split_names": _TEXT,
    "path_column": _TEXT,
    "label_column": _TEXT,
    "split_column": _TEXT,
    "base_folder": _TEXT,
    "extension": _TEXT,
    "val_split": _share("(0, 1)"),
    "balanced": _BOOL,
    "class_weights": _TEXT,
    "img_size": _whole(8, 8192),
    "train_size": _whole(8, 8192),
    "start_size": _whole(8, 8192),
    "crop_pct": _share("(0, 1]"),
    "interpolation": _choice("bilinear", "bicubic"),
    "scale": _share("(0, 1]"),
    "ratio": (_NUMBER, lambda value: 1 <= value <= 100, "a number from 1 to 100"),
    "hflip": _share(),
    "color_jitter": _share(),
    "aa": (
        str,
        lambda value: parse_aa(value) is not None,
        'none, auto, trivial, or such as "rand-m9-n2"',
    ),
    "aug_repeats": _whole(1, 100),
    "reprob": _share(),
    "mixup": _AT_LEAST_0,
    "cutmix": _AT_LEAST_0,
    "epochs": _whole(1),
    "batch_size": _whole(1, 1 << 20),
    "grad_accum_steps": _whole(1, 1 << 16),
    "opt": _choice("sgd", "adamw", "lamb"),
    "lr": _ABOVE_0,
    "lr_base": _ABOVE_0,
    "momentum": _share("[0, 1)"),
    "weight_decay": _AT_LEAST_0,
    "layer_decay": _share("(0, 1]"),
    "sched": _choice("cosine", "step", "onecycle", "constant"),
    "warmup_epochs": _AT_LEAST_0,
    "min_lr": _share(),
    "decay_epochs": _ABOVE_0,
    "decay_rate": _share("(0, 1]"),
    "clip_grad": _AT_LEAST_0,
    "bce_loss": _BOOL,
    "bce_target_thresh": _share("[0, 1)"),
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
    "unfreeze_every": _whole(0),
    "device": _TEXT,
    "devices": _whole(1, 1 << 16),
    "sync_bn": _BOOL,
    "amp": _choice("off", "float16", "bfloat16"),
    "channels_last": _BOOL,
    "workers": _whole(0, 256),
    "cache": _BOOL,
    "seed": (int, lambda value: 0 <= value < 2**63, "a whole number from 0"),
    "save_every": _AT_LEAST_0,
    "keep_epochs": _whole(0),
    "time_budget": (
        str,
        lambda value: parse_duration(value) is not None,
        "a time such as 90s, 30m, 2h or 1h30m",
    ),
    "tensorboard": _BOOL,
}


def checked_all(where: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All of them by `checked`."""
    return {key: checked(where, key, value) for key, value in settings.items()}


def checked(where: str, key: str, value: Any) -> Any:
    """The value of a setting, a whole number as float where any number serves.

    `where` names the file, the recipe or the flag that it comes from.

    Raises:
        UsageError: no such setting, a value of the wrong type or out of range.
    """
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


def flag(key: str) -> str:
    """The option of a setting: "weight_decay" -> "--weight-decay"."""
    return "--" + key.replace("_", "-")


assert set(_CHECKS) == {f.name for f in fields(Config)}
assert all(f.default is not MISSING or f.name in {"command", "data", "model", "recipe"}
           for f in fields(Config))  # fmt: skip
