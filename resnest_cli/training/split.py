# SHIM
from resnest_cli.data.dataset import read_split, write_split
