# SHIM
from resnest_cli.jobs.filesystems import is_address  # noqa: F401
