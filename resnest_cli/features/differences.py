"""What differs between two descriptions of a run, in words."""

from typing import Any

_NAMES = {
    "weights_sha256": "weights",
    "extraction.pool": "--pool",
    "extraction.stage": "--stage",
    "extraction.head": "--head",
    "extraction.dtype": "--dtype",
    "extraction.normalize": "--normalize",
    "engine.batch_size": "--batch-size",
    "engine.engine": "engine",
    "engine.device": "processor",
    "preprocessing.size": "image size",
    "preprocessing.crop_pct": "--crop-pct",
    "preprocessing.interpolation": "--interpolation",
    "preprocessing.crop_mode": "--crop-mode",
    "preprocessing.exif": "--exif",
    "preprocessing.fast_decode": "--fast-decode",
    "preprocessing.gpu_decode": "--gpu-decode",
    "shard": "--shard",
    "list": "list of inputs",
    "list.sha256": "list of inputs",
}
_HASH = 64  # characters


def differences(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Each value that is not the same, as `name: then, now`; empty where all are."""
    old, new = _flat(then), _flat(now)
    found = []
    for key in old | new:
        if old.get(key) != new.get(key):
            name = _NAMES.get(key, key.removeprefix("preprocessing.").replace("_", " "))
            found.append(f"{name} {_short(old.get(key))} there, {_short(new.get(key))} here")
    return "; ".join(found)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if prefix + key == "shard" and value is not None:
            flat[key] = f"{value.get('index', 'one')}/{value['count']}"
        elif isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str) and len(value) == _HASH:
        return value[:8]
    return str(value)
