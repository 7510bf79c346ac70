# SHIM
from resnest_cli.model.resnest import DropBlock
