"""Where the network looked, and which splits it preferred there.

    explain.py      what was asked for; the working process: photos -> explanations, drawn; the page
    explainer.py    one photo -> its explanation: Grad-CAM and split attention (torch, captum)
    photo_view.py   a photo as the network sees it and as people do; where in it a map is hot

`report.explanations` draws the pictures.
"""
