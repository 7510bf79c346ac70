# SHIM
from resnest_cli.model.variants import STAGES, multiply_adds
