"""The moving average; the mean of checkpoints, and batch norm's statistics computed anew."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from resnest_cli.data.dataset import Sample
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.evaluation import thresholds
from resnest_cli.images.decode import decode
from resnest_cli.images.preprocess import preprocess
from resnest_cli.inference.classifier import Classifier
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.resnest import ResNeSt, build
from resnest_cli.model.training_photos import TrainingPhotos
from resnest_cli.model.variants import Preprocessing
from resnest_cli.training.average import Ema, average, recomputed
from tests.conftest import Cli, make_photo
from tests.networks import TINY, enliven

VARIANT = replace(TINY, preprocessing=Preprocessing(32))
NAMES = ("cat", "dog", "fox")


def write(path: Path, seed: int, **changes: object) -> Path:
    variant = changes.pop("variant", VARIANT)
    info = CheckpointInfo(
        variant=variant, class_names=NAMES,  # type: ignore[arg-type]
        provenance={"command": "train", "epoch": seed, "class_ids": ["a", "b", "c"]},
        temperature=2.0, metrics={"top1": 0.5},
    )  # fmt: skip
    info = replace(info, **changes)  # type: ignore[arg-type]
    network = enliven(build(variant, num_classes=len(info.class_names or ())), seed)  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked += 10 * seed  # type: ignore[operator]
    checkpoint.save(path, network, info)
    return path


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2, 3)]


def test_the_mean_is_torchs(three: list[Path]) -> None:
    found = average(three)
    networks = [checkpoint.instantiate(checkpoint.load(path)).double() for path in three]
    swa = AveragedModel(networks[0], use_buffers=True)
    for network in networks:
        swa.update_parameters(network)
    expected = swa.module.state_dict()
    for name, tensor in found.tensors.items():
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-7)
        else:
            assert int(tensor) == 30
    assert found.info.class_names == NAMES
    assert found.info.temperature == 1.0
    assert not found.info.metrics
    assert [one["file"] for one in found.info.provenance["averaged"]] == [p.name for p in three]
    assert found.info.provenance["class_ids"] == ["a", "b", "c"]
    assert "epoch" not in found.info.provenance


A, B, BOTH = (
    TrainingPhotos.of(map(bytes, hashes))
    for hashes in ([b"a" * 8], [b"b" * 8], [b"a" * 8, b"b" * 8])
)


@pytest.mark.parametrize(
    ("sets", "expected"), [((A, A), A), ((A, B), BOTH), ((A, None), None), ((None, None), None)]
)
def test_training_photos_are_those_of_all(
    tmp_path: Path, sets: tuple[TrainingPhotos | None, ...], expected: TrainingPhotos | None
) -> None:
    paths = [
        write(tmp_path / f"{seed}.safetensors", seed, trained_on=photos)
        for seed, photos in enumerate(sets)
    ]
    assert average(paths).info.trained_on == expected
    if expected == A:  # and those that batch norm's statistics are of
        more = [replace(sample, digest=b"b" * 8) for sample in samples(tmp_path, 2)]
        assert recomputed(average(paths), more, lambda *_: None).info.trained_on == BOTH
        assert (
            recomputed(average(paths), samples(tmp_path, 2), lambda *_: None).info.trained_on
            is None
        )


def test_of_one_file_twice_it_is_the_file(three: list[Path]) -> None:
    found = average([three[0], three[0]])
    before = checkpoint.load(three[0]).tensors
    assert all(torch.equal(found.tensors[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("cat", "fox", "dog")}, "other classes, or in another order"),
        ({"provenance": {"class_ids": ["a", "b", "x"]}}, "other classes, or in another order"),
        ({"class_names": ("cat", "dog")}, "has 2 classes"),
        ({"variant": replace(TINY, preprocessing=Preprocessing(40))}, "takes other input"),
        ({"variant": VARIANT.overridden({"stem_width": 16})}, "altered"),
    ],
)
def test_what_differs_is_refused(
    tmp_path: Path, three: list[Path], changes: dict, message: str
) -> None:
    other = write(tmp_path / "other.safetensors", 4, **changes)
    with pytest.raises(UsageError, match=message) as error:
        average([three[0], other])
    assert str(other) in str(error.value)
    with pytest.raises(UsageError, match="two checkpoints or more"):
        average(three[:1])


def test_thresholds_are_averaged_without_their_temperature(tmp_path: Path) -> None:
    """A file's select the same labels after its temperature is left out, and of both the mean."""
    one = write(tmp_path / "1.safetensors", 1, thresholds=(0.3, 0.0, 1.0), temperature=2.0)
    two = write(tmp_path / "2.safetensors", 2, thresholds=(0.7, 0.0, 1.0), temperature=1.0)
    logits = np.log(0.3 / 0.7) * 2  # where the first has 0.3
    same = 1 / (1 + np.exp(-logits))
    assert average([one, one]).info.thresholds == pytest.approx((same, 0, 1))
    found = average([one, two])
    assert found.info.thresholds == pytest.approx(((same + 0.7) / 2, 0, 1))
    assert found.info.temperature == 1
    with pytest.raises(
        UsageError, match=r"answers otherwise \(one label for a photo, or several\)"
    ):
        average([one, write(tmp_path / "3.safetensors", 3)])


