"""The script that people write today: a folder of photos to a matrix through timm, whole process.

python reference_features.py FOLDER MODEL WEIGHTS OUT [predict]

With `predict` the matrix is that of all probabilities, and the five best classes are printed.
"""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Photos(Dataset):
    """All photos of a folder, transformed."""

    def __init__(self, folder, transform):
        self.paths = sorted(Path(folder).iterdir())
        self.transform = transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def main():
    folder, name, weights, out = sys.argv[1:5]
    predict = sys.argv[5:] == ["predict"]
    overlay = {"file": weights}
    classes = {} if predict else {"num_classes": 0}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **classes)
    model.eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    loader = DataLoader(Photos(folder, transform), batch_size=32, num_workers=2)
    with torch.no_grad():
        found = torch.cat([model(batch) for batch in loader])
        if predict:
            found = found.softmax(dim=1)
            for path, top in zip(loader.dataset.paths, found.topk(5).indices.tolist(), strict=True):
                print(path, *top)
        np.save(out, found.numpy())


if __name__ == "__main__":
    main()
