"""Many photos -> an output that any kill leaves resumable: each input once, in order, failures too.

    job.py          what was asked for, and what decides the bytes of the output
    listing.py      the inputs of this machine: is it the list that was begun?
    inputs.py       the inputs of Ray: addresses, manifests, tar shards, and the bytes of each
    compute.py      what works: decode, preprocess, network, rows; here or in an actor of Ray
    formats.py      rows -> .npy, .npz, .csv, .parquet and back; records -> .parquet, .jsonl
    parts.py        the folder of parts beside an output, and what is there under its name
    assemble.py     parts, or the outputs of all shards -> the files of an output
    local.py        `features` on this machine, from the first part to the last
    predict.py      `predict` on this machine: records as they come
    ray.py          a run on Ray Data: begun, missing parts, summary
    ray_cluster.py  connecting, how many workers fit, parts streamed through them
    ray_output.py   the folder of an output on any file system: manifest, listing, whole parts
    filesystems.py  a path or an address -> a file system, its files, folders and globs
    report.py       progress while it goes on, and how it went

Importing any of these imports neither Ray nor pyarrow. Only `compute`, and Ray's modules with it,
import numpy: what starts a working process must stay small.
"""
