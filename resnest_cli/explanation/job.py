# SHIM
from resnest_cli.explanation.explain import MOST_CLASSES, ExplainJob, Results, Target, explain
