"""Many photos -> an output that any kill leaves resumable: each input once, in order, failures too.

A job is a listing, cut into parts: fixed slices of it, each computed whole and written whole.

    job.py           what was asked for, what decides the bytes of the output, how a run ended
    listing.py       the inputs: listed in order, hashed by name
    inputs.py        the inputs of Ray: addresses, manifests, tar shards, and the bytes of each
    run.py           the driver: look, listing, missing parts, finish; what it asks of the others
    local.py         the runner of this machine: parts one after another, in this process
    ray.py           the runner on Ray, whose actors compute parts
    ray_cluster.py   connecting to Ray, and how many workers fit
    compute.py       inputs of a part -> entries (features) or records (predict)
    parts.py         a folder of parts, on any file system
    folder.py        an output that is such a folder, or one Parquet file of records made of it
    file_output.py   an output that is files: feats.npy and those beside it
    assemble.py      the folder of parts beside them, and how they are made of it
    merge.py         finished outputs -> one
    update.py        what is new, changed or gone since an output was finished
    formats.py       rows -> .npy, .npz, .csv, .parquet and back
    part_files.py    the parts as files: .rows, .parquet, .jsonl
    predict.py       `predict` to stdout: records as they come
    filesystems.py   a path or an address -> a file system, its files, folders and globs

Importing any of these imports neither Ray nor pyarrow.
"""
