"""The script that people write today: one photo through timm, whole process.

python reference_predict.py PHOTO MODEL WEIGHTS
"""

import sys

import timm
import torch
from PIL import Image

photo, name, weights = sys.argv[1:]
model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": weights}).eval()
config = timm.data.resolve_data_config({}, model=model)
transform = timm.data.create_transform(**config)
tensor = transform(Image.open(photo).convert("RGB")).unsqueeze(0)
with torch.no_grad():
    probabilities = torch.nn.functional.softmax(model(tensor)[0], dim=0)
values, indices = torch.topk(probabilities, 5)
for value, index in zip(values.tolist(), indices.tolist(), strict=True):
    print(index, value)
