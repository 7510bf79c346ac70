# SHIM
from resnest_cli.files import locked
