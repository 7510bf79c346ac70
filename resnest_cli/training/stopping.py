# SHIM
from resnest_cli.signals import BudgetUsedError, StoppedError, StopRequest
