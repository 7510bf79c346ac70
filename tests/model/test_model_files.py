"""Folders with a config.json, and files beside one: timm's, transformers' and our own."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.errors import CheckpointError, UsageError
from resnest_cli.export.hub_folder import TIMM_NAMES, write_folder
from resnest_cli.model.config_json import read_config
from resnest_cli.model.loading import Model, find_model
from resnest_cli.model.variants import VARIANTS, Preprocessing
from resnest_cli.net import Access
from tests.conftest import CLASSES, Cli, make_photo
from tests.networks import enliven

PHOTO = Path(__file__).parents[1] / "data" / "cat.jpg"
NAMES = [f"kind {index}" for index in range(7)]
OTHERWISE = {"input_size": (3, 96, 96), "crop_pct": 0.8, "interpolation": "bicubic",
             "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}  # fmt: skip
SQUASHED = OTHERWISE | {"crop_mode": "squash"}
GREY = {"input_size": (1, 64, 64), "crop_pct": 0.95, "mean": (0.4,), "std": (0.3,)}


def timm_network(name: str, fed: dict, device: str = "cpu"):
    channels = fed["input_size"][0]
    with torch.device(device):
        network = timm.create_model(
            name, num_classes=7, in_chans=channels, pretrained_cfg_overlay=fed
        )
    return network.eval()


def saved(network, folder: Path, *, safe: bool = True) -> Path:
    timm.models.save_for_hf(
        network, folder, model_config={"label_names": NAMES}, safe_serialization=safe
    )
    return folder


def theirs(network, folder: Path) -> torch.Tensor:
    """The probabilities that timm gives for the photo."""
    fed = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**fed, is_training=False)
    mode = "L" if fed["input_size"][0] == 1 else "RGB"
    with Image.open(PHOTO) as photo, torch.inference_mode():
        return network(transform(photo.convert(mode))[None]).softmax(-1)[0]


def ours(name: str | Path) -> dict[str, float]:
    found = Classifier(str(name), device="cpu", engine="torch").predict(PHOTO, topk=1000)
    return {one.label: one.probability for one in found.predictions}


@pytest.mark.parametrize("fed", [OTHERWISE, SQUASHED, GREY], ids=["rgb", "squashed", "grey"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_timms_folder_gives_timms_probabilities(fed: dict, safe: bool, tmp_path: Path) -> None:
    network = enliven(timm_network("resnest14d", fed))
    folder = saved(network, tmp_path / "saved", safe=safe)
    expected = dict(zip(NAMES, theirs(network, folder).tolist(), strict=True))
    for name in (folder, f"local-dir:{folder}", folder.as_uri(), next(folder.glob("*el*.*[sn]"))):
        assert ours(name) == pytest.approx(expected, abs=1e-5), name
    assert max(expected.values()) - min(expected.values()) > 0.01


@pytest.mark.parametrize("fed", [OTHERWISE, GREY], ids=["rgb", "grey"])
@pytest.mark.parametrize("name", TIMM_NAMES)
def test_timms_config_of_every_variant(name: str, fed: dict, tmp_path: Path) -> None:
    network = timm_network(name, fed, "meta")
    timm.models._hub.save_config_for_hf(
        network, tmp_path / "config.json", model_config={"label_names": NAMES}
    )
    found = read_config(tmp_path / "config.json")
    assert found.variant == VARIANTS[name]
    assert found.preprocessing.size == fed["input_size"][1]
    assert found.preprocessing.crop_pct == fed["crop_pct"]
    assert found.preprocessing.mean[0] == pytest.approx(fed["mean"][0])
    assert found.in_channels == fed["input_size"][0]
    assert found.class_names == tuple(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TIMM_NAMES if name != "resnest14d"])
def test_timms_folder_of_every_variant(name: str, tmp_path: Path) -> None:
    network = enliven(timm_network(name, OTHERWISE))
    folder = saved(network, tmp_path / "saved")
    expected = dict(zip(NAMES, theirs(network, folder).tolist(), strict=True))
    assert ours(folder) == pytest.approx(expected, abs=1e-5)


def test_more_channels_than_photos_have_are_refused(tmp_path: Path) -> None:
    folder = saved(timm_network("resnest14d", GREY | {"input_size": (4, 64, 64)}), tmp_path / "x")
    assert find_model(str(folder)).in_channels == 4
    with pytest.raises(UsageError, match="takes 4 channels"):
        Classifier(str(folder))


@pytest.fixture
def own(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """What `export --hub` writes of the tiny network."""
    write_folder(find_model(str(tiny_checkpoint)), tmp_path / "own")
    return tmp_path / "own"


def test_our_folder_gives_the_same_in_all_three(own: Path, tiny_checkpoint: Path) -> None:
    expected = ours(tiny_checkpoint)
    assert ours(own) == pytest.approx(expected, abs=1e-5)
    network = timm.create_model(f"local-dir:{own}", pretrained=True).eval()
    names = network.pretrained_cfg["label_names"]
    assert dict(zip(names, theirs(network, own).tolist(), strict=True)) == pytest.approx(
        expected, abs=1e-5
    )
    transformers = pytest.importorskip("transformers")
    pipeline = transformers.pipeline("image-classification", model=str(own), device="cpu")
    found = pipeline(str(PHOTO), top_k=5)
    assert {one["label"]: one["score"] for one in found} == pytest.approx(expected, abs=1e-5)


def test_what_transformers_saves(own: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = transformers.AutoModelForImageClassification.from_pretrained(own)
    network.save_pretrained(tmp_path / "saved")
    assert ours(tmp_path / "saved") == pytest.approx(ours(own), abs=1e-5)


def timms_backbone(own: Path, folder: Path) -> None:
    network = timm.create_model(f"local-dir:{own}", pretrained=True, num_classes=0)
    timm.models.save_for_hf(network, folder, model_config={"num_classes": 0})


def transformers_backbone(own: Path, folder: Path) -> None:
    """Its config.json goes on to name the five classes."""
    transformers = pytest.importorskip("transformers")
    transformers.AutoModel.from_pretrained(own).save_pretrained(folder)


@pytest.mark.parametrize("save", [timms_backbone, transformers_backbone])
def test_a_backbone_serves_features(save, own: Path, tmp_path: Path) -> None:
    save(own, tmp_path / "saved")
    found = Classifier(tmp_path / "saved", device="cpu")
    assert found.class_names == ()
    expected = Classifier(own, device="cpu").features(PHOTO)
    assert found.features(PHOTO) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(CheckpointError, match="has no classifier"):
        found.predict(PHOTO)


def test_names_in_a_config_win_over_those_in_a_pickle(own: Path) -> None:
    tensors = safetensors.torch.load_file(own / "model.safetensors")
    torch.save({"model": tensors, "classes": list("pqrst")}, own / "pytorch_model.bin")
    (own / "model.safetensors").unlink()
    for _ in range(2):  # read, and remembered
        said: list[str] = []
        found = find_model(str(own), access=Access(notify=said.append))
        assert found.class_names == CLASSES
        assert "class names from config.json" in said[0]
        assert "from classes" not in said[0]
    changed(own, label_names=None)
    assert find_model(str(own)).class_names == tuple("pqrst")


def bare(own: Path) -> Path:
    """Takes our header off the folder's weights."""
    path = own / "model.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), path)
    return path


