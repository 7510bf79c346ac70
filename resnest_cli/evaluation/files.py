# SHIM
from resnest_cli.evaluation.report import write_all
