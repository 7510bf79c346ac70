# SHIM
from resnest_cli.export.hub_folder import (
    TIMM_NAMES,
    Push,
    push_folder,
    rehearse,
    timm_arguments,
    write_folder,
)
