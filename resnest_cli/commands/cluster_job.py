# SHIM
from resnest_cli.jobs.ray import run_command as run  # noqa: F401
