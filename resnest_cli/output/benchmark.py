# SHIM
from resnest_cli.output.results import show_benchmark, show_runs as _show_runs
