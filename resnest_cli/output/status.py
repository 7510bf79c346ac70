# SHIM
from resnest_cli.output.messages import duration
from resnest_cli.output.progress import Line, Pace, StatusLine
