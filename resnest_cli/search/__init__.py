"""The nearest photos, and groups of alike ones, in what `resnest features` wrote.

features.py         the class `Features`: open, search, duplicates
feature_files.py    .npy, .npz, .csv, .parquet, a folder of parts -> mapped rows with their names
nearest.py          exact nearest rows and groups, in blocks of matrix products
neighbours_file.py  the nearest of every row as a file of numbers (.npz)
recorded_model.py   the very model that made the features, found by their record
records.py          what `resnest search` answers: one record per query, or per group
"""
