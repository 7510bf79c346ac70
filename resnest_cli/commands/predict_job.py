# SHIM
from resnest_cli.jobs.predict import (  # noqa: F401  # noqa: F401
    DECODING_LIMIT,
    PredictJob,
    begin,
    classifier,
    reads_stdin,
    records,
    replayed_stdin,
)
