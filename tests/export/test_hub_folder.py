"""The hub folder: timm loads it, the hub reads its card, and it is a checkpoint of ours as well."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from resnest.torch import resnest as original

from resnest_cli import Classifier
from resnest_cli.export.formats import described
from resnest_cli.export.hub_folder import (
    TIMM_NAMES,
    escaped,
    timm_arguments,
    timm_config,
    timm_fits,
    write_folder,
)
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.loading import find_model
from resnest_cli.model.resnest import build
from resnest_cli.model.variants import VARIANTS, Variant, get_variant
from tests.conftest import CLASSES
from tests.networks import TINY, enliven, lively, photos

DATA = Path(__file__).parents[1] / "data"


def saved(path: Path, variant: Variant, **more: object) -> Path:
    info = CheckpointInfo(variant=variant, class_names=CLASSES, **more)  # type: ignore[arg-type]
    checkpoint.save(path, enliven(build(variant, num_classes=5)), info)
    return path


@pytest.mark.parametrize("name", ["resnest14d", "resnest14t", "tiny"])
def test_timm_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    variant = TINY if name == "tiny" else get_variant(name)
    source = saved(tmp_path / "own.safetensors", variant)
    write_folder(find_model(str(source)), tmp_path / "hub")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    ours = find_model(str(source)).network()
    x = photos(2, 96, torch.float32)
    with torch.inference_mode():
        expected = ours(x)
        torch.testing.assert_close(theirs(x), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1
    assert theirs.num_classes == 5
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES)
    fed = timm.data.resolve_model_data_config(theirs)
    size = variant.preprocessing.size
    assert tuple(fed["input_size"]) == (3, size, size)
    assert fed["crop_pct"] == variant.preprocessing.crop_pct
    assert fed["interpolation"] == variant.preprocessing.interpolation


@pytest.mark.parametrize("name", VARIANTS)
def test_timm_builds_every_variant(name: str) -> None:
    variant = VARIANTS[name]
    config = timm_config(CheckpointInfo(variant=variant, num_classes=5, in_channels=3))
    assert config["architecture"] in TIMM_NAMES
    assert config["num_features"] == variant.num_features
    with torch.device("meta"):
        theirs = timm.create_model(
            config["architecture"], num_classes=5, **config.get("model_args", {})
        )
    ours = build(variant, num_classes=5, init=False)
    shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert {key: tensor.shape for key, tensor in theirs.state_dict().items()} == shapes


def test_what_timm_cannot_build_is_said(tmp_path: Path) -> None:
    odd = TINY.overridden({"widths": [16, 16, 36, 164], "base_width": 64})
    assert not timm_fits(odd)
    with torch.device("meta"):
        theirs = timm.create_model("resnest14d", num_classes=5, **timm_arguments(odd))
    ours = build(odd, num_classes=5, init=False).state_dict()
    assert {k: v.shape for k, v in theirs.state_dict().items()} != {
        k: v.shape for k, v in ours.items()
    }
    told = write_folder(find_model(str(saved(tmp_path / "a.safetensors", odd))), tmp_path / "hub")
    assert not told["timm"]
    assert "timm cannot build this network" in (tmp_path / "hub/README.md").read_text()
    assert Classifier(str(tmp_path / "hub/model.safetensors")).predict(DATA / "cat.jpg")


def test_the_weights_are_a_checkpoint_of_ours(tmp_path: Path) -> None:
    source = saved(
        tmp_path / "own.safetensors", get_variant("resnest14t"), temperature=1.5,
        metrics={"top1": 0.875, "photos": 40}, provenance={"data": "teapots"},
    )  # fmt: skip
    write_folder(find_model(str(source)), tmp_path / "hub")
    ours = tmp_path / "hub" / "model.safetensors"
    before, after = checkpoint.load(source), checkpoint.load(ours)
    for name, tensor in before.tensors.items():
        assert torch.equal(tensor, after.tensors[name])
    assert after.info.class_names == CLASSES
    assert after.info.temperature == 1.5
    assert after.info.metrics == before.info.metrics
    one, two = (Classifier(str(path)).predict(DATA / "cat.jpg") for path in (source, ours))
    assert one.predictions == two.predictions


def test_the_card(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    source = saved(
        tmp_path / "own.safetensors", get_variant("resnest14t"), temperature=1.5,
        metrics={"top1": 0.875, "mean_recall": 0.85, "photos": 40, "epoch": 3},
        provenance={"data": "teapots"},
    )  # fmt: skip
    write_folder(find_model(str(source)), tmp_path / "hub", "cc-by-4.0")
    card = hub.ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-classification"
    assert "resnest" in card.data.tags
    for text in ("87.50%", "85.00%", "40 validation photos of teapots", "red fox", "/ 1.5)"):
        assert text in card.text, text
    write_folder(find_model(str(source)), tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "license:" not in text
    assert "Not stated" in text
    bare = saved(tmp_path / "bare.safetensors", get_variant("resnest14t"))
    write_folder(find_model(str(bare)), tmp_path / "hub")
    assert "No accuracy is known" in (tmp_path / "hub" / "README.md").read_text()


def test_names_are_no_markup_in_the_card() -> None:
    hostile = ["<script>alert(1)</script>", "[click](https://x)", "*a* `b` |c| $d$", "two\nlines",
               "# head", "&lt;", "_x_", "\x1b[31m"]  # fmt: skip
    for name in hostile:
        shown = escaped(name)
        assert not re.search(r"[<>\[\]*`|$\n\x1b]|^_|_$|&(?!#\d+;)|(?<!&)#", shown), shown
        plain = html.unescape(shown)
        assert plain in (name, name.replace("\n", "\\n"), "\\x1b[31m")
    assert escaped("great_white shark, jack-o'-lantern (n.)") == (
        "great_white shark, jack-o'-lantern (n.)"
    )


@pytest.mark.filterwarnings("ignore")  # of timm's own
def test_the_card_of_a_network_that_sees_grey_shows_it_grey_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variant, path, folder = get_variant("demo"), tmp_path / "a.safetensors", tmp_path / "hub"
    network = lively(variant, num_classes=5, in_channels=1)
    checkpoint.save(path, network, CheckpointInfo(variant=variant, class_names=CLASSES))
    write_folder(find_model(str(path)), folder)
    shutil.copy(DATA / "coffee.jpg", folder / "photo.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    exec(code, {})
    label, _, probability = capsys.readouterr().out.strip().rpartition(" ")
    for model in (path, folder):
        (best,) = Classifier(model).predict(folder / "photo.jpg", topk=1).predictions
        assert label == best.label
        assert float(probability) == pytest.approx(best.probability, abs=1e-4)
    card = (folder / "README.md").read_text()
    assert "Input: grey photos" in card
    assert "mean 0.485, std 0.229." in card


@pytest.mark.filterwarnings("ignore")  # of timm's own
def test_the_cards_examples_run_and_say_what_predict_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hub"
    told = write_folder(find_model("demo"), folder)
    assert told["license"] == "apache-2.0"
    assert told["files"] == [name for name in told["files"] if (folder / name).stat().st_size]
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.save(folder / "photo.jpg", quality=95)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    exec(code, {})
    label, _, probability = capsys.readouterr().out.strip().rpartition(" ")
    (best,) = Classifier("demo").predict(folder / "photo.jpg", topk=1).predictions
    assert label == best.label == "espresso"
    assert float(probability) == pytest.approx(best.probability, abs=1e-4)


def test_config_json_has_the_keys_that_timm_writes(tmp_path: Path) -> None:
    """timm saves the network that it loaded; what both write must be equal."""
    source = saved(tmp_path / "own.safetensors", get_variant("resnest14d"))
    write_folder(find_model(str(source)), tmp_path / "hub")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True)
    timm.models.save_for_hf(theirs, tmp_path / "again", safe_serialization=True)
    ours, again = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("hub", "again")
    )
    cfg, cfg_again = ours.pop("pretrained_cfg"), again.pop("pretrained_cfg")
    names = cfg_again.pop("label_names", None) or again.pop("label_names", None)
    assert names in (None, ours.pop("label_names"))
    assert again.items() >= {k: v for k, v in ours.items() if k != "label_names"}.items()
    for key, value in cfg.items():
        assert cfg_again[key] == value, key


@pytest.mark.slow  # ten seconds for what test_parity.py has shown of the names already
def test_the_original_release_takes_the_weights(tmp_path: Path) -> None:
    """What the README tells users of torch.hub, whose network this is."""
    folder = tmp_path / "hub"
    source = saved(tmp_path / "own.safetensors", get_variant("resnest50d"))
    write_folder(find_model(str(source)), folder)
    theirs = original.resnest50(num_classes=5).eval()
    theirs.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    x = photos(1, 64, torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs(x), find_model(str(source)).network()(x), rtol=1e-4, atol=1e-4
        )


def test_classes_are_named_by_their_names_and_by_ids_where_two_share_one() -> None:
    """transformers shows label_names, so that they are names where these tell classes apart."""
    info = described(find_model("demo"), {})
    config = timm_config(info)  # two cranes, two maillots
    assert config["label_names"][:2] == ["n01440764", "n01443537"]
    assert config["label_descriptions"]["n02012849"] == "crane"
    once = replace(info, class_names=tuple(f"one {index}" for index in range(1000)))
    config = timm_config(once)
    assert config["label_names"][0] == "one 0"
    assert "label_descriptions" not in config
