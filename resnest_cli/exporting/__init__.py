"""A network as a file for other programs, and proof that it still says the same.

job.py           what was asked for, and the way through the rest
description.py   what an exported file says about itself
onnx_file.py     the network as .onnx, from the same graph builder as the CPU engine
pt2_file.py      the network as .pt2, for torch.export.load
hub_folder.py    a folder that Hugging Face's hub and timm read; card.py writes its model card
photos.py        the user's photos, chosen evenly and decoded where they can do no harm
parity.py        exported against original: the largest difference, and who agrees
int8.py          an .onnx in 8 bits
cost.py          what 8 bits change: size, accuracy, speed
"""
