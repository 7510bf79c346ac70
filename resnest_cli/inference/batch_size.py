# SHIM
from resnest_cli.inference.run import batch_size_for
