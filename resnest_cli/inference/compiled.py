# SHIM
from resnest_cli.cpu import cpu_feature_names
from resnest_cli.inference.onnx_cache import (
    CompiledFile,
    compiled_files,
    compiled_from,
    everything,
    folder,
    refusal,
    remove,
)
