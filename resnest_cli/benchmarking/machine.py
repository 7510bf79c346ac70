"""What was measured on: cores, instruction sets, versions."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resnest_cli import __version__
from resnest_cli.inference.compiled import cpu_feature_names
from resnest_cli.inference.cores import usable_cores

_VERSIONS = ("torch", "onnxruntime", "numpy", "pillow")


def machine() -> dict[str, Any]:
    """Processor, the cores that this process may use, instruction sets and versions, JSON-ready."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": usable_cores(),
        "cpus": os.cpu_count() or 1,
        "features": list(cpu_feature_names()),
        "versions": {"resnest_cli": __version__, "python": platform.python_version()}
        | {name: version(name) for name in _VERSIONS},
    }


def _processor() -> str:
    """Its name where the system tells; Python itself knows it on few systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line[:10] == "model name")
    except (OSError, StopIteration, ValueError):
        return platform.processor() or "unknown"
