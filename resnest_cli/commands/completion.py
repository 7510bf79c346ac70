"""What a shell completes after an option: models, recipes, devices, classes, pages."""

from collections.abc import Callable, Iterable, Mapping
from glob import escape, glob
from pathlib import Path
from typing import Any

import typer

from resnest_cli.errors import ResnestError
from resnest_cli.options import DEFAULT_MODEL

_FILES = (".safetensors", ".onnx", ".pth", ".pt")  # what a model may be


def models(incomplete: str) -> list[str]:
    """Names of the table, and files and folders whose path begins so."""
    from resnest_cli.model.variants import VARIANTS

    aliases = (alias for variant in VARIANTS.values() for alias in variant.aliases)
    paths = [
        f"{path}/" if Path(path).is_dir() else path
        for path in sorted(glob(f"{escape(incomplete)}*"))  # noqa: PTH207 - keeps "./" as it was typed
        if Path(path).is_dir() or path.endswith(_FILES)
    ]
    return [*_beginning((*VARIANTS, *aliases), incomplete), *paths]


def recipes(incomplete: str) -> list[str]:
    """Names of recipes."""
    from resnest_cli.training.settings import RECIPES

    return _beginning(RECIPES, incomplete)


def devices(incomplete: str) -> list[str]:
    """Kinds of devices, whether this machine has them or not."""
    return _beginning(("auto", "cpu", "cuda", "cuda:1", "mps"), incomplete)


def classes(context: typer.Context, incomplete: str) -> list[str]:
    """Class names of the --model, where its file is on this machine."""
    from resnest_cli.model.loading import find_model
    from resnest_cli.net import Access

    try:
        model = find_model(
            context.params.get("model") or DEFAULT_MODEL, access=Access(offline=True)
        )
    except ResnestError:
        return []
    return _beginning(model.class_names, incomplete)


def pages(incomplete: str) -> list[str]:
    """Pages of the manual."""
    from resnest_cli.guides import PAGES

    return _beginning(PAGES, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


# By the name of a parameter.
COMPLETED: Mapping[str, Callable[..., Any]] = {
    "model": models, "compare": models, "teacher": models, "recipe": recipes, "device": devices,
    "class_": classes, "page": pages,
}  # fmt: skip
