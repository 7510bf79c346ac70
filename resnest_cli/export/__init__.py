"""A network as a file for other programs, and proof that it still says the same.

export.py       what was asked for, and the way through the rest
formats.py      .onnx and .pt2 files, and what they say about themselves
parity.py       exported against original, on photos and on noise
int8.py         an .onnx in 8 bits, and what that changes: size, accuracy, speed
hub_folder.py   a folder that Hugging Face's hub and timm read, with its model card
"""
