# SHIM
from resnest_cli.training.plan_text import estimated, lines_of_the_rest, plan_lines
