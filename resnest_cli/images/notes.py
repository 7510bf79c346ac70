# SHIM
from resnest_cli.images import leave_note as leave, noted, take_note as take
