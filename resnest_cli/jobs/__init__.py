"""Many photos -> an output that any kill leaves resumable: each input once, in order, failures too.

    job.py          what was asked for, what decides the bytes of the output, how a run ended
    formats.py      rows -> .npy, .npz, .csv, .parquet and back; records -> .parquet, .jsonl
    local.py        `features` on this machine, from the first part to the last
    extract.py      its working process: is it the list that was begun? decode, network, rows
    parts.py        the folder of parts beside an output, and what is there under its name
    assemble.py     parts, or the outputs of all shards -> the files of an output
    predict.py      `predict` on this machine: records as they come
    ray.py          a run on Ray: begun, missing parts, summary
    ray_cluster.py  connecting, how many workers fit, parts passed through them
    ray_worker.py   what runs in Ray's processes: the photos of a part read, and its rows computed
    ray_output.py   the folder of an output on any file system: manifest, listing, whole parts
    inputs.py       the inputs of Ray: addresses, manifests, tar shards, and the bytes of each
    filesystems.py  a path or an address -> a file system, its files, folders and globs

Importing any of these imports neither Ray nor pyarrow. Only `extract`, and Ray's modules with it,
import numpy: what starts a working process must stay small.
"""
