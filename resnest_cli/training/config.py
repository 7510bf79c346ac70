# SHIM
from resnest_cli.training.settings import Command, Config
