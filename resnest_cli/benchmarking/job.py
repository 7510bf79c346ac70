# SHIM
from resnest_cli.benchmark.benchmark import (
    BenchmarkJob,
    Engines,
    Step,
    benchmark_in_steps as benchmark,
)
