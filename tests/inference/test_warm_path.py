"""What the command imports: a compiled model is served without torch and without onnx."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli, Published, make_photo

HEAVY = {"torch", "torchvision", "onnx", "requests", "urllib3", "timm", "filelock", "matplotlib"}
# With what `resnest --help` has no use for either; photos are decoded by another process.
FOR_PREDICT = {"numpy", "onnxruntime", "safetensors"}
HEAVY |= {"PIL"}


def imported(*arguments: str | Path) -> tuple[str, set[str]]:
    """What `resnest ARGUMENTS...` prints, and the top-level packages that it imports.

    By Python's own trace: of the command's process, not of its decoders, see `test_pool`.
    """
    command = [sys.executable, "-X", "importtime", "-m", "resnest_cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = re.findall(r"^import time:[^|]*\|[^|]*\| +([\w.]+)$", done.stderr, re.MULTILINE)
    return done.stdout, {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("format_", ["table", "json", "jsonl"])
def test_warm_predict_imports_nothing_heavy(
    tiny_checkpoint: Path, photo: Path, format_: str
) -> None:
    command = ["predict", photo, "--model", tiny_checkpoint, "--format", format_]
    first, _ = imported(*command, "--device", "cpu")
    again, names = imported(*command, "--device", "cpu")
    assert first == again
    assert "teapot" in again
    assert not names & HEAVY
    assert names >= FOR_PREDICT - {"safetensors"}


def test_warm_predict_with_an_exported_network(
    tiny_checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    exported = tmp_path / "model.onnx"
    imported("export", "--model", tiny_checkpoint, "-o", exported)
    command = ["predict", photo, "--model", exported, "--device", "cpu"]
    first, names = imported(*command)  # looks into it and compiles it
    assert not names & (HEAVY - {"filelock", "onnx"})
    again, names = imported(*command)
    assert first == again
    assert not names & HEAVY


def test_warm_predict_with_published_weights(
    cli: Cli, published: Published, tmp_path: Path
) -> None:
    """`download` compiles a pickle without torch; after that nothing heavy is needed."""
    published.serve()
    photo = make_photo(tmp_path / "photo.jpg")
    assert cli("download", "resnest14d").code == 0
    assert len(list((tmp_path / "resnest_home" / "compiled").glob("*.ort"))) == 1
    # In another process the table is the real one: the same weights, as timm's download.
    snapshot = tmp_path / "hf_home/hub/models--timm--resnest14d.gluon_in1k/snapshots/1"
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_model.bin").write_bytes(published.data)
    command = ["predict", photo, "--model", "resnest14d", "--device", "cpu"]
    out, names = imported(*command)
    assert "photo.jpg" in out
    assert not names & HEAVY
    assert len(list((tmp_path / "resnest_home" / "compiled").glob("*.ort"))) == 1


@pytest.mark.parametrize(
    "arguments", [["--help"], ["predict", "--help"], ["export", "--help"], ["--version"]]
)
def test_help_imports_next_to_nothing(arguments: list[str]) -> None:
    _, names = imported(*arguments)
    assert not names & (HEAVY | FOR_PREDICT)


def test_models_shows_and_cleans_what_is_compiled(cli: Cli, published: Published) -> None:
    published.serve()
    assert cli("download", "resnest14d").code == 0
    records = json.loads(cli("models", "--format", "json").out)
    by_id = {record["id"]: record for record in records}
    assert by_id["resnest50d"]["compiled"] == []
    (found,) = by_id["resnest14d"]["compiled"]
    assert found["bytes"] > 40e6
    assert found["outputs"] == ["logits"]
    assert Path(found["path"]).is_file()
    (line,) = [line for line in cli("models").out.splitlines() if line.startswith("resnest14d")]
    assert line.endswith("MB*")
    dry = cli("models", "clean", "--dry-run").out
    assert found["path"] in dry
    assert Path(found["path"]).is_file()
    assert cli("models", "clean").code == 0
    assert not list(Path(found["path"]).parent.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="TMPDIR")
def test_onnx_runtime_leaves_no_trace_of_telemetry(
    tiny_checkpoint: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its telemetry keeps an id in the home and a session file in the folder for temporaries."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    imported("predict", photo, "--model", tiny_checkpoint, "--device", "cpu", "--engine", "onnx")
    left = [path for name in ("HOME", "TMPDIR") for path in (tmp_path / name).rglob("*")]
    assert not [path for path in left if path.is_file()]
