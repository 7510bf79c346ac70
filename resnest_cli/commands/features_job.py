# SHIM
from resnest_cli.jobs.local import close, find_batch_size, start  # noqa: F401
from resnest_cli.jobs.local import summary_of as told  # noqa: F401
from resnest_cli.jobs.report import Progress as FeaturesProgress  # noqa: F401
