# SHIM
from resnest_cli.jobs.formats import check_suffix  # noqa: F401
