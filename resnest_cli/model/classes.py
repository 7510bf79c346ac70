# SHIM
from resnest_cli.model.labels import look_up, unknown_classes
