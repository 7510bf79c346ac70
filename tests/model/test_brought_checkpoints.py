"""Files of weights as people have them: each gives the answers of the bare file, and says so."""

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from resnest_cli.errors import CheckpointError, LabelsError
from resnest_cli.inference.classifier import Classifier
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint import load
from resnest_cli.model.checkpoint_header import read_info
from resnest_cli.model.labels import find_class_names
from resnest_cli.model.loading import find_model
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.model.variants import get_variant
from resnest_cli.net import Access
from tests.conftest import Cli, make_photo
from tests.model.test_checkpoint import edit_header
from tests.networks import TINY, enliven

State = dict[str, Any]
NAMES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture(scope="module")
def network() -> ResNeSt:
    return enliven(build(TINY, num_classes=5))


@pytest.fixture(scope="module")
def state(network: ResNeSt) -> State:
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def renamed(state: State, body: str, head: str) -> State:
    """The body under one name, the classifier under another."""
    return {
        name.replace("fc.", head) if name.startswith("fc.") else body + name: tensor
        for name, tensor in state.items()
    }


def averaged(state: State) -> State:
    """What torch's own averaging holds: `n_averaged` beside `module.…`."""
    network = build(TINY, num_classes=5)
    network.load_state_dict(state)
    return dict(AveragedModel(network).state_dict())


def profiled(state: State) -> State:
    """As thop leaves a network: two counters in every module."""
    modules = {name.rpartition(".")[0] for name in state} | {""}
    counters = {
        f"{module}.{counter}".lstrip("."): torch.zeros(1, dtype=torch.float64)
        for module in modules
        for counter in ("total_ops", "total_params")
    }
    return state | counters


def numpy_metrics(state: State) -> State:
    return {
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": np.float64(0.1)}]},
        "accuracy": np.float64(0.5),
        "loss": [np.float32(1), np.int64(2), np.bool_(True), np.str_("x")],
        "confusion": np.zeros((2, 2)),
        "history": defaultdict(list, loss=[1.0]),
        "rng": np.random.default_rng(0).bit_generator.state,
        "args": argparse.Namespace(output_dir=PurePosixPath("/x"), path=Path("y")),
    }


