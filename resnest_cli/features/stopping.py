# SHIM
from resnest_cli.signals import PatientStop as Stopping, StoppedError as InterruptedRunError
