"""Where the network looked, and which splits it preferred there.

    job.py         what was asked for; the working process: photos -> explanations, drawn
    explainer.py   one photo -> its explanation
    looking.py     a photo as the network sees it, and as people do
    heat.py        class activation maps, by captum's LayerGradCam
    regions.py     where in the photo a map is hot
    attention.py   the weights of split attention, block by block

`explainer.py`, `heat.py` and `attention.py` import torch; the others do not. `report` draws the
pictures.
"""
