"""How good a model is on labelled photos, and where it fails.

    evaluate.py       what was asked for; labelled photos -> answers
    scores.py         one label: answers -> accuracy, loss, figures per class, confusion
    label_scores.py   several labels: answers -> mAP, F1, figures per class
    thresholds.py     from which probability on a photo has a label
    bootstrap.py      how much the figures of several labels would differ with other photos
    calibration.py    whether probabilities mean what they say; the temperature that mends it
    class_figures.py  one label: all that an evaluation comes to, and its pictures
    label_figures.py  several labels: the same
    figures.py        either, and how another model compares, as plain data
    report.py         all of it as a folder of files, and as a page

Plain numpy: nothing here imports torch before a training's meter is used.
"""
