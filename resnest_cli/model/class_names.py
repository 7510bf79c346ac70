# SHIM
from resnest_cli.model.labels import KEYS, canonical, find_class_names
