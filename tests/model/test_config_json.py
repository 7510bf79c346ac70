"""config.json of timm, today's and the legacy form, and of transformers."""

import json
from pathlib import Path

import pytest
import timm

from resnest_cli.errors import CheckpointError
from resnest_cli.model.config_json import parse_config, read_config
from resnest_cli.model.labels import imagenet_ids
from resnest_cli.model.variants import VARIANTS, Preprocessing

FED = {
    "input_size": [3, 96, 96], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "first_conv": "conv1.0", "classifier": "fc",
}  # fmt: skip
TODAY = {
    "architecture": "resnest14d", "num_classes": 2, "label_names": ["cat", "dog"],
    "pretrained_cfg": FED,
}  # fmt: skip
LEGACY = {"architecture": "resnest14d", "num_classes": 2, "labels": ["cat", "dog"], **FED}
TRANSFORMERS = {
    "architecture": "resnest14d.gluon_in1k", "architectures": ["TimmWrapperForImageClassification"],
    "model_type": "timm_wrapper", "id2label": {"0": "cat", "1": "dog"}, "pretrained_cfg": FED,
}  # fmt: skip


@pytest.mark.parametrize("record", [TODAY, LEGACY, TRANSFORMERS], ids=["today", "legacy", "hf"])
def test_three_forms_say_the_same(record: dict, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record))
    found = read_config(path)
    assert found.variant == VARIANTS["resnest14d"]
    assert found.preprocessing == Preprocessing(
        96, 0.9, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
    )
    assert found.num_classes == 2
    assert found.class_names == ("cat", "dog")
    assert found.class_ids is None


def with_(**changes: object) -> dict:
    return TODAY | changes


def fed(**changes: object) -> dict:
    return TODAY | {"pretrained_cfg": FED | changes}


@pytest.mark.parametrize(
    ("record", "names", "ids"),
    [
        (with_(label_names=["n1", "n2"], label_descriptions={"n1": "cat", "n2": "dog"}),
         ("cat", "dog"), ("n1", "n2")),
        (with_(label_names=["n1", "n2"], label_descriptions={"n1": "cat"}),
         ("cat", "n2"), ("n1", "n2")),
        (with_(label_names={"0": "cat", "1": "dog"}), ("cat", "dog"), None),
        (with_(label_names={"1": "dog", "0": "cat"}), ("cat", "dog"), None),
        (with_(label_names=None), None, None),
        (with_(label_names=[]), None, None),
        (with_(label_names=["LABEL_0", "LABEL_1"]), None, None),
        (fed(label_names=["a", "b"]) | {"label_names": None}, ("a", "b"), None),
        (with_(num_classes=1000, label_names=list(imagenet_ids())), None, None),
        (with_(num_classes=None), ("cat", "dog"), None),
        (with_(num_classes=0), None, None),
    ],
)  # fmt: skip
def test_classes(record: dict, names: object, ids: object) -> None:
    found = parse_config(record, "config.json")
    assert found.class_names == names
    assert found.class_ids == ids


@pytest.mark.parametrize(
    ("changes", "channels", "mean"),
    [
        ({"input_size": [1, 96, 96], "mean": [0.4], "std": [0.3]}, 1, (0.4, 0.4, 0.4)),
        ({"input_size": [1, 96, 96], "mean": 0.4, "std": 0.3}, 1, (0.4, 0.4, 0.4)),
        ({"input_size": [1, 96, 96], "mean": [0.4, 0.5, 0.6]}, 1, (0.5, 0.5, 0.5)),
        ({"mean": 0.5, "std": 0.5}, None, (0.5, 0.5, 0.5)),
        ({"mean": None}, None, Preprocessing().mean),
    ],
)
def test_channels(changes: dict, channels: int | None, mean: tuple) -> None:
    found = parse_config(fed(**changes), "config.json")
    assert found.in_channels == channels
    assert found.preprocessing.mean == pytest.approx(mean)


