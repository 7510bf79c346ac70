"""Inference on Ray Data: inputs anywhere -> parts of a fixed number of inputs, on many machines.

    job.py          what was asked for, as plain data that every worker is sent
    filesystems.py  a path or an address -> a pyarrow file system, and files that appear whole
    inputs.py       what the command line names -> inputs, one at a time
    walking.py      a folder or a glob on a remote file system -> its files
    manifests.py    the path column of a Parquet or CSV file -> inputs
    shards.py       a WebDataset tar shard -> its photos
    listing.py      the inputs, written down once and cut into parts
    reading.py      Ray Data's source: a part -> the bytes of its photos
    batch.py        Ray Data's callable: the bytes of a part -> its rows, written
    rows.py         records or features of a part -> the bytes of its file
    parts.py        which parts are there and whole, and which attempts have died
    identity.py     what decides the output, found on a worker
    target.py       the folder of an output: begun, unfinished, finished
    machines.py     a cluster: connecting, and how many workers fit on it
    pipeline.py     the missing parts, streamed through Ray Data
    session.py      a whole run

Ray Data reads ahead in tasks on any node, holds the bytes back by its memory budget, keeps the pool
of actors that run the network, and gives the work of a dead task or actor to another. What it
cannot know is whose rows are already safe. So a part is written by the one call that computed it,
under a name that its number decides: whatever is done twice writes the same file again.

Importing any of these modules imports neither Ray nor pyarrow.
"""
