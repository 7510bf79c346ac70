# SHIM
from resnest_cli.data.seeds import derived_seed
