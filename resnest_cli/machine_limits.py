# SHIM
from resnest_cli.errors import LIMIT_REMEDIES as REMEDIES, limit_reached
