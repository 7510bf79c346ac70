"""`resnest predict`, as a user meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli.images.preprocess import preprocess
from resnest_cli.model import checkpoint
from tests.conftest import CLASSES, Cli, make_photo


def expected(checkpoint_file: Path, photo: Path) -> np.ndarray:
    """Probabilities straight from the network."""
    loaded = checkpoint.load(checkpoint_file)
    array = preprocess(Image.open(photo).convert("RGB"), loaded.info.preprocessing)
    with torch.no_grad():
        logits = checkpoint.instantiate(loaded)(torch.from_numpy(array)[None])
    return logits.softmax(dim=1)[0].numpy()


def test_json_of_one_photo_is_one_record(cli: Cli, tiny_checkpoint: Path, photo: Path) -> None:
    result = cli("predict", photo, "--model", tiny_checkpoint, "--format", "json", "--topk", "3")
    assert result.code == 0
    record = json.loads(result.out)
    assert list(record) == ["input", "status", "error", "model", "predictions"]
    assert record["input"] == str(photo)
    assert record["status"] == "ok"
    assert record["error"] is None
    assert record["model"] == str(tiny_checkpoint)
    probabilities = expected(tiny_checkpoint, photo)
    order = np.argsort(-probabilities)[:3]
    assert [p["rank"] for p in record["predictions"]] == [1, 2, 3]
    assert [p["index"] for p in record["predictions"]] == order.tolist()
    assert [p["label"] for p in record["predictions"]] == [CLASSES[i] for i in order]
    for prediction in record["predictions"]:
        assert prediction["probability"] == pytest.approx(
            float(probabilities[prediction["index"]]), abs=1e-5
        )


def test_one_record_per_input_in_order(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    photos = [make_photo(tmp_path / f"{i}.png", seed=i) for i in range(11)]
    (tmp_path / "text.jpg").write_text("no photo")
    inputs = [*photos[:5], tmp_path / "text.jpg", *photos[5:], tmp_path / "gone.jpg"]
    many = cli("predict", *inputs, "-m", tiny_checkpoint, "--format", "jsonl")
    assert many.code == 3
    records = [json.loads(line) for line in many.out.splitlines()]
    assert [r["input"] for r in records] == [str(path) for path in inputs]
    failed = [r for r in records if r["status"] == "error"]
    assert [r["input"] for r in failed] == [str(inputs[5]), str(inputs[-1])]
    assert all(r["error"] and r["predictions"] == [] for r in failed)
    assert "2 of 13" in many.err
    array = json.loads(cli("predict", *inputs, "-m", tiny_checkpoint, "--format", "json").out)
    assert array == records
    for record, path in zip(records[:2], photos, strict=False):  # batches change nothing
        alone = json.loads(cli("predict", path, "-m", tiny_checkpoint, "--format", "json").out)
        assert [p["index"] for p in alone["predictions"]] == [
            p["index"] for p in record["predictions"]
        ]


def test_json_of_a_single_failure_is_its_record(cli: Cli, tiny_checkpoint: Path) -> None:
    result = cli("predict", "gone.jpg", "-m", tiny_checkpoint, "--format", "json")
    assert result.code == 3
    assert json.loads(result.out)["status"] == "error"


def test_table_shows_ranks_classes_and_bars(
    cli: Cli, tiny_checkpoint: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = cli("predict", photo, "-m", tiny_checkpoint)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == str(photo)  # whole, so that it can be copied
    assert max(map(len, lines[1:])) <= 80
    probabilities = expected(tiny_checkpoint, photo)
    best = int(probabilities.argmax())
    row = next(line for line in lines if CLASSES[best] in line)
    assert f"{probabilities[best]:.2%}" in row
    assert "━" in row
    assert "[bold]bracket" in result.out  # a label is text, never markup
    assert "\x1b" not in result.out


def test_table_of_several_photos_has_errors_in_place(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    first, last = make_photo(tmp_path / "a.png"), make_photo(tmp_path / "z.png", seed=2)
    bad = tmp_path / "new\nline\x1b[31m.jpg"
    bad.write_bytes(b"")
    result = cli("predict", first, bad, last, "-m", tiny_checkpoint)
    assert result.code == 3
    assert "\x1b" not in result.out
    assert "new\\nline\\x1b[31m.jpg" in result.out.replace("\n", "")
    assert result.out.index("a.png") < result.out.index("new") < result.out.index("z.png")
    assert "is empty" in result.out


def test_topk_beyond_the_classes_gives_all(cli: Cli, tiny_checkpoint: Path, photo: Path) -> None:
    result = cli("predict", photo, "-m", tiny_checkpoint, "-k", "99", "--format", "json")
    predictions = json.loads(result.out)["predictions"]
    assert len(predictions) == 5
    assert sum(p["probability"] for p in predictions) == pytest.approx(1)


def test_labels_replace_the_models_own(
    cli: Cli, tiny_checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("eins\nzwei\ndrei\nvier\nfünf\n", encoding="utf-8")
    out = cli("predict", photo, "-m", tiny_checkpoint, "--labels", file, "--format", "json").out
    assert {p["label"] for p in json.loads(out)["predictions"]} == {
        "eins", "zwei", "drei", "vier", "fünf",
    }  # fmt: skip
    file.write_text("one\ntwo\n", encoding="utf-8")
    short = cli("predict", photo, "-m", tiny_checkpoint, "--labels", file)
    assert short.code == 1
    assert "has 2 lines; the network has 5 classes" in short.err
    assert str(file) in short.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "x.jpg", "--model", "resnest51d"], 2, "Did you mean resnest50d"),
        (["predict", "x.jpg", "--model", "none/such.safetensors"], 2, "no such checkpoint file"),
        (["predict", "x.jpg", "--device", "gpu"], 2, "unknown device 'gpu'"),
        (["predict", "x.jpg", "--device", "cuda:99"], 2, "not available"),
        (["predict", "x.jpg", "--topk", "0"], 2, "topk"),
        (["predict", "x.jpg", "--format", "yaml"], 2, "yaml"),
        (["predict"], 2, "name at least one PHOTO"),
        (["predict", "x.jpg", "-o", "x.jpg"], 2, "photos are never written to"),
        (["predict", "x.jpg", "--threshold", "2"], 2, "threshold"),
        (["predict", "x.jpg", "--from-file", "gone.txt"], 2, "gone.txt: cannot be read"),
        (["predict", "x.jpg", "--engine", "onnx", "--device", "cuda"], 2, "runs on the CPU"),
        (["predikt"], 2, "Did you mean 'predict'"),
        (["predict", "--tpk", "3", "x.jpg"], 2, "--topk"),
    ],
)
def test_wrong_use_exits_2_with_the_remedy(
    cli: Cli, tiny_checkpoint: Path, arguments: list[str], code: int, message: str
) -> None:
    if "--model" not in arguments:
        arguments = (
            [*arguments, "--model", str(tiny_checkpoint)] if len(arguments) > 1 else arguments
        )
    result = cli(*arguments)
    assert result.code == code
    assert message in result.err
    assert result.out == ""
    assert "Traceback" not in result.err


def test_a_checkpoint_takes_no_other_weights(cli: Cli, tiny_checkpoint: Path, photo: Path) -> None:
    result = cli("predict", photo, "-m", tiny_checkpoint, "--weights", tiny_checkpoint)
    assert result.code == 2
    assert "--weights" in result.err


def test_debug_shows_the_traceback(cli: Cli, photo: Path) -> None:
    result = cli("predict", photo, "-m", "nothing", "--debug")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "unknown model" in result.err


def test_model_and_device_read_the_environment(
    cli: Cli, tiny_checkpoint: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEST_MODEL", str(tiny_checkpoint))
    assert cli("predict", photo).code == 0
    monkeypatch.setenv("RESNEST_DEVICE", "nonsense")
    assert "nonsense" in cli("predict", photo).err
    assert "RESNEST_MODEL" in cli("predict", "--help").out


def test_offline_without_weights_says_what_to_do(cli: Cli, photo: Path) -> None:
    result = cli("predict", photo, "--offline")
    assert result.code == 1
    assert "resnest50-528c19ca.pth" in result.err
    assert result.out == ""


def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "resnest_cli", *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=120,
        **options,
    )


def test_a_closed_pipe_ends_quietly(tiny_checkpoint: Path, photo: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "resnest_cli", "predict", *[str(photo)] * 3]
    for format_ in ("jsonl", "table"):
        done = subprocess.run(
            [*command, "-m", str(tiny_checkpoint), "--format", format_],
            stdout=writer, stderr=subprocess.PIPE, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 141
        assert done.stderr == b""
    os.close(writer)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 need Linux")
def test_names_that_are_not_utf8(tiny_checkpoint: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes(make_photo(tmp_path / "a.png").read_bytes())
    command = [sys.executable, "-m", "resnest_cli", "predict", name, "-m", str(tiny_checkpoint)]
    for format_ in ("json", "table"):
        done = subprocess.run(
            [*command, "--format", format_], capture_output=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert b"caf\\udce9" in done.stdout or b"caf\\xe9" in done.stdout


@pytest.mark.parametrize("settings", [{"LANG": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_terminal_without_unicode(tiny_checkpoint: Path, photo: Path, settings: dict) -> None:
    done = run("predict", photo, "-m", tiny_checkpoint, env=os.environ | settings)
    assert done.returncode == 0, done.stderr
    assert b"Rank" in done.stdout
