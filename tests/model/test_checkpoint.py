"""Our checkpoint format: what is written is read again, by us, by timm and for ever."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from resnest_cli import __version__
from resnest_cli.errors import CheckpointError, NewerFormatError
from resnest_cli.model.checkpoint import instantiate, load, save
from resnest_cli.model.checkpoint_header import CheckpointInfo, read_info
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.model.training_photos import TrainingPhotos
from resnest_cli.model.variants import Preprocessing, Variant, get_variant
from tests.conftest import Cli
from tests.networks import TINY, enliven, photos

DATA = Path(__file__).parent / "data"
CLASSES = ("crane", "crane", "Bärenkatze", "crow", "\u732b")


def tiny_network(num_classes: int = 5, in_channels: int = 3) -> ResNeSt:
    network = build(TINY, num_classes=num_classes, in_channels=in_channels)
    return enliven(network).eval()


def tiny_info(**changes: Any) -> CheckpointInfo:
    fed = Preprocessing(96, 0.9, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    known = CheckpointInfo(
        variant=replace(TINY, preprocessing=fed),
        class_names=CLASSES,
        metrics={"epoch": 7, "top1": 81.25, "loss": [0.5, 1]},
        provenance={"command": "resnest finetune data", "parent": "resnest50d"},
    )
    return replace(known, **changes)


@torch.no_grad()
def logits(network: torch.nn.Module, x: Tensor) -> Tensor:
    result: Tensor = network(x)
    return result


def edit_header(path: Path, **changes: str | None) -> None:
    """Puts other metadata into a checkpoint; None removes a key."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"] | changes
    header["__metadata__"] = {k: v for k, v in metadata.items() if v is not None}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    save(path, tiny_network(), tiny_info())
    return path


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    network, path = tiny_network(), tmp_path / "best.safetensors"
    known = save(path, network, tiny_info())
    found = load(path)
    assert found.info == read_info(path) == known
    assert known.variant is not None
    assert known.variant.architecture == TINY.architecture
    assert known.variant.preprocessing == known.preprocessing == tiny_info().preprocessing
    for name in ("class_names", "metrics", "provenance"):
        assert getattr(known, name) == getattr(tiny_info(), name)
    assert (known.format, known.format_version) == ("resnest", 1)
    assert (known.num_classes, known.in_channels) == (5, 3)
    assert known.versions["resnest-cli"] == __version__
    assert known.tensors == len(network.state_dict())
    assert known.parameters == sum(p.numel() for p in network.parameters())
    assert list(found.tensors) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.tensors[name], tensor)
    again = instantiate(found)
    assert not again.training
    assert torch.equal(logits(again, photos(2, 64).float()), logits(network, photos(2, 64).float()))


def test_the_header_is_text_that_others_can_read(saved: Path) -> None:
    with safetensors.safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["format_version"] == "1"
    assert metadata["variant"] == "resnest50d_2s2x40d"
    assert json.loads(metadata["overrides"]) == {
        "blocks": [1, 2, 1, 1], "widths": [16, 16, 16, 32], "stem_width": 8, "base_width": 32,
    }  # fmt: skip
    assert json.loads(metadata["class_names"]) == list(CLASSES)
    assert set(json.loads(metadata["versions"])) == {
        "python", "resnest-cli", "safetensors", "torch",
    }  # fmt: skip
    assert "\u732b" in metadata["class_names"]


def test_timm_loads_the_file(tmp_path: Path) -> None:
    variant, path = get_variant("resnest14d"), tmp_path / "ours.safetensors"
    network = enliven(build(variant, num_classes=7)).eval()
    save(path, network, CheckpointInfo(variant=variant))
    theirs = timm.create_model("resnest14d", num_classes=7, checkpoint_path=str(path)).eval()
    x = photos(1, 64).float()
    torch.testing.assert_close(logits(theirs, x), logits(network, x), rtol=1e-4, atol=1e-4)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    network, first, second = tiny_network(), tmp_path / "1", tmp_path / "2"
    save(first, network, tiny_info(metrics={"a": 1, "b": 2}))
    shuffled = dict(reversed(list(network.state_dict().items())))
    save(second, shuffled, tiny_info(metrics={"b": 2, "a": 1}))
    assert first.read_bytes() == second.read_bytes()
    assert b"pickle" not in first.read_bytes()


