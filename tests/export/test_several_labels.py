"""Exports of a network that gives a photo several labels: other programs select the same ones."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from transformers import pipeline

from resnest_cli import Classifier, Prediction, guides
from resnest_cli.errors import CheckpointError, UsageError
from resnest_cli.export import ExportJob, int8
from resnest_cli.export.export import export
from resnest_cli.export.hub_folder import write_folder
from resnest_cli.export.int8 import planned
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.loading import find_model
from resnest_cli.model.resnest import build
from resnest_cli.net import Access
from tests.conftest import make_photo
from tests.networks import TINY, enliven, photos

NAMES = ("blue", "green", "red")
TEMPERATURE = 1.5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a temperature; of photo.png it selects the last two labels."""
    folder = tmp_path_factory.mktemp("made")
    make_photo(folder / "photo.png", (80, 70), seed=4)
    path, network = folder / "several.safetensors", enliven(build(TINY, num_classes=3))

    def save(limits: tuple[float, ...]) -> None:
        info = CheckpointInfo(
            variant=TINY, class_names=NAMES, thresholds=limits, temperature=TEMPERATURE,
            metrics={"map": 0.8125, "micro_f1": 0.7, "photos": 12},
        )  # fmt: skip
        checkpoint.save(path, network, info)

    save((0.0, 0.0, 0.0))
    found = {one.label: one.probability for one in answer(path, folder)}
    save((found["blue"] + 0.01, found["green"] - 0.01, 0.0))
    return path


@pytest.fixture
def several(made: Path, tmp_path: Path) -> Path:
    shutil.copy(made.with_name("photo.png"), tmp_path)
    return Path(shutil.copy(made, tmp_path))


def answer(model: Path | str, folder: Path) -> tuple[Prediction, ...]:
    return Classifier(model).predict(folder / "photo.png").predictions


def selected(model: Path | str, folder: Path) -> list[str]:
    return [one.label for one in answer(model, folder) if one.selected]


@pytest.fixture
def hub(several: Path, tmp_path: Path) -> Path:
    write_folder(find_model(str(several)), tmp_path / "hub")
    return tmp_path / "hub"


