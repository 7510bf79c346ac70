# SHIM
from resnest_cli.inference.ranking import NOT_FINITE, Prediction, Record
