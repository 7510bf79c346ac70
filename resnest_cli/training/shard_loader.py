# SHIM
from resnest_cli.training.loader import ShardEvalBatches, ShardTrainBatches
