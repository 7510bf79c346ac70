# SHIM
from resnest_cli.jobs.job import Ranking, portable  # noqa: F401
