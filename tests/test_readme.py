"""Every command and every Python example of the README runs.

Published weights cannot be fetched here: a shim of the `resnest` command gives named models the
weights of a tiny network instead. Options, files, pipes and exit codes are the real ones.
"""

import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from resnest_cli.export.hub_folder import timm_arguments
from tests.conftest import make_photo
from tests.data.making import packed
from tests.hub_server import HubServer
from tests.networks import TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line[2:]
    for kind, text in BLOCKS
    if kind == "console"
    for line in text.splitlines()
    if line.startswith("$ ")
]
EXAMPLES = [text for kind, text in BLOCKS if kind == "python"]

SHIM = """#!{python}
import sys
sys.argv[0] = "resnest"
import resnest_cli.model.loading as loading
original = loading.find_model
def find_model(name, *, source=None, labels=None, access=None, trust_onnx=False):
    loading.understand(name)
    if name == "demo":
        return original(name, access=access)
    return original("tiny.safetensors", labels=labels, access=access)
loading.find_model = find_model
import resnest_cli.model.weights as weights
from pathlib import Path
ensure = weights.ensure
def ensured(variant, *more, **how):
    return ensure(variant, *more, **how) if variant.bundled else Path("tiny.safetensors")
weights.ensure = ensured
from resnest_cli.app import main
main()
"""


def hash_of(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())


