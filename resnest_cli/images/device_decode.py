# SHIM
from resnest_cli.images.gpu import DevicePreparation
