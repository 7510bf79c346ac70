# SHIM
from resnest_cli.jobs.parts import check_name, held  # noqa: F401
