# SHIM
from resnest_cli.images import MAX_PIXELS, memory_for, usual_limit
