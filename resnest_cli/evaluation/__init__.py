"""How good a model is on labelled photos, and where it fails.

    job.py           what was asked for; the working process: labelled photos -> answers
    truth.py         the names of class folders -> the model's classes
    scores.py        answers -> accuracy, loss, figures per class, confusion
    calibration.py   whether probabilities mean what they say; the temperature that mends it
    comparison.py    two models on the same photos
    figures.py       all of it as plain data
    files.py         all of it on disk
    page.py          all of it as a page

Plain numpy: nothing here imports torch.
"""
