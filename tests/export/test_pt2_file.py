"""The .pt2 file: what torch.export.load makes of it equals the network."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resnest_cli.export import ExportJob
from resnest_cli.export.export import export
from resnest_cli.model import checkpoint
from resnest_cli.model.loading import find_model
from tests.conftest import CLASSES
from tests.networks import photos


def test_the_loaded_program_equals_the_network(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Of a network that gives a photo several labels, which the file says, too."""
    target, several = tmp_path / "model.pt2", tmp_path / "several.safetensors"
    loaded = checkpoint.load(tiny_checkpoint)
    thresholds = 0.0, 1.0, 0.5, 0.25, 0.0
    checkpoint.save(several, loaded.tensors, replace(loaded.info, thresholds=thresholds))
    model = find_model(str(several))
    found = export(model, ExportJob(target))
    assert not found.broken
    assert found.summary["parity"][0]["difference"] < 1e-6
    found.write(target)
    files = {"resnest.json": ""}
    program = torch.export.load(target, extra_files=files).module()
    network = model.network()
    for shape in ((1, 3, 48, 48), (5, 3, 48, 48), (2, 3, 65, 97)):
        x = photos(5, 97, torch.float32).flatten()[: torch.Size(shape).numel()].view(shape)
        with torch.inference_mode():
            torch.testing.assert_close(program(x), network(x), rtol=1e-6, atol=1e-6)
    texts = json.loads(files["resnest.json"])
    assert json.loads(texts["class_names"]) == list(CLASSES)
    assert json.loads(texts["preprocessing"])["size"] == 48
    assert texts["num_classes"] == "5"
    assert texts["activation"] == "sigmoid"
    assert tuple(json.loads(texts["thresholds"])) == thresholds


@pytest.mark.slow  # torch.export of these takes minutes
def test_other_kinds_of_variants_can_be_exported() -> None:
    import io

    from resnest_cli.export import formats
    from resnest_cli.model.checkpoint_header import CheckpointInfo
    from resnest_cli.model.resnest import build
    from resnest_cli.model.variants import VARIANTS
    from tests.networks import enliven

    for name in ("resnest50d_1s1x64d", "resnest50d_4s2x40d"):
        network = enliven(build(name, num_classes=7)).eval()
        info = CheckpointInfo(
            variant=VARIANTS[name], num_classes=7,
            in_channels=3,
        )  # fmt: skip
        data = formats.pt2_bytes(network, info)
        program = torch.export.load(io.BytesIO(data)).module()
        x = photos(3, 65, torch.float32)
        with torch.inference_mode():
            torch.testing.assert_close(program(x), network(x), rtol=1e-4, atol=1e-4)
