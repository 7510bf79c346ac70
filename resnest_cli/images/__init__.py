"""From a path to a float32 array: sources, decoding, preprocessing. No torch."""
