# SHIM
from resnest_cli.output.records import explanation_writer as ExplanationWriter
