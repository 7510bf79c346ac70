# SHIM
from resnest_cli.evaluation.evaluate import EvaluateJob, Gathered, Split, gather
