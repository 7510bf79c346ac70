"""Gives Ray's workers, and them alone, a decoder that falls for planted photos, and is slow."""

import sys

if any("default_worker" in word for word in sys.orig_argv):
    from tests.planted_photos import plant

    plant()
