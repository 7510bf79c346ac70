# SHIM
from resnest_cli.training.loader import BYTES_PER_PIXEL, limits_apart, read_all, read_photo
