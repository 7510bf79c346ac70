"""Pictures and pages for people.

canvas.py         a figure of so many pixels, the fonts that names need, text and pictures on it
plots.py          curves, learning-rate finder, confusion matrix, reliability
sheets.py         photos as the network sees them, with their labels
pages.py          self-contained pages
neighbours.py     a page of photos beside those that are like them
"""