def changed(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_config_beside_a_file_is_read(own: Path) -> None:
    found = find_model(str(bare(own)))
    assert found.class_names == CLASSES
    assert found.preprocessing == Preprocessing(48, 0.9, "bicubic")
    renamed = own / "best.pth"
    torch.save(safetensors.torch.load_file(own / "model.safetensors"), renamed)
    for source in (renamed, own):
        beside = find_model(str(source))
        assert beside.class_names == CLASSES
        assert beside.config == own / "config.json"


def test_weights_for_a_named_variant_have_their_config_too(tmp_path: Path) -> None:
    folder = saved(enliven(timm_network("resnest14d", OTHERWISE)), tmp_path / "saved")
    for source in (folder, folder / "model.safetensors", f"local-dir:{folder}"):
        found = find_model("resnest14d", source=str(source))
        assert found.class_names == tuple(NAMES)
        assert found.preprocessing.size == 96
    with pytest.raises(CheckpointError, match=r"resnest14d; resnest26d was expected"):
        find_model("resnest26d", source=str(folder))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_classes": 6, "label_names": None}, "has 5 classes; "),
        ({"pretrained_cfg": {"input_size": [1, 48, 48]}}, "has 3 input channels; "),
        ({"model_args": None}, "says that it is a resnest14d"),
        ({"architecture": "resnest26d", "model_args": None}, "says that it is a resnest26d"),
    ],
)
def test_a_config_that_contradicts_the_file_is_an_error(
    changes: dict, told: str, own: Path
) -> None:
    changed(own, **changes)
    with pytest.raises(CheckpointError):
        find_model(str(own)).load()
    said: list[str] = []
    path = own / "model.safetensors"
    access = Access(notify=said.append)
    assert find_model(str(path), access=access).class_names == CLASSES
    assert "says otherwise" in said[0]  # its own header is used
    bare(own)
    for name in (path, own):
        with pytest.raises(CheckpointError) as error:
            find_model(str(name)).load()
        assert told in str(error.value)
        assert str(own / "config.json") in str(error.value)


def test_an_unrelated_config_beside_a_file_is_noted(own: Path) -> None:
    weights = own / "model.safetensors"
    said: list[str] = []
    access = Access(notify=said.append)
    for text in ('{"lr": 0.1}', '{"architecture": "vit_base"}'):
        (own / "config.json").write_text(text)
        assert find_model(str(weights), access=access).class_names == CLASSES
        assert "names no ResNeSt: it is not read for model.safetensors" in said.pop()
        with pytest.raises(CheckpointError, match=r"config\.json"):
            find_model(str(own))


