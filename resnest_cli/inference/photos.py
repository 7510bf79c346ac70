# SHIM
from resnest_cli.inference.classifier import as_source
