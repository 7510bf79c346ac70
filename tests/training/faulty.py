"""`python -m tests.training.faulty train ...`: `resnest`, of which process 1 goes wrong.

FAULT says how, before its batch number FAULT_AT (from 0): "nan" gives it a photo that is not a
number, "die" kills it with SIGKILL, but only before torchrun has started it again, "error" has it
meet an error, "vanish" has it move the photo or folder VANISHING away. SLOW makes every batch of
every process take so many seconds.
"""

import itertools
import os
import signal
import time
from pathlib import Path

from resnest_cli.app import main
from resnest_cli.errors import ResnestError
from resnest_cli.training.step import Stepper

original = Stepper.on_device
batches = itertools.count()


def on_device(self, batch):
    seen = next(batches)
    time.sleep(float(os.environ.get("SLOW", "0")))
    photos, targets = original(self, batch)
    if os.environ["RANK"] == "1" and seen == int(os.environ.get("FAULT_AT", "3")):
        fault = os.environ.get("FAULT")
        if fault == "nan":
            photos = photos * float("nan")
        elif fault == "error":
            raise ResnestError("photo.jpg: was moved.")
        elif fault == "vanish":
            gone = Path(os.environ["VANISHING"])
            gone.rename(f"{gone}.gone")
        elif fault == "die" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
    return photos, targets


if __name__ == "__main__":
    Stepper.on_device = on_device
    main()
