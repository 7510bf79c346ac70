# SHIM
from resnest_cli.data.labelled_photos import AS_FOUND, SIDES, Reading, Side
from resnest_cli.data.labelled_photos import LabelledData as Listing
from resnest_cli.data.labelled_photos import LabelledPhoto as Listed
