# SHIM
from resnest_cli.data.tar import Shard, is_remote
