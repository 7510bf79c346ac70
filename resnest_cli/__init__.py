"""Image classification with ResNeSt, the split-attention network (arXiv 2004.08955).

    from resnest_cli import Classifier

    record = Classifier("resnest101e").predict("dog.jpg", topk=5)
    record.predictions[0].label, record.predictions[0].probability

Names are imported when they are first used: importing the package is free.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnest_cli.errors import ResnestError
    from resnest_cli.inference.classifier import Classifier
    from resnest_cli.inference.ranking import Prediction, Record
    from resnest_cli.model.resnest import build
    from resnest_cli.search.features import Features

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "Features",
    "Prediction",
    "Record",
    "ResnestError",
    "__version__",
    "build",
]

_HOMES = {
    "Classifier": "resnest_cli.inference.classifier",
    "Features": "resnest_cli.search.features",
    "Prediction": "resnest_cli.inference.ranking",
    "Record": "resnest_cli.inference.ranking",
    "ResnestError": "resnest_cli.errors",
    "build": "resnest_cli.model.resnest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
