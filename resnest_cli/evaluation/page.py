# SHIM
from resnest_cli.evaluation.report import evaluation_page
