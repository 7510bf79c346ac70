# SHIM
from resnest_cli.export.formats import DEFAULT_OPSET
