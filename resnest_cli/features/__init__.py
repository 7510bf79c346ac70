"""Photos -> a matrix on disk, part by part, so that no end loses more than the part in hand.

    job.py         what was asked for, and what the two processes tell each other
    extract.py     the working process: sources -> rows, in batches by input index
    listing.py     which inputs are ours, and whether the list is still the one that was begun
    session.py     the caller: rows -> parts, progress, signals
    target.py      the files of an output, and what state they are in
    store.py       the folder of parts: state, index, atomic commits
    lines.py       lines of `feats.csv`
    formats.py     entries -> .npy, .npz, .csv, .parquet
    readers.py     a finished output -> entries
    assemble.py    parts -> the files of the output
    merge.py       outputs of shards -> one output
    failures.py    errors by kind

The caller imports numpy only when it assembles. Nothing is ever written through a memory map.
"""
