"""The .onnx file: every opset, any batch and size, and what it says about itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from resnest_cli.errors import UsageError
from resnest_cli.export import ExportJob, formats
from resnest_cli.export.export import export
from resnest_cli.export.formats import described
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import read_info
from resnest_cli.model.labels import imagenet_ids, imagenet_labels
from resnest_cli.model.loading import find_model
from resnest_cli.model.resnest import build
from tests.conftest import CLASSES, Published
from tests.networks import TINY, enliven, photos

NEWEST = onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("opset", range(13, NEWEST + 1))
def test_every_opset_gives_the_logits_and_features_of_the_network(
    opset: int, tiny_checkpoint: Path
) -> None:
    model = find_model(str(tiny_checkpoint))
    proto = formats.onnx_model(model, opset)
    assert [entry.version for entry in proto.opset_import] == [opset]
    data = formats.onnx_bytes(proto, described(model, {}))
    onnx.checker.check_model(data, full_check=True)
    runtime = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    network = model.network()
    for shape in ((1, 3, 48, 48), (3, 3, 65, 97)):
        x = photos(1, 320, torch.float32).flatten()[: int(np.prod(shape))].view(shape)
        logits, features = runtime.run(["logits", "features"], {"photos": x.numpy()})
        with torch.inference_mode():
            last = network.forward_features(x)
            expected = network.forward_head(last).numpy()
            pooled = network.forward_head(last, pre_logits=True).numpy()
        assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()
        assert np.abs(features - pooled).max() < 1e-5 * np.abs(pooled).max()


@pytest.mark.parametrize("opset", [0, 12, NEWEST + 1])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(UsageError, match=f"use 13 to {NEWEST}"):
        formats.check_opset(opset)


def test_the_file_says_what_the_checkpoint_says(tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(4)] + ["été\nüç"]
    fed = replace(TINY.preprocessing, size=50, crop_pct=0.8, interpolation="bicubic")
    info = checkpoint.CheckpointInfo(
        variant=replace(TINY, preprocessing=fed), class_names=tuple(names), temperature=1.7,
        metrics={"top1": 0.25}, provenance={"class_ids": ["a", "b", "c", "d", "e"], "seed": 3},
    )  # fmt: skip
    source, target = tmp_path / "own.safetensors", tmp_path / "own.onnx"
    checkpoint.save(source, enliven(build(TINY, num_classes=5)), info)
    export(find_model(str(source)), ExportJob(target, opset=15)).write(target)
    found = read_info(target)
    assert found.format == "onnx"
    assert found.variant == replace(TINY, preprocessing=fed)
    assert found.class_names == tuple(names)
    assert found.preprocessing == fed
    assert found.temperature == 1.7
    assert found.metrics == {"top1": 0.25}
    assert found.provenance["seed"] == 3
    assert found.provenance["export"] == {"precision": "float32", "opset": 15}
    assert (found.num_classes, found.in_channels) == (5, 3)
    model = find_model(str(target))
    assert model.class_ids == ("a", "b", "c", "d", "e")
    assert model.exported == "float32"
    # What anybody reads with the package onnx is the same.
    props = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    assert props["num_classes"] == "5"
    assert float(props["temperature"]) == 1.7


def test_published_weights_carry_imagenets_names_and_ids(published: Published) -> None:
    published.serve()
    info = described(find_model("resnest14d"), {"onnx": "1"})
    assert info.class_names == imagenet_labels()
    assert info.provenance["class_ids"] == list(imagenet_ids())
    assert info.metrics == {"top1": pytest.approx(0.75516), "top5": pytest.approx(0.92512)}
    assert info.versions["onnx"] == "1"


def test_other_weights_for_a_name_get_no_published_accuracy(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save(enliven(build("resnest14d")).state_dict(), other)
    info = described(find_model("resnest14d", source=str(other)), {})
    assert info.metrics == {}
    assert "published" not in info.provenance


def test_facts_of_the_export_add_up(tiny_checkpoint: Path) -> None:
    info = described(find_model(str(tiny_checkpoint)), {}, opset=13, precision="int8")
    assert info.provenance["export"] == {"opset": 13, "precision": "int8"}
    assert info.class_names == CLASSES
