# SHIM
from resnest_cli.inference.run import Stopwatch
