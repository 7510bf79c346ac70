# SHIM
from resnest_cli.model.safetensors_file import write_container
