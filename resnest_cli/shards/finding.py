# SHIM
from resnest_cli.data.shards import is_shards
