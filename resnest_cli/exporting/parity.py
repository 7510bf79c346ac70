# SHIM
from resnest_cli.export.parity import TOLERANCE
