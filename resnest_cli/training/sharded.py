# SHIM
from resnest_cli.data.shards import first_photos
from resnest_cli.training.run_data import check_sharded, load_data, read_data, write_data
