# SHIM
from resnest_cli.jobs.local import run  # noqa: F401
