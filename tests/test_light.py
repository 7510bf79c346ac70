"""Without torch, as after a light install: what works, and what says how to go on."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import resnest_cli
from resnest_cli.errors import PACKAGES
from resnest_cli.inference import engine

ROOT = Path(__file__).parents[1]
LIGHT = Path(resnest_cli.__file__).with_name("requirements-light.txt")
PHOTO = Path(__file__).parent / "data/coffee.jpg"
TORCH = {"torch", "torchvision", "captum"}
NEEDS = "needs torch, which is not installed. Run: pip install torch torchvision captum\n"
# One process for all: each command's exit code and stderr.
PROGRAM = f"""
import contextlib, io, json, sys
sys.modules |= dict.fromkeys({sorted(TORCH)})
from resnest_cli.app import main
ended = []
for words in json.load(sys.stdin):
    sys.argv[1:] = words
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as error:
            ended.append((error.code, said.getvalue()))
print(json.dumps(ended))
"""


def without_torch(commands: list[str], cwd: Path) -> list[tuple[int, str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps([line.split() for line in commands]),
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, said in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Photos of two of demo's classes."""
    for name in ("espresso", "bucket"):
        for number in range(2):
            photo = tmp_path / "photos" / name / f"{number}.jpg"
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.symlink_to(PHOTO)
    return tmp_path


def test_these_work(place: Path) -> None:
    commands = [
        "predict photos -m demo --html page.html -o records.jsonl",
        "features photos -m demo -o feats.npy",
        "search feats.npy photos/bucket/0.jpg",
        "merge feats.npy -o merged.npy",
        "evaluate photos -m demo --known-only",
        "check photos -m demo -o issues",
        "models",
        "models show demo",
        "guide predict",
        "explain --help",
    ]
    ended = dict(zip(commands, without_torch(commands, place), strict=True))
    assert {line: said for line, (code, said) in ended.items() if code} == {}
    assert (place / "records.jsonl").read_text().count('"espresso"') >= 4


def test_these_say_what_they_need(place: Path, seeded_weights: bytes) -> None:
    (place / "weights.pth").write_bytes(seeded_weights)
    commands = [
        "finetune photos --epochs 1",
        "train photos --epochs 1",
        "explain photos/bucket/0.jpg -m demo",
        "export -m resnest50d -o net.onnx",
        "average a.safetensors b.safetensors -o c.safetensors",
        "benchmark",
        "predict photos --engine torch",
        "predict photos --device cuda",
        "features photos -o f.npy --compile",
        "predict photos -m weights.pth",
    ]
    for line, (code, said) in zip(commands, without_torch(commands, place), strict=True):
        assert code == 1, line
        assert said.count("\n") == 1, said
        assert said.endswith(NEEDS), said
    left = {path.name for path in place.iterdir()}
    assert left == {"photos", "weights.pth", "resnest_home"}  # no run folder, nothing fetched


def test_a_driver_without_torch_leaves_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "accelerator_likely", lambda: True)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert engine._is_cpu("auto")
    assert not engine._is_cpu("cuda")


def test_the_light_set_is_all_but_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = LIGHT.read_text(encoding="utf-8").splitlines()
    light = [line for line in lines if not line.startswith("#")]
    left_out = [line for line in project["dependencies"] if line not in light]
    assert [line for line in project["dependencies"] if line in light] == light
    assert {line.partition(">=")[0] for line in left_out} == TORCH
    extras = project["optional-dependencies"]
    for package in PACKAGES.values():
        wanted = extras[package.extra] if package.extra else left_out
        assert set(package.install.split()) <= {line.partition(">=")[0] for line in wanted}
