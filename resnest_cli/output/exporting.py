# SHIM
from resnest_cli.output.results import show_export
