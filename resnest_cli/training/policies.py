# SHIM
from resnest_cli.training.settings import parse_aa