@pytest.fixture
def place(
    tmp_path: Path, tiny_checkpoint: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with everything that the README's commands name, and a hub for its repositories."""
    work = tmp_path / "work"
    config = {"architecture": "resnest50d_2s2x40d", "model_args": timm_arguments(TINY)}
    files = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": tiny_checkpoint.read_bytes(),
    }
    hub.add("USER/NAME", files, "REVISION")
    (work / "photos" / "2026").mkdir(parents=True)
    (work / "runs/finetune/exp/weights").mkdir(parents=True)
    shutil.copytree(ROOT / "tests" / "data", work / "tests" / "data")
    make_photo(work / "dog.jpg")
    make_photo(work / "photos" / "2026" / "n02389026_sorrel.JPEG")
    make_photo(work / "photos" / "n07753592_banana.JPEG")
    (work / "runs/train/exp/weights").mkdir(parents=True)
    for number in (1, 2):
        shutil.copy(tiny_checkpoint, work / f"runs/train/exp/weights/epoch-000{number}.safetensors")
    learned = "runs/finetune/exp/weights/best", "runs/train/exp/weights/best"
    for name in ("tiny", "best", *learned):
        shutil.copy(tiny_checkpoint, work / f"{name}.safetensors")
    shutil.copy(tiny_checkpoint, work / "mine.pth")
    for data in ("data", "zero-to-four", "five-to-nine"):
        for index in range(10 if data == "data" else 5):
            for number in range(4):
                path = work / data / str(index) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                make_photo(path, (20, 20), seed=10 * index + number)
    for side in ("train", "val"):
        for name in ("n02124075", "n07920052"):
            for number in range(3):
                path = work / "tiny-imagenet" / side / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                make_photo(path, (64, 64), seed=hash_of(side, name, number))
    rows = [f"{number},{'ab'[number % 2]}" for number in range(8)]
    (work / "labels.csv").write_text("\n".join(["id,breed", *rows]))
    for number in range(8):
        make_photo(work / "photos" / f"{number}.jpg", seed=number)
    packed(work / "data", work / "shards", photos_per_shard=None, shard_bytes=256_000_000)
    (work / "classes.tsv").write_text("n02124075\tEgyptian cat\nn07920052\tespresso\n")
    settings = 'command = "finetune"\ndata = "data"\nmodel = "resnest50d"\nepochs = 1\n'
    (work / "runs/finetune/exp/args.toml").write_text(settings)
    make_photo(work / "photo.jpg")
    (work / "mine.txt").write_text("a\nb\nc\nd\ne\n")
    shims = tmp_path / "bin"
    shims.mkdir()
    (shims / "resnest").write_text(SHIM.format(python=sys.executable))
    (shims / "resnest").chmod(0o755)
    (shims / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (shims / "python").chmod(0o755)
    monkeypatch.setenv("PATH", str(shims), prepend=":")
    return work


def test_the_readme_has_commands_and_examples() -> None:
    assert len(COMMANDS) >= 15
    assert len(EXAMPLES) >= 3
    first_output = README.splitlines().index("```", README.splitlines().index("```console") + 1)
    assert first_output <= 25


@pytest.mark.skipif(sys.platform == "win32", reason="the README's commands are for a Unix shell")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.slow) if "--runner ray" in command else command
        for command in COMMANDS
    ],
)
def test_command(command: str, place: Path) -> None:
    if "| jq" in command and shutil.which("jq") is None:
        pytest.skip("no jq")
    if "example.org" in command:
        command = command.replace("https://example.org/dog.jpg", "dog.jpg")
    # The stand-in for best.safetensors has five classes.
    command = command.replace("resnest evaluate data/", "resnest evaluate zero-to-four/")
    command = command.replace("resnest benchmark", "resnest benchmark --min-time 0")
    if command.startswith(("resnest train", "resnest finetune")) and "--config" not in command:
        command = shortened(command)
    done = subprocess.run(
        ["bash", "-c", command], cwd=place, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout or re.search("-o |verify|clean|python|train|finetune", command)
    assert "error" not in done.stderr


def test_the_first_command_prints_what_the_readme_shows(place: Path) -> None:
    text = next(text for kind, text in BLOCKS if kind == "console")
    command, *shown = text.splitlines()
    done = subprocess.run(
        ["bash", "-c", command[2:]], cwd=place, capture_output=True, text=True, check=True
    )
    assert "demo" in command

    def ranks(lines: list[str]) -> list[list[str]]:
        """Rank and class of each line of the table."""
        cells = [line.split("│") for line in lines if line.startswith("│")]
        return [[cell.strip() for cell in row[1:3]] for row in cells]

    assert ranks(done.stdout.splitlines()) == ranks(shown)
    assert len(ranks(shown)) >= 3


def shortened(command: str) -> str:
    """The same training for one epoch on small photos."""
    command = re.sub(r"--epochs \d+", "", command)
    return command + " --epochs 1" + ("" if "--img-size" in command else " --img-size 32")


@pytest.mark.parametrize("example", EXAMPLES)
def test_python_example(example: str, place: Path, seeded_weights: bytes) -> None:
    (place / "seeded.pth").write_bytes(seeded_weights)
    if "feats.npy" in example:
        subprocess.run(["resnest", "features", "photos/", "-o", "feats.npy"], cwd=place, check=True)
    if "demo.onnx" in example:
        export = ["resnest", "export", "--model", "demo", "-o", "demo.onnx"]
        subprocess.run(export, cwd=place, check=True)
    if "timm.create_model" in example:  # shown as a line; test_checkpoint.py runs it in full
        example = "import timm\n" + example.replace("best.safetensors", "ten.safetensors")
        code = (
            "from resnest_cli import build\nfrom resnest_cli.model import checkpoint\n"
            "from resnest_cli.model.variants import get_variant\n"
            "info = checkpoint.CheckpointInfo(variant=get_variant('resnest50d'))\n"
            "checkpoint.save('ten.safetensors', build('resnest50d', num_classes=10), info)\n"
        )
        example = code + example
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", example], cwd=place, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if "demo.onnx" in example:  # it says what predict says, as the README shows
        from resnest_cli import Classifier

        (best,) = Classifier("demo").predict(ROOT / "tests/data/coffee.jpg", topk=1).predictions
        label, probability = done.stdout.split()
        assert label == best.label
        assert float(probability) == pytest.approx(best.probability, abs=1e-6)
        assert f"```console\n{label} {probability[:7]}" in README


def test_the_file_tree_names_what_exists() -> None:
    tree = README.split("    resnest_cli/\n")[1].split("\n\n")[0]
    for line in tree.splitlines():
        if match := re.match(r" {6}(\w+(?:\.py)?)", line):
            base = ROOT / ("tests" if "timings" in line or "trials" in line else "resnest_cli")
            assert (base / match[1]).exists(), line
    for folder in (ROOT / "resnest_cli").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"{folder.name}/" in tree