def test_a_file_loaded_can_be_replaced_and_its_tensors_stay(saved: Path) -> None:
    before = load(saved)
    values = {name: tensor.clone() for name, tensor in before.tensors.items()}
    save(saved, enliven(tiny_network(), seed=9), before.info)
    assert all(torch.equal(before.tensors[name], values[name]) for name in values)
    assert not torch.equal(load(saved).tensors["fc.bias"], values["fc.bias"])


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(saved, tiny_network(), tiny_info())
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_bytes_are_on_the_disk_before_the_name(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (events.append("replace"), rename(self, target))[1]
    )
    save(saved, tiny_network(), tiny_info())
    assert events[:2] == ["fsync", "replace"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no folder .*no-such"):
        save(tmp_path / "no-such" / "x.safetensors", tiny_network(), tiny_info())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_save_refuses_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    network = tiny_network()
    with torch.no_grad():
        network.layer2[0].conv3.weight[0, 0] = value
    with pytest.raises(CheckpointError, match=r"layer2\.0\.conv3\.weight.*diverged"):
        save(tmp_path / "x.safetensors", network, tiny_info())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("a", "b")}, "5 classes, but 2 class names"),
        ({"variant": None}, "needs a variant"),
        ({"variant": get_variant("resnest14d")}, r"has 'layer2\.1\.conv1\.weight'.*26 more"),
        ({"variant": TINY.overridden({"stem_width": 4})}, r"conv1\.0\.weight has shape \(8, 3"),
        ({"variant": get_variant("resnest50d")}, "too few"),
        ({"metrics": {"loss": float("nan")}}, "metrics cannot be written"),
        ({"provenance": {"x": Path("x")}}, "provenance cannot be written"),
        ({"class_names": ("a", "b", "c", "d", "\ud800")}, "class_names cannot be written"),
        ({"provenance": {"x": "y" * 9_000_000}}, "Shorten them"),
    ],
)
def test_save_refuses_what_could_not_be_read(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "x.safetensors", tiny_network(), tiny_info(**changes))
    assert not list(tmp_path.iterdir())


def test_a_half_precision_network_is_saved_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save(path, tiny_network().half(), tiny_info())
    assert load(path).tensors["fc.weight"].dtype == torch.float32


def test_channels_last_and_wrapped_networks_give_the_same_file(tmp_path: Path) -> None:
    network, first, second = tiny_network(), tmp_path / "1", tmp_path / "2"
    save(first, network, tiny_info())
    wrapped = torch.nn.DataParallel(network.to(memory_format=torch.channels_last))
    save(second, wrapped, tiny_info())
    assert first.read_bytes() == second.read_bytes()


def test_a_newer_format_is_refused_with_the_version_needed(saved: Path) -> None:
    edit_header(saved, format_version="3", minimum_resnest_cli="3.1.0", variant="unheard")
    for read in (read_info, load):
        with pytest.raises(NewerFormatError, match=r"needs resnest-cli 3\.1\.0.*>=3\.1\.0"):
            read(saved)
    edit_header(saved, minimum_resnest_cli="\x1b[31m'; rm -rf ~")
    with pytest.raises(NewerFormatError, match="needs a later resnest-cli") as caught:
        read_info(saved)
    assert "rm -rf" not in str(caught.value)


def test_unknown_header_keys_are_tolerated(saved: Path) -> None:
    before = load(saved).info
    edit_header(saved, calibration="[1, 2", added_in="0.9")
    assert load(saved).info == before