# What is brought -> how it is made of a state dict, and what is said of it.
BROUGHT: dict[str, tuple[Callable[[State], object], str]] = {
    "torchvision with EMA": (
        lambda s: {"model": other(s), "model_ema": averaged(s), "epoch": 3},
        "took model_ema, not model; left out n_averaged",
    ),
    "a saved average": (averaged, "left out n_averaged"),
    "Lightning": (
        lambda s: {"state_dict": prefixed("model.", s), "loops": {}, "callbacks": {"a": {}}},
        "took state_dict; without the prefix 'model.'",
    ),
    "Lightning with a loss": (
        lambda s: {"state_dict": {**prefixed("net.", s), "criterion.weight": torch.ones(5)}},
        "took state_dict; without the prefix 'net.'; left out 'criterion.weight'",
    ),
    **{
        f"prefix {prefix}": (lambda s, prefix=prefix: prefixed(prefix, s), f"prefix {prefix!r}")
        for prefix in ("backbone.", "timm_model.", "model.backbone.", "anything.")
    },
    "DDP and compile": (lambda s: prefixed("module._orig_mod.", s), ""),
    "compile in Lightning": (lambda s: prefixed("model._orig_mod.module.", s), "'model.module.'"),
    "compiled stages": (
        lambda s: {name.replace("layer1.", "layer1._orig_mod."): t for name, t in s.items()},
        "",
    ),
    "FSDP": (lambda s: prefixed("_fsdp_wrapped_module.", s), ""),
    **{
        f"under {key}": (lambda s, key=key: {"epoch": 1, key: s, "optimizer": {}}, f"took {key}")
        for key in ("model_state_dict", "net", "network", "weights", "module", "ema")
    },
    "EMA of others": (
        lambda s: {"state_dict": other(s), "ema_state_dict": s},
        "took ema_state_dict, not state_dict",
    ),
    "settings under a known key": (
        lambda s: {"model": {"name": "resnest50d"}, "ema": {"decay": 0.9}, "weights": s},
        "took weights",
    ),
    "thop's counters": (profiled, "left out total_ops, total_params"),
    "numpy's metrics": (numpy_metrics, "took model_state_dict"),
    "backbone and head": (
        lambda s: {"state_dict": renamed(s, "backbone.", "head.fc.")},
        "took state_dict; without the prefix 'backbone.'; classifier from 'head.fc'",
    ),
    "a head with dropout": (lambda s: renamed(s, "", "fc.1."), "classifier from 'fc.1'"),
    "pretrainedmodels": (lambda s: renamed(s, "", "last_linear."), "classifier from 'last_linear'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROUGHT)
def test_it_is_the_bare_network(tmp_path: Path, state: State, case: str) -> None:
    make, said = BROUGHT[case]
    path = tmp_path / "brought.pth"
    torch.save(make(state), path)
    found = load(path, variant=TINY)
    assert found.tensors.keys() == state.keys()
    assert all(torch.equal(found.tensors[name], state[name]) for name in state)
    assert said in "; ".join(found.info.notes)
    if not said:
        assert not found.info.notes


NAMED = {
    "timm": {"arch": "resnest50d_2s1x64d"},
    "with a tag": {"arch": "resnest50d_2s1x64d.in1k"},
    "an alias": {"arch": "resnest50_fast_2s1x64d"},
    "torchvision": {"args": argparse.Namespace(model="resnest50d_2s1x64d")},
}


@pytest.mark.parametrize("case", NAMED)
def test_the_file_says_which_of_two_it_is(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.pth"
    state = build("resnest50d", num_classes=2).state_dict()
    torch.save({"state_dict": state, **NAMED[case]}, path)
    found = load(path).info
    assert found.variant == get_variant("resnest50d_2s1x64d")
    assert "by its own word" in found.notes[-1]
    assert load(path, variant=get_variant("resnest50d")).info.variant == get_variant("resnest50d")
    torch.save({"state_dict": state, "arch": "resnet50"}, path)
    with pytest.raises(CheckpointError, match="whose tensors have the same shapes"):
        load(path)


def test_averages_say_what_they_took(cli: Cli, files: dict[str, Path], tmp_path: Path) -> None:
    done = cli("average", *[files["lightning"]] * 2, "-o", tmp_path / "mean.safetensors")
    assert done.code == 0
    assert f"{files['lightning']}: took state_dict; without the prefix 'model.'" in done.err
    done = cli("average", files["body"], files["body"], "-o", tmp_path / "mean2.safetensors")
    assert (done.code, "has no classifier" in done.err) == (1, True)


def test_prefixes_in_safetensors(tmp_path: Path, state: State) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "brought.safetensors"
    save_file(prefixed("model.", profiled(state)), path, {"classes": '["a","b","c","d","e"]'})
    found = load(path, variant=TINY)
    assert all(torch.equal(found.tensors[name], state[name]) for name in state)
    assert found.info.class_names == tuple("abcde")
    assert found.info.notes[0] == "without the prefix 'model.'"
    assert read_info(path).notes == found.info.notes


REFUSED: dict[str, tuple[Callable[[State], object], str]] = {
    "two networks": (
        lambda s: {**prefixed("student.", s), **prefixed("teacher.", s)},
        "2 networks.*'student.' and 'teacher.'",
    ),
    "another network": (lambda s: {**s, "se.weight": torch.ones(2)}, "has 'se.weight', which"),
    "two classifiers": (lambda s: {**s, "aux.weight": s["fc.weight"]}, "has 'aux.weight', which"),
    "half of one": (lambda s: {n: t for n, t in s.items() if n != "fc.bias"}, "lacks fc.bias"),
    "a module": (lambda _: {"model": nn.Linear(1, 1)}, "whose classes a whole network needs"),
    "arrays": (lambda s: {"conv1.0.weight": s["conv1.0.weight"].numpy()}, "a tensor was expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_an_error(tmp_path: Path, state: State, case: str) -> None:
    make, message = REFUSED[case]
    path = tmp_path / "brought.pth"
    torch.save(make(state), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path, variant=TINY)
    assert str(path) in str(caught.value)


def test_a_pickle_of_another_protocol(tmp_path: Path, state: State) -> None:
    path = tmp_path / "brought.pth"
    torch.save(state, path, pickle_protocol=4)
    with pytest.raises(CheckpointError, match="not of protocol 2"):
        load(path, variant=TINY)


FOLDERS = {
    "FSDP": ({".metadata", "__0_0.distcp"}, "dcp_to_torch"),
    "DeepSpeed": ({"zero_to_fp32.py", "latest"}, "zero_to_fp32"),
    "unpacked": ({"data.pkl", "version"}, "give the file itself"),
    "other": ({"best.pth"}, "Give a file of weights in it"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_say_what_they_are(tmp_path: Path, kind: str) -> None:
    names, advice = FOLDERS[kind]
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=advice):
        load(tmp_path)


# What lies around the weights -> the names of five classes, or the note.
CLASS_NAMES: dict[str, tuple[dict[str, Any], tuple[str, ...] | str]] = {
    "class_to_idx": ({"class_to_idx": {NAMES[i]: i for i in (3, 1, 4, 0, 2)}}, NAMES),
    "numbers as names": (
        {"class_to_idx": {"0": 0, "1": 1, "10": 2, "11": 3, "2": 4}},
        ("0", "1", "10", "11", "2"),
    ),
    "classes": ({"classes": list(NAMES)}, NAMES),
    "class_names": ({"class_names": NAMES, "classes": 5}, NAMES),
    "idx_to_class": ({"idx_to_class": dict(enumerate(NAMES))}, NAMES),
    "JSON's idx_to_class": ({"idx_to_class": {str(i): n for i, n in enumerate(NAMES)}}, NAMES),
    "Ultralytics": ({"names": dict(enumerate(NAMES))}, NAMES),
    "MMPretrain": ({"meta": {"CLASSES": NAMES}}, NAMES),
    "Lightning": ({"hyper_parameters": {"class_names": list(NAMES)}}, NAMES),
    "the first that can be used": ({"classes": ["a"], "names": list(NAMES)}, NAMES),
    "a number": ({"classes": 5}, ""),
    "too few": ({"classes": ["a", "b"]}, "classes not used: it has 2 names for 5 classes"),
    "gaps": ({"class_to_idx": {n: 2 * i for i, n in enumerate(NAMES)}}, "does not number 5"),
    "twice": ({"class_to_idx": {n: min(i, 3) for i, n in enumerate(NAMES)}}, "does not number 5"),
    "from 1": ({"class_to_idx": {n: i + 1 for i, n in enumerate(NAMES)}}, "from 0 to 4"),
    "an array": ({"classes": np.array(NAMES)}, "is no list of texts"),
    "numbers": ({"classes": [0, 1, 2, 3, 4]}, "is no list of texts"),
    "nested": ({"classes": {"a": {}, "b": {}}}, "does not number 2"),
    "an empty name": ({"classes": ["a", "b", "", "d", "e"]}, "has names that are empty"),
    "no text": ({"classes": ["a", "b", "\ud800", "d", "e"]}, "no valid text"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLASS_NAMES)
def test_class_names(case: str) -> None:
    around, expected = CLASS_NAMES[case]
    names, notes = find_class_names([around], 5)
    if isinstance(expected, tuple):
        assert names == expected
        assert "class names from" in notes[-1]
    else:
        assert names is None
        assert expected in "; ".join(notes)
        assert bool(notes) == bool(expected)


@pytest.fixture(scope="module")
def fourteen() -> State:
    """A resnest14d with three classes, which a bare file tells apart from all other variants."""
    return dict(enliven(build("resnest14d", num_classes=3)).state_dict())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, fourteen: State) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    body = {name: tensor for name, tensor in fourteen.items() if not name.startswith("fc.")}
    contents = {
        "bare": fourteen,
        "lightning": {"state_dict": prefixed("model.", fourteen), "classes": ["ant", "bee", "cat"]},
        "body": body,
    }
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in contents}


def test_it_is_said_once_each_time_with_its_classes(
    cli: Cli, files: dict[str, Path], photo: Path
) -> None:
    said = (
        f"{files['lightning']}: took state_dict; without the prefix 'model.'; class names from "
        "classes.\n"
    )
    options = ("--format", "csv", "--img-size", "32", "--topk", "3")
    bare = cli("predict", photo, "--model", files["bare"], *options)
    for _ in range(2):  # the second time from the note of what the pickle holds
        done = cli("predict", photo, "--model", files["lightning"], *options)
        assert done.code == 0
        assert done.err == said
        assert {"ant", "bee", "cat"} <= set(done.out.replace("\n", ",").split(","))
        numbers = [cell for cell in done.out.split(",") if cell.startswith("0.")]
        assert numbers == [cell for cell in bare.out.split(",") if cell.startswith("0.")]
    assert not cli("predict", photo, "--model", files["lightning"], *options, "--quiet").err
    shown = cli("models", "show", files["lightning"]).out
    assert "took state_dict" in shown
    assert "ant, bee, cat" in shown


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_without_a_classifier_there_are_features(
    files: dict[str, Path], photo: Path, engine: Any
) -> None:
    said: list[str] = []
    body, whole = (
        Classifier(
            str(files[name]), engine=engine, device="cpu", img_size=32,
            access=Access(notify=said.append), ready_for="logits",
        )
        for name in ("body", "bare")
    )  # fmt: skip
    assert said == [f"{files['body']}: without a classifier."]
    for options in ({}, {"pool": "none"}, {"stage": 2}):
        found, want = (one.features(photo, **options) for one in (body, whole))
        assert np.array_equal(found, want)
    for ask in (
        lambda: body.predict(photo),
        lambda: body.logits(photo),
        lambda: body.features(photo, head="logits"),
    ):
        with pytest.raises(CheckpointError, match="has no classifier"):
            ask()


@pytest.mark.usefixtures("no_pictures")
def test_what_needs_a_classifier_says_that_there_is_none(
    cli: Cli, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for first, label in enumerate("ab"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(5):
            make_photo(tmp_path / "data" / label / f"{number}.png", seed=10 * first + number)
    body, data, photo = files["body"], tmp_path / "data", tmp_path / "data/a/0.png"
    small = ("--img-size", "32")
    for command in (
        ("predict", photo, *small),
        ("features", photo, "-o", tmp_path / "f.npy", "--head", "logits", *small),
        ("evaluate", data, *small),
        ("explain", photo, "-o", tmp_path / "h.png", *small),
        ("export", "-o", tmp_path / "x.onnx"),
        ("export", "--hub", tmp_path / "hub"),
        ("benchmark", *small),
    ):
        done = cli(*command, "--model", body)
        assert (done.code, f"{body} has no classifier" in done.err) == (1, True), command
    labels = tmp_path / "labels.txt"
    labels.write_text("x\n")
    with pytest.raises(CheckpointError, match="has no classifier"):
        find_model(str(body), labels=labels)
    done = cli("features", photo, "-o", tmp_path / "f.npy", "--model", body, *small)
    assert done.code == 0
    assert np.load(tmp_path / "f.npy").shape == (1, 2048)
    done = cli("finetune", data, "--model", body, "--epochs", "1", *small, "-b", "2")
    assert done.code == 0, done.err


def test_labels_win_over_the_file(files: dict[str, Path], tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("x\ny\nz\n")
    assert find_model(str(files["lightning"]), labels=labels).class_names == ("x", "y", "z")
    labels.write_text("x\ny\n")
    with pytest.raises(LabelsError):
        find_model(str(files["lightning"]), labels=labels)


@pytest.mark.parametrize(
    ("field", "value"),
    [("std", 1e-320), ("std", 0), ("std", -1), ("std", 1e5), ("mean", 1e5), ("mean", -1e300)],
)
def test_absurd_preprocessing_is_an_error(
    tmp_path: Path, state: State, field: str, value: float
) -> None:
    import json

    path = tmp_path / "x.safetensors"
    checkpoint.save(path, state, checkpoint.CheckpointInfo(variant=TINY))
    record = json.loads(_metadata(path)["preprocessing"])
    record[field] = [0.5, value, 0.5]
    edit_header(path, preprocessing=json.dumps(record))
    with pytest.raises(CheckpointError, match=r"preprocessing (std|mean) must"):
        read_info(path)


def _metadata(path: Path) -> dict[str, str]:
    from resnest_cli.model.checkpoint_header import read_header

    return read_header(path).metadata


def test_nothing_of_numpy_is_made(tmp_path: Path) -> None:
    """What a pickle says in numpy's name is not looked at, whatever it is."""
    from resnest_cli.model.pickles import read_pickle

    path = tmp_path / "x.pth"
    torch.save({"a": np.float64(1), "b": np.zeros(3), "c": Path("x")}, path)
    assert {type(value).__module__ for value in read_pickle(path).values()} == {
        "resnest_cli.model.pickles"
    }
