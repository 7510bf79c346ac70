# SHIM
from resnest_cli.training.state import EpochRow
