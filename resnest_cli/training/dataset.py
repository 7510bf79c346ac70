# SHIM
from resnest_cli.data.dataset import (
    BadPhoto,
    DataSet,
    Progress,
    Sample,
    known_photos,
    load_dataset,
    readable_names,
)
