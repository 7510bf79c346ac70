# SHIM
from resnest_cli.training.state import Progress, load_state, read_progress, states
