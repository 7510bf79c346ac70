# SHIM
from resnest_cli.options import AUTO, Amp, ModelOptions, RunOptions
