# SHIM
from resnest_cli.data.table_file import decoded
