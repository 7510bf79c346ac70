# SHIM
from resnest_cli.export.export import Exported, ExportJob, counted_export as export
