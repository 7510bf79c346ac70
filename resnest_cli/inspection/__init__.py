"""Labelled photos looked over before anything learns from them; `check` is the whole of it.

issues.py     what can be wrong with a photo, as records, and the files that say so
photo_facts.py, survey.py   every photo decoded once: facts, thumbnail, features; kept on disk
bad_files.py  what cannot be read, is tiny, dark, blurred, ...
copies.py     identical and nearly identical photos, in groups
labels.py, label_sets.py   labels that look wrong: one for each photo, or several
outliers.py, classes.py   what else the features say of the classes
neighbours.py, alignment.py   photos that are alike, and how much
check.py      all of it in order, and its files; page.py: its page
"""
