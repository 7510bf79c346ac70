# SHIM
from resnest_cli.training.step import keep_memory
