# SHIM
from resnest_cli.training.order import largest_size, train_size, work
