# SHIM
from resnest_cli.training.time_budget import Clock, budget_seconds, fitted
