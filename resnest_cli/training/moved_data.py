# SHIM
from resnest_cli.training.run_data import anchored, check_same, check_there, moved_shards