def test_thresholds_are_fitted_anew(tmp_path: Path, cli: Cli) -> None:
    """With --data: those of the largest F1 of the mean, on photos that it was not trained on."""
    one = write(tmp_path / "1.safetensors", 1, thresholds=(0.9, 0.9, 0.9), temperature=1.0)
    two = write(tmp_path / "2.safetensors", 2, thresholds=(0.9, 0.9, 0.9), temperature=1.0)
    labels = ["c|a", "a", "", "c", "c", "a|c", "c", "a"]
    rows = ["path,labels,split"]
    for index, cell in enumerate(labels):
        make_photo(tmp_path / f"{index}.png", seed=index)
        rows.append(f"{index}.png,{cell},{'train' if index < 3 else 'val'}")
    (tmp_path / "d.csv").write_text("\n".join(rows))
    out = tmp_path / "mean.safetensors"
    done = cli("average", one, two, "-o", out, "--data", tmp_path / "d.csv")
    assert (done.code, "thresholds of 5 photos" in done.err) == (0, True), done.err
    found = Classifier(str(out), engine="torch")
    answers = found.predict([str(tmp_path / f"{index}.png") for index in range(3, 8)], topk=3)
    odds = np.array([[p.probability for p in sorted(record.predictions, key=lambda p: p.index)]
                     for record in answers])  # fmt: skip
    truth = np.array([[name in cell.split("|") for name in "abc"] for cell in labels[3:]])
    expected = thresholds.fitted(truth, odds)
    limits = found.model.thresholds
    assert limits is not None
    assert limits[0] == pytest.approx(expected[0], abs=1e-6)
    assert limits[2] == pytest.approx(expected[2], abs=1e-6)
    assert limits[1] == 0.9  # which no photo has
    other = tmp_path / "other.csv"
    other.write_text(re.sub(r"\bc\b", "unknown", "\n".join(rows)))
    done = cli("average", one, two, "-o", out, "--overwrite", "--data", other)
    assert (done.code, "thresholds averaged" in done.err) == (0, True), done.err


def samples(folder: Path, count: int) -> list[Sample]:
    return [
        Sample(str(make_photo(folder / f"{index}.png", seed=index)), f"{index}.png", 0)
        for index in range(count)
    ]


def test_statistics_of_photos(tmp_path: Path, three: list[Path]) -> None:
    chosen = samples(tmp_path, 5)
    found = average(three)
    told: list[tuple[int, int | None]] = []
    again = recomputed(average(three), chosen, lambda done, total: told.append((done, total)))
    assert told == [(5, 5)]
    assert again.info.provenance["statistics"] == "of 5 photos"
    # One batch: the first norm's statistics are those of its input.
    network: ResNeSt = checkpoint.instantiate(found)
    photos = np.stack([preprocess(decode(one.path), VARIANT.preprocessing) for one in chosen])
    with torch.inference_mode():
        maps = network.conv1[0](torch.from_numpy(photos))
    torch.testing.assert_close(
        again.tensors["conv1.1.running_mean"], maps.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        again.tensors["conv1.1.running_var"], maps.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    for name, tensor in found.tensors.items():
        learned = "running" not in name and "num_batches" not in name
        assert torch.equal(tensor, again.tensors[name]) == learned, name
    with pytest.raises(UsageError, match="single photo"):
        recomputed(found, chosen[:1], lambda *_: None)
    Path(chosen[1].path).unlink()
    with pytest.raises(ResnestError, match=r"does not exist\. It was readable before"):
        recomputed(found, chosen, lambda *_: None)


def test_the_command(cli: Cli, tmp_path: Path, three: list[Path]) -> None:
    for label in ("x", "y"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(4):
            make_photo(tmp_path / "data" / label / f"{index}.png", seed=ord(label) * 50 + index)
    out = tmp_path / "mean.safetensors"
    done = cli("average", *three, "-o", out)
    assert (done.code, done.out) == (0, "")
    assert "the mean of 3 checkpoints, statistics averaged" in done.err
    plain = out.read_bytes()
    assert cli("average", *three, "-o", out).code == 2
    assert cli("average", *three, "-o", out, "--overwrite").code == 0
    assert out.read_bytes() == plain
    done = cli("average", *three, "-o", out, "--overwrite", "--data", tmp_path / "data")
    assert done.code == 0, done.err
    assert out.read_bytes() != plain
    assert cli("predict", tmp_path / "data", "--model", out).code == 0
    for wrong, code, text in (
        ((*three,), 2, "-o"),
        ((*three, "-o", tmp_path / "mean.pth"), 2, ".safetensors"),
        ((three[0], "-o", tmp_path / "x.safetensors"), 2, "two checkpoints"),
        ((three[0], tmp_path / "none.safetensors", "-o", tmp_path / "x.safetensors"), 1, "none"),
        ((*three, "-o", tmp_path / "no" / "x.safetensors"), 1, "folder"),
    ):
        done = cli("average", *wrong)
        assert (done.code, text in done.err) == (code, True), done.err


def test_moving_average() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    ema = Ema(network, decay=0.9)
    copied = ema.network
    assert not copied.training
    assert not any(p.requires_grad for p in copied.parameters())
    expected = network[0].weight.item()
    for step in range(200):
        with torch.no_grad():
            network[0].weight.fill_(step)
            network[1].running_mean.fill_(step)
        network[1].num_batches_tracked += 1
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert copied[0].weight.item() == pytest.approx(expected, rel=1e-5)
    assert float(copied[1].running_mean) == pytest.approx(expected, rel=0.01)
    assert int(copied[1].num_batches_tracked) == 200
    assert network[0].weight.item() == 199
