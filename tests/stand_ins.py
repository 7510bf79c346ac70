"""What stands in for published weights, which cannot be fetched here: those of a tiny network.

The bundled model and files are themselves; all other names are `tiny.safetensors` in the present
folder.
"""

from pathlib import Path
from typing import Any

from resnest_cli.model import loading, weights
from resnest_cli.model.variants import Variant

_find_model, _ensure = loading.find_model, weights.ensure


def find_model(name: str, *, source: object = None, **how: Any) -> Any:
    loading.understand(name)
    how.pop("trust_onnx", None)
    itself = name in {"demo", "resnest14t", "resnest23t"} or (
        Path(name).suffix == ".safetensors" and Path(name).is_file()
    )
    return _find_model(name if itself else "tiny.safetensors", **how)


def ensure(variant: Variant, *more: Any, **how: Any) -> Path:
    return _ensure(variant, *more, **how) if variant.bundled else Path("tiny.safetensors")


def main() -> None:
    """The command `resnest`, before anything else has imported what is replaced."""
    loading.find_model, weights.ensure = find_model, ensure
    from resnest_cli.app import main as resnest

    resnest()
