# SHIM
from resnest_cli.net.hub import cached_repository as hub_folder
