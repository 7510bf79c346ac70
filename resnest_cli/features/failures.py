# SHIM
from resnest_cli.jobs.report import kind_of  # noqa: F401
