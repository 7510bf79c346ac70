# SHIM
from resnest_cli.net import without_login
