"""How good a model is on labelled photos, and where it fails.

    evaluate.py      what was asked for; labelled photos -> answers
    scores.py        answers -> accuracy, loss, figures per class, confusion
    calibration.py   whether probabilities mean what they say; the temperature that mends it
    figures.py       all of it, and how another model compares, as plain data
    report.py        all of it as a folder of files, and as a page

Plain numpy: nothing here imports torch.
"""
