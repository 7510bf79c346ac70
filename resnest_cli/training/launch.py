# SHIM
from resnest_cli.training.distributed import is_follower