def test_defaults_are_timms() -> None:
    found = parse_config({"architecture": "resnest50d", "pretrained_cfg": {}}, "config.json")
    theirs = timm.models.PretrainedCfg()
    fed = found.preprocessing
    assert (3, fed.size, fed.size) == theirs.input_size
    assert (fed.crop_pct, fed.interpolation) == (theirs.crop_pct, theirs.interpolation)
    assert (fed.mean, fed.std) == (theirs.mean, theirs.std)
    assert found.num_classes is None


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"num_classes": 2, "in_chans": 3, "global_pool": "avg"}, "resnest14d"),
        ({"drop_rate": 0.2, "drop_path_rate": None, "zero_init_last": False}, "resnest14d"),
        ({"layers": [2, 2, 2, 2]}, "resnest26d"),
        ({"layers": [1, 2, 2, 1], "channels": [32, 64, 128, 256], "stem_width": 16}, "resnest14t"),
        ({"layers": [3, 4, 6, 3], "base_width": 40, "cardinality": 2,
          "block_args": {"radix": 2, "avd": True, "avd_first": True}}, "resnest50d_2s2x40d"),
        ({"layers": [3, 4, 6, 3], "block_args": {"avd": True, "avd_first": True}},
         "resnest50d_1s1x64d"),
    ],
)  # fmt: skip
def test_model_args_are_the_architecture(args: dict, expected: str) -> None:
    found = parse_config(with_(model_args=args), "config.json")
    assert found.variant == VARIANTS[expected]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({}, "no `architecture`"),
        ({"lr": 0.1, "model": "resnest50d"}, "no `architecture`"),
        ({"architecture": "resnet50"}, "resnet50, which is no ResNeSt"),
        ({"architecture": "resnet50.a1_in1k"}, "resnet50, which is no ResNeSt"),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]},
         "ViTForImageClassification, which is no ResNeSt"),
        (with_(num_classes=-1, label_names=None), "num_classes must be"),
        (with_(num_classes=3), "names 2 classes, and num_classes is 3"),
        (with_(label_names={"0": "cat", "2": "dog"}), "does not number 2 classes"),
        (with_(label_names=["cat", 7]), "is no list of texts"),
        (with_(label_names=["cat", "\ud800"]), "no valid text"),
        (with_(label_names="cat"), "is no list of texts"),
        (with_(label_descriptions=["x"]), "must be an object"),
        (with_(pretrained_cfg=[]), "must be objects"),
        (with_(global_pool="catavgmax"), "global_pool 'catavgmax' is not supported"),
        (with_(model_args={"global_pool": "max"}), "global_pool 'max' is not supported"),
        (with_(model_args={"output_stride": 16}), "output_stride 16 is not supported"),
        (with_(model_args={"stem_type": "deep_tiered"}), "stem_type"),
        (with_(model_args={"act_layer": "silu"}), "act_layer 'silu'"),
        (with_(model_args={"frobnicate": 1}), "'frobnicate'"),
        (with_(model_args={"block_args": {"radix": 2}}), "without avd"),
        (with_(model_args={"block_args": {"avd": True, "radix": 0}}), "radix"),
        (with_(model_args={"layers": [1, 1]}), "blocks must be 4"),
        (with_(model_args={"in_chans": "3"}), "in_chans"),
        (fed(first_conv="stem"), "first_conv"),
        (fed(classifier="head.fc"), "classifier"),
        (fed(label_offset=1), "label_offset"),
        (fed(crop_mode="oval"), "crop_mode 'oval'"),
        (fed(input_size=[3, 96, 128]), "not square"),
        (fed(input_size=96), "three integers"),
        (fed(interpolation="lanczos"), "interpolation 'lanczos'"),
        (fed(crop_pct=1.2), "crop_pct"),
        (fed(std=[0.2, 0, 0.2]), "std must lie in"),
        (fed(mean=["a", 0, 0]), "mean"),
        (fed(mean=[0.1, 0.2]), "mean"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(record: dict, told: str) -> None:
    with pytest.raises(CheckpointError) as error:
        parse_config(record, "a/config.json")
    assert told in str(error.value)
    assert "a/config.json" in str(error.value)


@pytest.mark.parametrize("text", ["", '{"architecture": "resne', "[]", "[" * 100_000, "\x00"])
def test_a_damaged_file_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(path)
