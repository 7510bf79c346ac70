"""`--unknown` from training to every form of an answer."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.data.dataset import Sample
from resnest_cli.errors import ResnestError
from resnest_cli.export.hub_folder import timm_config
from resnest_cli.inference.unknown import Unknown, fitted
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import read_info, set_metadata
from resnest_cli.model.loading import find_model
from resnest_cli.training import unknown
from resnest_cli.training.cached_features import FeatureBatches, Features
from resnest_cli.training.lost_photos import Lost
from resnest_cli.training.order import Draw
from tests.conftest import Cli, make_photo

COLOURS = {"blue": (40, 60, 220), "red": (220, 50, 40)}
BRIEF = ("--epochs", "1", "--val-split", "0.4", "-j", "0")


def patch(path: Path, colour: tuple[int, int, int], seed: int, spread: int = 20) -> Path:
    """A photo of one colour, with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-spread, spread, (40, 50, 3))
    Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        for seed in range(25):
            patch(tmp_path / "data" / name / f"{seed}.png", colour, seed)
    return tmp_path / "data"


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Photos unlike any of the colours, and one that cannot be read."""
    (tmp_path / "others").mkdir()
    for seed in range(6):
        make_photo(tmp_path / "others" / f"{seed}.png", (60, 50), seed=seed)
    return tmp_path / "others"


@pytest.fixture
def own(tiny_checkpoint: Path, tmp_path: Path, data: Path) -> Path:
    """A checkpoint that keeps what is needed, of the photos in `data`."""
    path = Path(shutil.copy(tiny_checkpoint, tmp_path / "own.safetensors"))
    photos = sorted(data.rglob("*.png"))
    classifier = Classifier(path, device="cpu")
    both = classifier.features(photos), classifier.logits(photos)
    train, val = ([one[half::2] for one in both] for half in (0, 1))
    set_metadata(path, unknown=fitted((train[0], train[1]), (val[0], val[1])).text)
    return path


def jsonl(cli: Cli, *arguments: str | Path) -> list[dict]:
    result = cli("predict", *arguments, "--format", "jsonl")
    assert result.code in {0, 3}, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def test_every_format_says_it(
    cli: Cli, own: Path, data: Path, others: Path, tmp_path: Path
) -> None:
    (others / "bad.jpg").write_bytes(b"\xff\xd8 no photo")
    asked = (data / "red", others, "-m", own, "--unknown", "10%")
    found = jsonl(cli, *asked)
    by_kind = {"data": found[:25], "others": found[25:]}
    told = [record.get("unknown") for record in by_kind["others"]]
    assert told == [True] * 6 + [None]  # the last could not be read
    assert sum(record["unknown"] for record in by_kind["data"]) <= 6
    # The classes are listed as before.
    plain = jsonl(cli, *asked[:4])
    assert [r["predictions"] for r in plain] == [r["predictions"] for r in found]
    assert not any({"unknown", "distance"} & set(record) for record in plain)
    assert list(found[0])[-2:] == ["unknown", "distance"]
    # A smaller share takes fewer for unknown, at the same distances; a fraction means the same.
    strict = jsonl(cli, *asked[:4], "--unknown", "0.04")
    assert [r.get("distance") for r in strict] == [r.get("distance") for r in found]
    assert sum(bool(r.get("unknown")) for r in strict) <= sum(bool(r.get("unknown")) for r in found)
    assert jsonl(cli, *asked[:4], "--unknown", "0.1") == found

    rows = list(csv.DictReader(cli("predict", *asked, "--format", "csv").out.splitlines()))
    assert [row["unknown"] for row in rows[25:]] == ["true"] * 6 + [""]
    assert float(rows[25]["distance"]) == found[25]["distance"]
    page = tmp_path / "page.html"
    shown = cli("predict", *asked, "--html", page).out
    assert shown.count("unknown (") == sum(bool(record.get("unknown")) for record in found)
    text = page.read_text(encoding="utf-8")
    assert text.count('<p class="truth">unknown</p>') == shown.count("unknown (")
    assert '<option value="unknown">' in text
    single = cli("predict", others / "0.png", "-m", own, "--unknown", "10%").out
    assert single.splitlines()[1] == "unknown"


def test_parquet_and_folders(cli: Cli, own: Path, others: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for target in ("a.parquet", "folder/"):
        asked = ("predict", others, "-m", own, "-o", f"{tmp_path}/{target}")
        assert cli(*asked, "--unknown", "10%").code == 0
        assert pq.read_table(tmp_path / target)["unknown"].to_pylist() == [True] * 6
        again = cli(*asked, "--unknown", "20%", "--resume")
        assert again.code == 2
        assert "--unknown 0.1 there, 0.2 here" in again.err


def test_what_is_exported_says_the_same(
    cli: Cli, own: Path, data: Path, others: Path, tmp_path: Path
) -> None:
    expected = [(r["unknown"], r["distance"]) for r in jsonl(cli, others, "-m", own, *SHARE)]
    for target in (("-o", tmp_path / "m.onnx"), ("--hub", tmp_path / "hub")):
        assert cli("export", "-m", own, *target).code == 0
        found = [(r["unknown"], r["distance"]) for r in jsonl(cli, others, "-m", target[1], *SHARE)]
        assert [one for one, _ in found] == [one for one, _ in expected]
        np.testing.assert_allclose(*([d for _, d in f] for f in (found, expected)), atol=1e-4)
    small = cli("export", "-m", own, "-o", tmp_path / "8.onnx", "--int8", "--calibrate", data)
    assert small.code == 0
    assert "does not keep what --unknown needs" in small.err
    assert read_info(tmp_path / "8.onnx").unknown is None


SHARE = ("--unknown", "10%")


def test_average_drops_it(cli: Cli, own: Path, others: Path, tmp_path: Path) -> None:
    mean = tmp_path / "mean.safetensors"
    done = cli("average", own, own, "-o", mean)
    assert done.code == 0, done.err
    assert f"{own}: what it keeps for --unknown is not averaged" in done.err
    refused = cli("predict", others, "-m", mean, *SHARE)
    assert refused.code == 1
    assert "does not keep how far" in refused.err


def test_calibration_keeps_it(cli: Cli, own: Path) -> None:
    shown = json.loads(cli("models", "show", own, "--format", "json").out)
    assert shown["unknown"] == {"photos": 25, "validated": 25, "least_share": 1 / 26}
    before = read_info(own).unknown
    set_metadata(own, temperature="2.0")
    assert read_info(own).unknown == before


def test_evaluation(cli: Cli, own: Path, others: Path, tmp_path: Path) -> None:
    (others / "bad.jpg").write_bytes(b"\xff\xd8 no photo")
    names = Classifier(own).class_names
    judged = tmp_path / "judged"
    for place, colour in enumerate(COLOURS.values()):
        for seed in range(10):
            patch(judged / names[place] / f"{seed}.png", colour, 100 + seed)
    folder, page = tmp_path / "ev", tmp_path / "ev.html"
    asked = ("evaluate", judged, "-m", own, "--unknown-data", others)
    result = cli(*asked, *SHARE, "--format", "json", "-o", folder, "--html", page)
    assert result.code == 0, result.err
    found = json.loads(result.out)["unknown"]
    assert (found["photos"], found["unreadable"], found["share"]) == (6, 1, 0.1)
    assert found["auroc"] == found["found"] == 1.0
    assert 0 <= found["probability"]["auroc"] <= 1
    assert found["probability"]["false_alarms"] <= found["false_alarms"] <= 0.4
    records = [json.loads(line) for line in (folder / "unknown.jsonl").read_text().splitlines()]
    assert [r.get("unknown") for r in records] == [True] * 6 + [None]
    lines = (folder / "records.jsonl").read_text().splitlines()
    alarms = [json.loads(line)["unknown"] for line in lines]
    assert found["false_alarms"] == sum(alarms) / 20
    assert "6 photos of something else" in page.read_text(encoding="utf-8")
    table = cli(*asked).out
    assert "largest probability" in table
    assert "at --unknown 5%" in table
    assert "unknown" not in json.loads(cli("evaluate", judged, "-m", own, "--format", "json").out)
    assert "goes with --unknown-data" in cli("evaluate", judged, "-m", own, *SHARE).err
    assert cli("evaluate", judged, "-m", own, "--unknown-data", tmp_path / "none").code == 2


@pytest.mark.parametrize("freeze", ["backbone", "none"])
def test_training_keeps_it(
    cli: Cli, data: Path, others: Path, tiny_checkpoint: Path, tmp_path: Path, freeze: str,
    no_pictures: None,
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    runs = []
    for name in ("one", "two"):
        done = cli("finetune", data, "-m", tiny_checkpoint, "--freeze", freeze, *BRIEF,
                   "--output", tmp_path, "--run", name)  # fmt: skip
        assert done.code == 0, done.err
        assert "20 validation photos are too few for `predict --unknown 1%`" in done.err
        runs.append(tmp_path / "finetune" / name / "weights")
    best, last = (runs[0] / f"{name}.safetensors" for name in ("best", "last"))
    assert read_info(last).unknown is None
    assert best.read_bytes() == (runs[1] / best.name).read_bytes()
    kept = Unknown.of(find_model(str(best)))
    assert (kept.photos, kept.validated, len(kept.distances)) == (30, 20, 20)
    # The thresholds are those of the photos that validated, as `predict` finds them.
    with (runs[0].parent / "split.csv").open(encoding="utf-8") as file:
        held_out = [row["path"] for row in csv.DictReader(file) if row["split"] == "val"]
    paths = [path if Path(path).is_absolute() else data / path for path in held_out]
    records = Classifier(best).predict(list(map(Path, paths)), unknown=0.05)
    found = sorted(record.distance or 0.0 for record in records)
    np.testing.assert_allclose(found, kept.distances, atol=1e-4)
    assert sum(bool(record.unknown) for record in records) <= 1
    refused = cli("predict", others, "-m", best, "--unknown", "1%")
    assert refused.code == 2
    assert "20 validation photos give no threshold" in refused.err


@pytest.mark.parametrize("end", [signal.SIGTERM, None])
def test_a_signal_while_it_is_measured(
    cli: Cli, data: Path, tiny_checkpoint: Path, tmp_path: Path, end: signal.Signals | None,
    monkeypatch: pytest.MonkeyPatch, no_pictures: None,
) -> None:  # fmt: skip
    asked = ("finetune", data, "-m", tiny_checkpoint, "--freeze", "none", *BRIEF, "--output",
             tmp_path, "--run", "a")  # fmt: skip
    best = tmp_path / "finetune" / "a" / "weights" / "best.safetensors"
    measured = unknown._of_photos

    def disturbed(*arguments: Any) -> Any:
        if end is None:
            raise ResnestError("a shard is gone.")
        os.kill(os.getpid(), end)
        return measured(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(unknown, "_of_photos", disturbed)
        result = cli(*asked)
    assert read_info(best).unknown is None
    if end is None:  # the run is worth more
        assert result.code == 0
        assert f"{best} does not keep what --unknown needs: a shard is gone." in result.err
        return
    assert result.code == 143
    assert "--resume" in result.err
    again = cli(*asked, "--resume")
    assert again.code == 0, again.err
    assert read_info(best).unknown is not None


def test_shards(
    cli: Cli, data: Path, tiny_checkpoint: Path, tmp_path: Path, no_pictures: None
) -> None:
    packed = cli("pack", data, "-o", tmp_path / "shards", "--val-split", "0.4")
    assert packed.code == 0, packed.err
    done = cli("finetune", tmp_path / "shards", "-m", tiny_checkpoint, "--freeze", "none",
               *BRIEF[:2], "-j", "0", "--output", tmp_path, "--run", "a")  # fmt: skip
    assert done.code == 0, done.err
    best = tmp_path / "finetune" / "a" / "weights" / "best.safetensors"
    kept = Unknown.of(find_model(str(best)))
    assert (kept.photos, kept.validated) == (30, 20)


def test_of_many_features_some_serve(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = checkpoint.instantiate(checkpoint.load(tiny_checkpoint))
    values = torch.arange(20.0)[:, None, None].expand(20, 2, network.variant.num_features)
    lost = {place: Lost(place, 0, "", "") for place in (0, 1)}
    batches = FeatureBatches(Features(values, torch.zeros(20, dtype=torch.int64), lost), Draw(4))
    for most, step in ((18, 1), (17, 2), (6, 3)):
        monkeypatch.setattr(unknown, "MOST_ROWS", most)
        features, logits = unknown._of_rows(batches, network)
        assert features[:, 0].tolist() == list(range(2, 20, step))
        assert len(logits) == len(features)


def test_a_draw_has_every_class() -> None:
    counts = (2, 40, 80)
    samples = [Sample("", f"{c}/{i}", c) for c, count in enumerate(counts) for i in range(count)]
    found = unknown.chosen(samples, 12)
    assert len(found) == 12
    assert [sum(one.label == label for one in found) for label in range(3)] == [2, 5, 5]
    assert found == [one for one in samples if one in found] == unknown.chosen(samples, 12)
    assert unknown.chosen(samples, 1000) == samples


def test_timm_loads_it(own: Path) -> None:
    info = read_info(own)
    assert info.unknown is not None
    config = timm_config(info)
    network = timm.create_model(
        config["architecture"], num_classes=5, checkpoint_path=own, **config["model_args"]
    )  # strict: another tensor would be an error
    batch = torch.rand(2, 3, 48, 48)
    with torch.inference_mode():
        theirs, ours = network.eval()(batch), find_model(str(own)).network()(batch)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
