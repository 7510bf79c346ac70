"""Photos in tar shards (WebDataset's convention): found, counted, read in order, and written."""
