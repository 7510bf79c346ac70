# SHIM
from resnest_cli.output.results import show_calibration, show_comparison, show_evaluation