def test_the_hub_folder_is_read_back(several: Path, hub: Path, tmp_path: Path) -> None:
    expected = answer(several, tmp_path)
    assert {one.label for one in expected if one.selected} == {"green", "red"}
    for model in (hub, hub / "model.safetensors"):
        assert answer(model, tmp_path) == expected
        assert find_model(str(model)).thresholds == find_model(str(several)).thresholds
    config = json.loads((hub / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert tuple(config["thresholds"]) == find_model(str(several)).thresholds
    assert config["logit_temperature"] == TEMPERATURE


def test_timm_loads_the_folder(several: Path, hub: Path) -> None:
    theirs = timm.create_model(f"local-dir:{hub}", pretrained=True).eval()
    x = photos(2, 96, torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs(x), find_model(str(several)).network()(x), rtol=1e-5, atol=1e-5
        )
    assert theirs.pretrained_cfg["label_names"] == list(NAMES)


@pytest.mark.filterwarnings("ignore")  # of transformers' own
def test_transformers_takes_the_sigmoid(several: Path, hub: Path, tmp_path: Path) -> None:
    """It does not divide by the temperature; what it saves selects the same labels here."""
    asked = pipeline("image-classification", model=str(hub))
    with Image.open(tmp_path / "photo.png") as photo:
        found = asked(photo)
    (logits,) = Classifier(several).logits(tmp_path / "photo.png")
    expected = dict(zip(NAMES, 1 / (1 + np.exp(-logits.astype(np.float64))), strict=True))
    assert {one["label"]: one["score"] for one in found} == pytest.approx(expected, abs=1e-4)
    asked.model.save_pretrained(tmp_path / "again")
    assert [(one.label, one.selected) for one in answer(tmp_path / "again", tmp_path)] == [
        (one.label, one.selected) for one in answer(several, tmp_path)
    ]
    assert find_model(str(tmp_path / "again")).temperature == TEMPERATURE


@pytest.mark.filterwarnings("ignore")  # of timm's own
def test_the_card_and_its_example(
    several: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = (hub / "README.md").read_text()
    limits = find_model(str(several)).thresholds or ()
    for line in (
        "the sigmoid of its logit, divided by the temperature 1.5",
        "for 3 labels, of which a photo may have several, or none: blue, green, red.",
        f"| green | {limits[1]:.4f} |", "| mean average precision (mAP) | 81.25% |",
        "| micro F1 at 0.5 | 70.00% |",
    ):  # fmt: skip
        assert line in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shutil.copy(tmp_path / "photo.png", hub / "photo.jpg")  # Pillow goes by content
    monkeypatch.chdir(hub)
    exec(code, {})
    lines = [line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    ours = {one.label: one.probability for one in answer(several, tmp_path) if one.selected}
    assert {name: float(number) for name, number in lines} == pytest.approx(ours, abs=1e-4)


def test_the_card_names_the_first_of_many_labels(tmp_path: Path) -> None:
    info = CheckpointInfo(
        variant=TINY, class_names=tuple(f"label {n}" for n in range(30)), thresholds=(0.5,) * 30
    )
    path = tmp_path / "many.safetensors"
    checkpoint.save(path, enliven(build(TINY, num_classes=30)), info)
    write_folder(find_model(str(path)), tmp_path / "hub")
    text = (tmp_path / "hub/README.md").read_text()
    assert "config.json has all of these as `thresholds`, the first 20 are:" in text
    assert "| label 19 | 0.5000 |" in text
    assert "| label 20 |" not in text


def test_weights_of_others_with_such_a_config(several: Path, hub: Path, tmp_path: Path) -> None:
    """What the file does not say itself the config.json says; a file of ours says it itself."""
    expected = answer(several, tmp_path)
    own = (hub / "model.safetensors").read_bytes()
    config = hub / "config.json"
    record = json.loads(config.read_text())
    bare = safetensors.torch.load(own)
    safetensors.torch.save_file(bare, hub / "model.safetensors", {"format": "pt"})
    assert answer(hub, tmp_path) == expected
    del record["thresholds"]
    config.write_text(json.dumps(record))
    found = find_model(str(hub))
    assert (found.thresholds, found.temperature) == ((0.5, 0.5, 0.5), 1.0)
    for wrong in ([0.5, 0.5], [0.5, 0.5, 1.5], "0.5", [True, 0.1, 0.1]):
        config.write_text(json.dumps(record | {"thresholds": wrong}))
        with pytest.raises(CheckpointError, match="thresholds must be a number from 0 to 1 for"):
            find_model(str(hub))
    config.write_text(json.dumps(record | {"thresholds": [0.5, 0.5, 0.5], "logit_temperature": 0}))
    with pytest.raises(CheckpointError, match="temperature must be a number from"):
        find_model(str(hub))
    (hub / "model.safetensors").write_bytes(own)
    config.write_text(json.dumps(record | {"thresholds": [0.5, 0.5, 0.5]}))
    notes: list[str] = []
    found = find_model(str(hub), access=Access(notify=notes.append))
    assert found.thresholds == find_model(str(several)).thresholds
    assert "config.json has other thresholds than the file, whose own word counts" in notes[0]


def test_the_manuals_onnxruntime_example(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Its lines up to the logits, then those for several labels."""
    target = tmp_path / "demo.onnx"
    export(find_model(str(several)), ExportJob(target)).write(target)
    assert selected(target, tmp_path) == selected(several, tmp_path)
    page = guides.read("export")
    (code,) = re.findall(r"```python\n(import json\nimport numpy.*?)exps = ", page, re.DOTALL)
    code = code.replace("tests/data/coffee.jpg", "photo.png")
    code += """
chances = 1 / (1 + np.exp(-logits[0] / float(said.get("temperature", 1))))
for name, chance, threshold in zip(names, chances, json.loads(said["thresholds"])):
    if chance >= threshold:
        print(name, chance)
"""
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    ours = {one.label: one.probability for one in answer(several, tmp_path) if one.selected}
    assert {name: float(number) for name, number in lines} == pytest.approx(ours, abs=1e-4)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Sixteen photos with every set of labels twice, half of them to validate with."""
    rows = [["path", "labels", "split"]]
    for index in range(16):
        make_photo(tmp_path / f"{index}.png", seed=index)
        labels = "|".join(name for place, name in enumerate(NAMES) if index >> place & 1)
        rows.append([f"{index}.png", labels, "train" if index < 8 else "val"])
    with (tmp_path / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "photos.csv"


def test_int8(several: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of it is what the two files select, and scikit-learn's mAP of them."""
    monkeypatch.setattr(int8, "_SECONDS", 0.0)  # for rounds of their speed
    target = tmp_path / "small.onnx"
    model = find_model(str(several))
    job = ExportJob(target, int8=True, calibrate=str(table), check=str(table))
    found = export(model, job)
    found.write(target)
    told = found.summary["int8"]
    assert found.summary["activation"] == "sigmoid"
    plan = planned(str(table), model, 200)
    assert plan.held_out == [str(tmp_path / f"{index}.png") for index in range(8, 16)]
    assert (told["calibrated_on"], told["photos"]) == (8, 8)
    before, after = Classifier(several), Classifier(target)
    assert after.model.thresholds == before.model.thresholds
    pairs = list(zip(before.predict(plan.held_out), after.predict(plan.held_out), strict=True))
    same = [set(one.labels) == set(other.labels) for one, other in pairs]
    assert told["agreement"] == sum(same) / len(same)
    truth = np.array([[index >> place & 1 for place in range(3)] for index in range(8, 16)])
    for key, classifier in (("map_before", before), ("map_after", after)):
        scores = classifier.features(plan.held_out, head="probabilities")
        assert told[key] == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
    assert "top1_before" not in told
    (checked,) = found.summary["parity"]
    assert checked["photos"] == 16


def test_data_without_all_labels_give_no_map(several: Path, table: Path, tmp_path: Path) -> None:
    model = find_model(str(several))
    for name in NAMES[:2]:
        (tmp_path / "folders" / name).mkdir(parents=True)
        for index in range(4):
            shutil.copy(tmp_path / f"{index}.png", tmp_path / "folders" / name)
    plan = planned(str(tmp_path / "folders"), model, 200)
    assert plan.truth is None
    assert any("No mAP: class folders name one label of each photo" in n for n in plan.notes)
    table.write_text(table.read_text().replace("red", "crimson"))
    plan = planned(str(table), model, 200)
    assert plan.truth is None
    assert any("No mAP: the model does not know 'crimson'" in note for note in plan.notes)
    with pytest.raises(UsageError, match="no such folder of photos, or table"):
        planned(str(tmp_path / "missing"), model, 200)
