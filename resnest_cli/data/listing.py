# SHIM
from resnest_cli.data.labelled import AS_FOUND, SIDES, Reading, Side
from resnest_cli.data.labelled import LabelledData as Listing
from resnest_cli.data.labelled import LabelledPhoto as Listed
