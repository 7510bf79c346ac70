"""`resnest export`, and every command with what it wrote: same answers, files, bad input."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

from resnest_cli import Classifier
from resnest_cli.export import export as exporting
from resnest_cli.export import formats
from resnest_cli.inference import onnx_engine
from resnest_cli.model.checkpoint import save
from resnest_cli.model.checkpoint_header import CheckpointInfo, set_temperature
from resnest_cli.model.loading import find_model
from tests.conftest import CLASSES, Cli, make_photo
from tests.networks import TINY, lively


@pytest.fixture
def own(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint with a temperature."""
    path = Path(shutil.copy(tiny_checkpoint, tmp_path / "own.safetensors"))
    set_temperature(path, 1.6)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Class folders."""
    for place, name in enumerate(CLASSES[:-1]):
        for index in range(4):
            path = tmp_path / "data" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_photo(path, (60, 50), seed=10 * place + index)
    return tmp_path / "data"


@pytest.fixture
def exported(cli: Cli, own: Path, tmp_path: Path) -> Path:
    result = cli("export", "-m", own, "-o", tmp_path / "own.onnx")
    assert result.code == 0, result.err
    return tmp_path / "own.onnx"


def without_model(text: str) -> list[dict]:
    records = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in one.items() if key != "model"} for one in records]


def test_predict_says_the_same_to_the_last_bit(
    cli: Cli, own: Path, exported: Path, data: Path
) -> None:
    ours, theirs = (
        cli("predict", data, "-m", model, "--format", "jsonl", "--tta") for model in (own, exported)
    )
    assert ours.code == theirs.code == 0, theirs.err
    assert without_model(ours.out) == without_model(theirs.out)
    assert json.loads(theirs.out.splitlines()[0])["model"] == str(exported)
    # The second run uses the compiled form, another size the free height and width.
    again = cli("predict", data, "-m", exported, "--format", "jsonl", "--tta")
    assert again.out == theirs.out
    small = [cli("predict", data, "-m", m, "--format", "jsonl", "--img-size", "40")
             for m in (own, exported)]  # fmt: skip
    assert without_model(small[0].out) == without_model(small[1].out)
    assert without_model(small[0].out) != without_model(ours.out)


def test_evaluate_and_features_take_it(
    cli: Cli, own: Path, exported: Path, data: Path, tmp_path: Path
) -> None:
    one, two = (
        json.loads(cli("evaluate", data, "-m", model, "--format", "json").out)
        for model in (own, exported)
    )
    for key in ("top1", "loss", "temperature", "classes"):
        assert one[key] == two[key]
    assert two["temperature"] == 1.6
    for model in (own, exported):
        result = cli("features", data, "-m", model, "-o", tmp_path / f"{model.suffix[1:]}.npy")
        assert result.code == 0, result.err
    first, second = (np.load(tmp_path / f"{kind}.npy") for kind in ("safetensors", "onnx"))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    refused = cli("features", data, "-m", exported, "--stage", "2", "-o", tmp_path / "x.npy")
    assert refused.code == 2
    assert "features and logits only" in refused.err
    refused = cli("evaluate", data, "-m", exported, "--calibrate")
    assert refused.code == 2
    assert "writes into a checkpoint of ours" in refused.err


def test_labels_replace_the_files_own(
    cli: Cli, own: Path, exported: Path, photo: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\ne\n")
    assert Classifier(str(exported), labels=names).class_names == tuple("abcde")
    assert cli("export", "-m", own, "-o", exported, "--labels", names).code == 0
    assert Classifier(str(exported)).class_names == tuple("abcde")


def test_models_show_reads_it(cli: Cli, exported: Path) -> None:
    told = json.loads(cli("models", "show", exported, "--format", "json").out)
    assert told["format"] == "onnx"
    assert told["class_names"] == list(CLASSES)
    assert told["provenance"]["export"]["opset"] == 17
    assert "onnx" in cli("models", "show", exported).out


def test_what_an_exported_network_cannot_do(
    cli: Cli, exported: Path, data: Path, photo: Path, tmp_path: Path
) -> None:
    for more, said in (
        (["--engine", "torch"], "leave out --engine torch"),
        (["--device", "cuda"], "Leave out --device cuda"),
        (["--engine", "torch", "--compile"], "leave out --engine torch"),
        (["--amp", "bfloat16"], "Leave out --amp, --compile and --cuda-graphs"),
        (["--weights", "x.pth"], "--weights gives weights to a named model"),
    ):
        result = cli("predict", photo, "-m", exported, *more)
        assert result.code == 2
        assert said in result.err
        assert str(exported) in result.err
    for arguments in (
        ["finetune", data, "-m", exported, "--epochs", "1", "--dry-run"],
        ["predict", photo, "-m", "resnest14d", "--weights", exported],
    ):
        result = cli(*arguments)
        assert result.code == 1, result.err
        assert "its weights cannot be taken out" in result.err
    result = cli("export", "-m", exported, "-o", tmp_path / "again.onnx")
    assert result.code == 2
    assert "Give the checkpoint that it was exported from" in result.err


def test_files_that_are_not_ours(cli: Cli, exported: Path, photo: Path, tmp_path: Path) -> None:
    def predicted(path: Path) -> str:
        result = cli("predict", photo, "-m", path)
        assert result.code in {1, 2}
        assert str(path) in result.err
        assert not result.out
        return result.err

    other = tmp_path / "other.onnx"
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "g", [value], [value])
    onnx.save(helper.make_model(graph), other)
    assert "no usable format_version" in predicted(other)
    assert "there is no such checkpoint file" in predicted(tmp_path / "missing.onnx")
    other.write_bytes(b"")
    assert "is empty" in predicted(other)
    other.write_bytes(exported.read_bytes()[:-3000])
    assert "is cut short" in predicted(other)
    # Ours by its metadata, but another network inside.
    proto = onnx.load(exported)
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "pictures"
    onnx.save(proto, other)
    assert "was changed since `resnest export` wrote it" in predicted(other)
    proto = onnx.load(exported)
    next(p for p in proto.metadata_props if p.key == "num_classes").value = "many"
    onnx.save(proto, other)
    assert "no usable num_classes" in predicted(other)
    shutil.copy(exported, other)
    text = other.read_bytes().replace(b"format_version\x12\x011", b"format_version\x12\x019")
    other.write_bytes(text)
    assert "needs resnest-cli" in predicted(other)


def test_the_check_is_told(cli: Cli, own: Path, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    result = cli("export", "-m", own, "-o", target, "--check", data, "--format", "json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert [one["on"] for one in told["parity"]] == ["random inputs", str(data)]
    assert [one["photos"] for one in told["parity"]] == [8, 16]
    for one in told["parity"]:
        assert one["difference"] < 1e-5
        assert one["agreement"] == 1
    assert told["bytes"] == target.stat().st_size
    table = cli("export", "-m", own, "-o", target, "--check", data, "--opset", "13")
    assert "opset 13" in table.out
    assert "100.00%" in table.out
    assert max(map(len, table.out.splitlines()[2:])) <= 80 + len(str(data))
    assert onnx.load(target).opset_import[0].version == 13


def test_unreadable_photos_of_the_check(cli: Cli, own: Path, data: Path, tmp_path: Path) -> None:
    (data / "cat" / "bad.jpg").write_bytes(b"\xff\xd8 no photo")
    result = cli("export", "-m", own, "-o", tmp_path / "m.onnx", "--check", data)
    assert result.code == 3
    assert "bad.jpg" in result.err
    assert "1 photo could not be read" in result.err
    assert (tmp_path / "m.onnx").exists()
    bad = tmp_path / "bad"
    bad.mkdir()
    shutil.copy(data / "cat" / "bad.jpg", bad)
    result = cli("export", "-m", own, "-o", tmp_path / "n.onnx", "--check", bad)
    assert result.code == 1
    assert "no photo in it can be read" in result.err
    assert not (tmp_path / "n.onnx").exists()


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_network_that_says_something_else_is_not_written(
    cli: Cli, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    target = tmp_path / f"m.{kind}"
    target.write_bytes(b"older")
    original = formats.onnx_model

    def damaged(*arguments: object) -> onnx.ModelProto:
        proto = original(*arguments)  # type: ignore[arg-type]
        bias = next(t for t in proto.graph.initializer if t.name == "fc.bias")
        bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) * 1.01).tobytes()
        return proto

    monkeypatch.setattr(formats, "onnx_model", damaged)
    if kind == "pt2":  # torch.export itself takes seconds; test_pt2_file.py runs it
        session = onnx_engine.open_exported(
            formats.onnx_bytes(
                original(find_model(str(own)), 17), formats.described(find_model(str(own)), {})
            )
        )
        monkeypatch.setattr(formats, "pt2_bytes", lambda *_: b"program")
        monkeypatch.setattr(formats, "pt2_runner", lambda _: lambda x: 1.01 * session.logits(x))
    result = cli("export", "-m", own, "-o", target)
    assert result.code == 1
    assert f"{target} was not written" in result.err
    assert "random inputs" in result.out
    assert target.read_bytes() == b"older"
    assert not list(tmp_path.glob(".*tmp"))


def test_int8(cli: Cli, own: Path, data: Path, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.onnx"
    result = cli("export", "-m", own, "-o", target, "--int8", "--calibrate", data)
    assert result.code == 0, result.err
    for text in ("float32", "int8", "photos a second", "top-1", "same first class", "8 others"):
        assert text in result.out, text
    assert "Only 8 photos to calibrate" in result.err
    record = json.loads(cli("predict", photo, "-m", target, "--format", "json").out)
    assert record["status"] == "ok"
    told = json.loads(
        cli(
            "export", "-m", own, "-o", target, "--int8", "--calibrate", data, "--check", data,
            "--calibrate-photos", "4", "--format", "json",
        ).out
    )  # fmt: skip
    assert told["int8"]["calibrated_on"] == 4
    assert 0 <= told["int8"]["top1_before"] <= 1
    assert told["parity"][0]["difference"] > 1e-4  # told, and no reason to refuse
    assert target.exists()


def test_int8_without_a_readable_photo(cli: Cli, own: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for index in range(3):
        (bad / f"{index}.jpg").write_bytes(b"no photo")
    target = tmp_path / "m.onnx"
    result = cli("export", "-m", own, "-o", target, "--int8", "--calibrate", bad)
    assert result.code == 1
    assert "no photo to calibrate with can be read" in result.err
    assert not target.exists()


def test_slower_is_said_plainly(capfd: pytest.CaptureFixture[str]) -> None:
    from resnest_cli.output.results import show_export

    speed = {"float32": {"ms": 1.0, "photos_per_second": 1000.0},
             "int8": {"ms": 2.0, "photos_per_second": 500.0}}  # fmt: skip
    told = {"bytes_before": 100, "bytes_after": 25, "speed": speed, "top1_before": 0.5,
            "top1_after": 0.49, "agreement": 0.9, "difference": 0.1, "photos": 10,
            "calibrated_on": 10, "cores": 1}  # fmt: skip
    summary = {"file": "x.onnx", "variant": "v", "classes": 2, "precision": "int8", "bytes": 25,
               "activation": "softmax"}  # fmt: skip
    show_export(summary | {"int8": told})
    printed = capfd.readouterr()
    assert "int8 is slower than float32 here (0.50 times as fast)" in printed.err
    assert "-1.00 points" in printed.out
    speed["int8"]["photos_per_second"] = 1500.0
    show_export(summary | {"int8": told})
    assert "slower" not in capfd.readouterr().err


def test_hub(cli: Cli, own: Path, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    result = cli("export", "-m", own, "--hub", folder, "--license", "mit")
    assert result.code == 0, result.err
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "README.md",
    }  # fmt: skip
    assert 'license: "mit"' in (folder / "README.md").read_text()
    one, two = (
        cli("predict", photo, "-m", model, "--format", "jsonl").out
        for model in (own, folder / "model.safetensors")
    )
    assert without_model(one) == without_model(two)
    assert cli("export", "-m", own, "--hub", folder).code == 0  # replaces


def test_a_network_of_other_channels_is_written_for_programs_that_give_it_arrays(
    cli: Cli, data: Path, tmp_path: Path
) -> None:
    network, bands = lively(TINY, num_classes=2, in_channels=4), tmp_path / "bands.safetensors"
    save(bands, network, CheckpointInfo(variant=TINY, class_names=("field", "forest")))
    target = tmp_path / "bands.onnx"
    assert cli("export", "-m", bands, "-o", target).code == 0
    given = np.random.default_rng(0).normal(size=(2, 4, 40, 48)).astype(np.float32)
    (logits,) = InferenceSession(target).run(["logits"], {"photos": given})
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(given)).numpy()
    assert np.abs(logits - expected).max() < 1e-4
    for words in (["predict", data], ["finetune", data], ["export", "--check", data, "-o", target]):
        refused = cli(*words, "-m", bands)
        assert (refused.code, "takes 4 channels; photos have 3" in refused.err) == (2, True)


def test_bad_usage(cli: Cli, own: Path, data: Path, tmp_path: Path) -> None:
    onnx_, pt2 = tmp_path / "m.onnx", tmp_path / "m.pt2"
    for arguments, code, said in (
        ([], 2, "name the file with -o"),
        (["-o", onnx_, "--hub", tmp_path / "hub"], 2, "name the file with -o"),
        (["-o", tmp_path / "m.tflite"], 2, "ends in .onnx, .pt2, or .xml"),
        (["-o", pt2, "--int8", "--calibrate", data], 2, "--int8 goes with .onnx"),
        (["-o", pt2, "--opset", "17"], 2, "--opset goes with .onnx"),
        (["-o", onnx_, "--int8"], 2, "--int8 --calibrate DATA"),
        (["-o", onnx_, "--calibrate", data], 2, "--int8 --calibrate DATA"),
        (["-o", onnx_, "--opset", "0"], 2, "--opset 0: use 13"),
        (["-o", onnx_, "--opset", "99"], 2, "--opset 99: use 13"),
        (["-o", onnx_, "--license", "mit"], 2, "--license goes into the model card"),
        (["-o", onnx_, "--check", tmp_path / "none"], 2, "no such folder of photos"),
        (["-o", onnx_, "--int8", "--calibrate", tmp_path / "none"], 2, "no such folder"),
        (["-o", tmp_path / "none" / "m.onnx"], 1, "Make it, or name another."),
        (["-o", tmp_path / "none" / "m.xml"], 1, "Make it, or name another."),
        (["-o", data], 2, "ends in .onnx"),
        (["--hub", tmp_path / "none" / "hub"], 1, "Make it, or name another."),
        (["--hub", own], 1, "is a file"),
        (["--hub", tmp_path / "hub", "--check", data], 2, "--check goes with -o FILE"),
        (["--hub", tmp_path / "hub", "--int8"], 2, "--int8 goes with -o FILE"),
    ):
        result = cli("export", "-m", own, *arguments)
        assert result.code == code, (arguments, result.err)
        assert said in result.err, (arguments, result.err)
        assert not result.out
    assert not onnx_.exists()
    assert not (tmp_path / "hub").exists()
    result = cli("export", "-m", "resnest14x", "-o", onnx_)
    assert result.code == 2
    assert "Did you mean" in result.err


def test_a_full_disk(cli: Cli, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "atomic_file", full)
    target = tmp_path / "m.onnx"
    result = cli("export", "-m", own, "-o", target)
    assert result.code == 1
    assert "No space left on device" in result.err
    assert str(target) in result.err
    assert not target.exists()


def test_a_pt2_file_is_no_model_to_predict_with(cli: Cli, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.pt2"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("m/version", "1")
    result = cli("predict", photo, "-m", target)
    assert result.code == 1
    assert "is a network for torch.export.load" in result.err
