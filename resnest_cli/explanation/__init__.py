"""Where the network looked, and which splits it preferred there.

explain.py      what was asked for; the working process: photos -> explanations, drawn; the page
explainer.py    one photo -> its explanation: Grad-CAM and split attention (torch, captum)
pictures.py     heat over a photo, and strips of split attention, drawn
photo_view.py   a photo as the network sees it and as people do; where in it a map is hot
"""
