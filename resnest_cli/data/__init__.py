"""Labelled photos as people keep them: class folders, tables of photos, tar shards.

class_folders.py   a folder -> labelled_photos.py: which photo has which label, and who trains
table.py           a table, likewise; table_file.py: its rows; table_labels.py: their labels;
                   photo_paths.py: where its photos lie
label_sets.py      several labels for one photo, as texts
dataset.py         all of them decoded once, and split (split.py, stratification.py);
                   split_file.py: the split that a run keeps
exclusion.py       photos that a list of issues names, left out; issue_kinds.py: what can be wrong
shards.py          which shards, and their index; shard_files.py: what is in them; pack.py: written
"""