def test_absent_optional_keys_have_defaults(saved: Path) -> None:
    edit_header(saved, class_names=None, preprocessing=None, metrics=None, versions=None)
    info = load(saved).info
    assert info.class_names is None
    assert info.preprocessing == TINY.preprocessing
    assert info.metrics == {}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", "zero", "format_version"),
        ("format_version", "-1", "format_version"),
        ("format_version", "9" * 5000, "format_version"),
        ("variant", "resnest51d", "unknown variant"),
        ("variant", "x" * 1_000_000, "unknown variant"),
        ("variant", None, "unknown variant"),
        ("overrides", "{", "overrides is not valid JSON"),
        ("overrides", "[" * 50_000, "overrides is not valid JSON"),
        ("overrides", "[1]", "overrides must be a JSON object"),
        ("overrides", '{"depth": 3}', "unknown architecture field"),
        ("overrides", '{"widths": [8, 8, 8, -1]}', "widths"),
        ("overrides", '{"widths": [8, 8, 8, 1e9]}', "widths"),
        ("overrides", '{"blocks": [1, 2, 1, 9999999999]}', "blocks"),
        ("overrides", '{"radix": 1, "radix": 2}', "overrides is not valid JSON"),
        ("class_names", '["a", "b"]', "2 names for 5 classes"),
        ("class_names", '"abcde"', "class_names must be a JSON list"),
        ("class_names", "[1, 2, 3, 4, 5]", "class_names"),
        ("class_names", '["a", "b", "c", "d", "\\ud800"]', "class_names is not valid JSON"),
        ("preprocessing", "{}", "preprocessing"),
        ("preprocessing", "null", "preprocessing must be a JSON object"),
        ("preprocessing", '{"size": 1e999}', "preprocessing is not valid JSON"),
        ("metrics", '{"loss": NaN}', "metrics is not valid JSON"),
        ("metrics", "7", "metrics must be a JSON object"),
    ],
)
def test_a_broken_value_in_our_header_is_named(
    saved: Path, key: str, value: str | None, message: str
) -> None:
    edit_header(saved, **{key: value})
    for read in (read_info, load):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(saved)
        assert str(saved) in str(caught.value)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "overrides",
    [
        {"blocks": [65536] * 4},
        {"widths": [65536] * 4, "base_width": 65536, "radix": 65536, "cardinality": 65536},
        {"cardinality": 65536, "base_width": 1, "widths": [1, 1, 1, 1]},
    ],
)
def test_insane_sizes_are_refused_before_anything_is_built(
    saved: Path, overrides: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sane = {"blocks": [1, 2, 1, 1], "widths": [16, 16, 16, 32], "stem_width": 8, "base_width": 32}
    edit_header(saved, overrides=json.dumps(sane | overrides))
    read_info(saved)
    with pytest.raises(CheckpointError, match=r"too few|cannot be built|has shape"):
        load(saved)


def test_expectations_are_held_against_the_file(saved: Path) -> None:
    assert load(saved, variant=TINY).info.variant is not None
    with pytest.raises(CheckpointError, match="resnest50d was expected"):
        load(saved, variant=get_variant("resnest50d"))
    # Same shapes, another computation: only the header can tell.
    with pytest.raises(CheckpointError, match="was expected"):
        load(saved, variant=TINY.overridden({"avd_first": False}))


def test_other_input_channels_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "grey.safetensors"
    save(path, tiny_network(in_channels=1), tiny_info())
    network = instantiate(load(path))
    assert network.in_channels == 1
    assert logits(network, torch.zeros(1, 1, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights"])
def test_content_decides_not_the_extension(tmp_path: Path, name: str) -> None:
    path, network = tmp_path / name, tiny_network()
    save(path, network, tiny_info())
    assert load(path).info.format == "resnest"
    torch.save(network.state_dict(), path)
    assert read_info(path).format == "pickle"
    assert load(path, variant=TINY).info.format == "pickle"


def test_bare_safetensors_are_inferred(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    tensors = timm.create_model("resnest14d", num_classes=6).state_dict()
    safetensors.torch.save_file({f"module.{k}": v for k, v in tensors.items()}, path)
    info = read_info(path)
    assert (info.format, info.num_classes, info.in_channels) == ("safetensors", 6, 3)
    assert (info.format_version, info.class_names) == (None, None)
    found = load(path)
    assert found.info == info
    assert found.info.variant == get_variant("resnest14d")
    assert found.info.preprocessing == get_variant("resnest14d").preprocessing
    assert torch.equal(found.tensors["fc.weight"], tensors["fc.weight"])


def test_other_safetensors_have_an_info_but_do_not_load(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"embed": torch.zeros(3, 4)}, path, metadata={"format": "pt"})
    info = read_info(path)
    assert (info.variant, info.num_classes) == (None, None)
    assert (info.tensors, info.parameters) == (1, 12)
    with pytest.raises(CheckpointError, match=r"fits no published ResNeSt.*--model ID --weights"):
        load(path)


def test_instantiate_neither_draws_nor_copies(saved: Path) -> None:
    found, before = load(saved), torch.get_rng_state()
    network = instantiate(found)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in network.state_dict().items():
        assert tensor.data_ptr() == found.tensors[name].data_ptr()
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    assert all(parameter.requires_grad for parameter in network.parameters())


# The golden checkpoints: files of each format stay loadable for ever.

GOLDEN_OVERRIDES = {
    "blocks": [1, 2, 1, 1], "widths": [8, 8, 8, 16], "stem_width": 4, "base_width": 32,
}  # fmt: skip


def golden_input() -> Tensor:
    """(2, 3, 64, 64) in [-5, 3], from integers, so that no generator can change it."""
    numbers = np.arange(3 * 64 * 64, dtype=np.int64).reshape(1, 3, 64, 64)
    noise = (numbers * 37 % 101 - 50) / 50
    return torch.from_numpy(np.concatenate([noise, 3 * noise[:, ::-1] - 2]).astype(np.float32))


# Format 2 is that of several labels for one photo.
GOLDEN: dict[int, dict[str, Any]] = {
    1: {"metrics": {"epoch": 3, "top1": 81.25}},
    2: {"metrics": {"epoch": 3, "map": 0.8125}, "thresholds": (0.25, 0.5, 1.0)},
}  # fmt: skip


def write_golden(number: int, folder: Path = DATA) -> None:
    """Made tests/model/data/golden-v<number>.*, once; run again only for a new format."""
    variant: Variant = get_variant("resnest50d_2s2x40d").overridden(GOLDEN_OVERRIDES)
    network = enliven(build(variant, num_classes=3), seed=20).eval()
    fed = Preprocessing(64, 0.9, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    info = CheckpointInfo(
        variant=replace(variant, preprocessing=fed),
        class_names=("crane", "Bärenkatze", "\u732b"),
        provenance={"command": "write_golden"},
        **GOLDEN[number],
    )
    folder.mkdir(exist_ok=True)
    save(folder / f"golden-v{number}.safetensors", network, info)
    expected = {"logits": logits(network, golden_input()).tolist()}
    text = json.dumps(expected, indent=1) + "\n"
    (folder / f"golden-v{number}.json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("number", GOLDEN)
def test_the_golden_checkpoint_of_each_format_still_loads(tmp_path: Path, number: int) -> None:
    path = tmp_path / "golden.safetensors"
    shutil.copy(DATA / f"golden-v{number}.safetensors", path)
    found = load(path)
    assert found.info.variant is not None
    changed = {k: found.info.variant.architecture[k] for k in GOLDEN_OVERRIDES}
    assert changed == GOLDEN_OVERRIDES
    assert found.info.variant.avd_first
    assert found.info.class_names == ("crane", "Bärenkatze", "\u732b")
    assert found.info.preprocessing == Preprocessing(
        64, 0.9, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    )
    assert found.info.metrics == GOLDEN[number]["metrics"]
    assert found.info.thresholds == GOLDEN[number].get("thresholds")
    assert found.info.provenance == {"command": "write_golden"}
    assert found.info.format_version == number
    expected = json.loads((DATA / f"golden-v{number}.json").read_text(encoding="utf-8"))["logits"]
    torch.testing.assert_close(
        logits(instantiate(found), golden_input()), torch.tensor(expected), rtol=1e-4, atol=1e-4
    )
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("depth", [31, 32, 40, 900, 3000, 200_000])
@pytest.mark.parametrize("key", ["metrics", "provenance", "versions"])
def test_metadata_nested_however_deep_are_told(
    saved: Path, tmp_path: Path, cli: Cli, key: str, depth: int
) -> None:
    path = tmp_path / "deep.safetensors"
    shutil.copy(saved, path)
    edit_header(path, **{key: '{"a":' * depth + "1" + "}" * depth})
    shown = cli("models", "show", path)
    if depth <= 32:
        assert shown.code == 0
        load(path)
        return
    assert shown.code == 1
    assert re.search(f"damaged header: {key} is (nested too deep|not valid JSON)", shown.err)
    with pytest.raises(CheckpointError, match="damaged header"):
        load(path)


def test_training_photos_are_kept_and_a_damaged_set_is_told(tmp_path: Path) -> None:
    photos = TrainingPhotos.of([b"%08d" % n for n in range(40)])
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    for path in (one, two):
        save(path, tiny_network(), tiny_info(trained_on=photos))
        assert read_info(path).trained_on == load(path).info.trained_on == photos
    assert one.read_bytes() == two.read_bytes()
    theirs = timm.models.load_state_dict(str(one))
    assert theirs.keys() == tiny_network().state_dict().keys()  # no tensor more
    for spoilt in ('{"photos": 41, "hashes": "AAAA"}', '{"photos": 40}', "[1]", '"x"', "{"):
        edit_header(one, trained_on=spoilt)
        with pytest.raises(CheckpointError, match=r"1\.safetensors has a damaged header"):
            read_info(one)
