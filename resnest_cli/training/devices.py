# SHIM
from resnest_cli.training.job import run_on_devices
