# SHIM
from resnest_cli.jobs.job import WHOLE, FeaturesJob, Shard  # noqa: F401
