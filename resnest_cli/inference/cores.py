# SHIM
from resnest_cli.cpu import limit_cores, usable_cores
