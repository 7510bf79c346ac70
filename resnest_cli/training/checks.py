# SHIM
from resnest_cli.options import flag_of as flag
from resnest_cli.training.settings import checked
