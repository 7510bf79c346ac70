# SHIM
from resnest_cli.data.shard_files import AHEAD, Files, fetch, fetch_text, wrong_size