def test_a_damaged_config_stops_what_needs_it(own: Path) -> None:
    (own / "config.json").write_text('{"architecture": "resn')
    weights = own / "model.safetensors"
    assert find_model(str(weights)).class_names == CLASSES  # its own header says all
    bare(own)
    with pytest.raises(CheckpointError, match="Mend it, or move it away"):
        find_model(str(weights))


def test_our_own_header_and_a_config_that_says_otherwise(own: Path) -> None:
    """The folder is fed as its config.json says, as in timm; the file as its header says."""
    record = json.loads((own / "config.json").read_text())
    changed(own, pretrained_cfg=record["pretrained_cfg"] | {"crop_pct": 0.5})
    said: list[str] = []
    assert find_model(str(own)).preprocessing.crop_pct == 0.5
    found = find_model(str(own / "model.safetensors"), access=Access(notify=said.append))
    assert found.preprocessing.crop_pct == 0.9
    assert "says otherwise" in said[0]


def no_config(own: Path) -> str:
    (own / "config.json").unlink()
    return "holds no config.json."


def no_weights(own: Path) -> str:
    (own / "model.safetensors").rename(own / "net.safetensors")
    return f"holds no model.safetensors or pytorch_model.bin. Give the file itself: --model {own}"


def a_run(own: Path) -> str:
    no_config(own)
    (own / "weights").mkdir()
    (own / "model.safetensors").rename(own / "weights" / "best.safetensors")
    return f"--model {own / 'weights' / 'best.safetensors'}"


def a_cache(own: Path) -> str:
    snapshot = own.parent / "moved"
    shutil.move(own, snapshot)
    own.mkdir()
    (own / "snapshots").mkdir()
    shutil.move(snapshot, own / "snapshots" / "abc")
    return f"--model {own / 'snapshots' / 'abc'}"


def a_pointer(own: Path) -> str:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (own / "model.safetensors").write_text(pointer)
    return "Git LFS pointer"


def another_network(own: Path) -> str:
    changed(own, architecture="resnet50")
    return "resnet50, which is no ResNeSt"


@pytest.mark.parametrize(
    "arrange", [no_config, no_weights, a_run, a_cache, a_pointer, another_network]
)
def test_a_folder_that_is_none_of_a_model_says_what_to_give(arrange, own: Path) -> None:
    told = arrange(own)
    with pytest.raises(CheckpointError) as error:
        find_model(str(own))
    assert told in str(error.value)


def test_another_crop_is_for_reading_photos_alone(own: Path, cli: Cli, tmp_path: Path) -> None:
    record = json.loads((own / "config.json").read_text())
    changed(own, pretrained_cfg=record["pretrained_cfg"] | {"crop_mode": "squash"})
    assert Classifier(str(own), crop_mode="center").preparation.crop_mode == "center"
    assert Classifier(str(own)).preparation.crop_mode == "squash"
    done = cli("export", "--model", own, "--hub", tmp_path / "again")
    assert done.code == 2
    assert "asks for the crop mode squash" in done.err


def test_labels_win_over_the_config(own: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("v\nw\nx\ny\nz\n")
    found = find_model(str(own), labels=tmp_path / "names.txt")
    assert found.class_names == tuple("vwxyz")


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_serves_every_command(own: Path, cli: Cli, tmp_path: Path) -> None:
    features = cli("features", PHOTO, "-o", tmp_path / "f.npy", "--model", own, "--device", "cpu")
    assert features.code == 0, features.err
    again = tmp_path / "again"
    assert cli("export", "--model", f"local-dir:{own}", "--hub", again).code == 0
    assert ours(again) == ours(own)
    data = tmp_path / "data"
    for number, name in enumerate(CLASSES[:2]):
        (data / name).mkdir(parents=True)
        for seed in range(4):
            make_photo(data / name / f"{seed}.png", seed=4 * number + seed)
    done = cli("evaluate", data, "--model", own, "--compare", again, "--device", "cpu")
    assert done.code == 0, done.err
    assert cli("download", own).code == 2
    done = cli("train", data, "--model", own)
    assert done.code == 2
    assert "resnest finetune" in done.err


def test_what_is_known_of_a_pickle_is_checked_against_the_config_again(
    own: Path, tmp_path: Path
) -> None:
    folder = saved(enliven(timm_network("resnest14d", OTHERWISE)), tmp_path / "b", safe=False)
    assert find_model(str(folder)).num_classes == 7  # loads it, and remembers
    model: Model = find_model(str(folder))
    assert model.class_names == tuple(NAMES)
    changed(folder, num_classes=6, label_names=NAMES[:6])
    with pytest.raises(CheckpointError, match="has 7 classes; "):
        find_model(str(folder))
