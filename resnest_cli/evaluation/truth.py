# SHIM
from resnest_cli.evaluation.evaluate import FolderNumbers
