"""Every command and every Python example of the README and of the manual runs.

Named models have the weights of a tiny network instead: see `stand_ins`. Options, files, pipes and
exit codes are the real ones.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from resnest_cli import Classifier, build, guides
from resnest_cli.benchmark import measure, timing
from resnest_cli.export.hub_folder import timm_arguments
from resnest_cli.inference import classifier
from resnest_cli.inference.unknown import fitted
from resnest_cli.model import checkpoint, loading, weights
from resnest_cli.model.variants import VARIANTS, Preprocessing
from resnest_cli.training import setup
from tests import stand_ins
from tests.conftest import Cli, Result, make_photo
from tests.data.making import packed
from tests.hub_server import HubServer
from tests.images.clips import clip
from tests.networks import TINY, enliven

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MANUAL = {page: guides.read(page) for page in guides.PAGES}


def blocks(page: str, kind: str) -> list[str]:
    """The texts of a kind of fenced block."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


PAGES = {"README": README, **MANUAL}
SHOWN = {
    f"{name}-{number}": commands
    for name, page in PAGES.items()
    for number, text in enumerate(blocks(page, "console"), 1)
    if (commands := [line[2:] for line in text.splitlines() if line.startswith("$ ")])
}
# Those whose commands are not all in another block, too.
OWN = {
    name: commands
    for name, commands in SHOWN.items()
    if not any(
        set(commands) <= set(others) and (len(commands) < len(others) or name > other)
        for other, others in SHOWN.items()
        if other != name
    )
}
EXAMPLES = [text for page in PAGES.values() for text in blocks(page, "python")]

SHIM = """#!{python}
import sys
sys.path.insert(0, {root!r})
sys.argv[0] = "resnest"
from tests.stand_ins import main
main()
"""

# What only a shell or several processes can show; all else runs in the process of the test.
IN_A_SHELL = re.compile(r"[|<>]|^(?!resnest )| --devices | --runner ")
# What takes seconds, and has a test of its own: two devices, Ray, torch.export, the benchmark.
SLOW = re.compile(r" --devices | --runner |\.pt2|benchmark .*--photos")


def hash_of(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())


@pytest.fixture(scope="module")
def things(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the README's commands name."""
    work = tmp_path_factory.mktemp("things")
    (work / "photos" / "2026").mkdir(parents=True)
    (work / "runs/finetune/exp/weights").mkdir(parents=True)
    shutil.copytree(ROOT / "tests" / "data", work / "tests" / "data")
    for name in ("dog", "shoes"):
        make_photo(work / f"{name}.jpg")
    add_teacher_and_clothes(work)
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
                again = work / "ordinary" / name / f"{side}-{number}.png"
                again.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, again)
    rows = [f"{number},{'ab'[number % 2]}" for number in range(8)]
    (work / "labels.csv").write_text("\n".join(["id,breed", *rows]))
    for number in range(8):
        make_photo(work / "photos" / f"{number}.jpg", seed=number)
    add_archive_scan_and_clip(work)
    packed(work / "data", work / "shards", photos_per_shard=None, shard_bytes=256_000_000)
    (work / "classes.tsv").write_text("n02124075\tEgyptian cat\nn07920052\tespresso\n")
    settings = 'command = "finetune"\ndata = "data"\nmodel = "resnest50d"\nepochs = 1\n'
    (work / "runs/finetune/exp/args.toml").write_text(settings)
    make_photo(work / "photo.jpg")
    (work / "mine.txt").write_text("a\nb\nc\nd\ne\n")
    return work


@pytest.fixture
def place(
    things: Path, tmp_path: Path, tiny_checkpoint: Path, hub: HubServer,
    monkeypatch: pytest.MonkeyPatch, no_pictures: None,
) -> Path:  # fmt: skip
    """A copy of all `things`, which is the present folder, and a hub for its repositories."""
    work = Path(shutil.copytree(things, tmp_path / "work"))
    config = {"architecture": "resnest50d_2s2x40d", "model_args": timm_arguments(TINY)}
    files = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": tiny_checkpoint.read_bytes(),
    }
    hub.add("USER/NAME", files, "REVISION")
    shims = tmp_path / "bin"
    shims.mkdir()
    (shims / "resnest").write_text(SHIM.format(python=sys.executable, root=str(ROOT)))
    (shims / "resnest").chmod(0o755)
    (shims / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (shims / "python").chmod(0o755)
    monkeypatch.setenv("PATH", str(shims), prepend=":")
    monkeypatch.setitem(timing._SIDE, "cpu", 8)
    monkeypatch.setattr(weights, "ensure", stand_ins.ensure)
    for module in (loading, setup, measure, classifier):
        monkeypatch.setattr(module, "find_model", stand_ins.find_model)
    monkeypatch.chdir(work)
    return work


def add_archive_scan_and_clip(work: Path) -> None:
    """What `inputs.md` and `labels.md` name: several photos in one file, labels in a table."""
    with ZipFile(work / "trip.zip", "w") as archive:
        archive.write(work / "dog.jpg", "2024/dog.jpg")
    pages = [Image.open(work / name) for name in ("dog.jpg", "shoes.jpg")]
    pages[0].save(work / "scan.tif", save_all=True, append_images=pages[1:])
    pages[0].convert("L").save(work / "film.png")
    shutil.copytree(work / "zero-to-four", work / "xrays")
    if find_spec("av") is not None:
        clip(work / "clip.mp4")
    sets = [f"photos/{number}.jpg,{'|'.join('abc'[: number % 4])}" for number in range(8)]
    (work / "photos.csv").write_text("\n".join(["path,labels", *sets]))
    shutil.copy(work / "dog.jpg", work / "1835.jpg")


def add_teacher_and_clothes(work: Path) -> None:
    """A network that knows the classes of data/, and one that knows what it was trained on."""
    random = np.random.default_rng(0)
    network = enliven(build(TINY, num_classes=10))
    variant = replace(TINY, preprocessing=Preprocessing(48, 0.9, "bicubic"))
    photos = random.normal(size=(40, TINY.num_features)), random.normal(size=(40, 10))
    features, logits = (part.astype(np.float32) for part in photos)
    kept = fitted((features, logits), (features, logits))
    info = checkpoint.CheckpointInfo(variant=variant, class_names=tuple("0123456789"))
    checkpoint.save(work / "teacher.safetensors", network, info)
    checkpoint.save(work / "clothes.safetensors", network, replace(info, unknown=kept.text))


def test_the_readme_has_commands_and_examples() -> None:
    assert set(MANUAL) == {path.stem for path in Path(guides.__file__).parent.glob("*.md")}
    assert len(SHOWN) >= 40
    assert len(EXAMPLES) >= 4
    assert len(README.encode()) <= 12_000
    assert set(re.findall(r"--model (resnest\w+)", "".join(PAGES.values()))) < set(VARIANTS)
    first_output = README.splitlines().index("```", README.splitlines().index("```console") + 1)
    assert first_output <= 25


def test_what_the_readme_links_to_exists_and_its_picture_is_small() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert all((ROOT / link).is_file() for link in links)
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    for name in pictures:
        assert (ROOT / name).stat().st_size < 200_000
        with Image.open(ROOT / name) as picture:
            picture.load()


@pytest.mark.skipif(sys.platform == "win32", reason="the README's commands are for a Unix shell")
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(name, marks=pytest.mark.slow) if SLOW.search(" \n".join(block)) else name
        for name, block in OWN.items()
    ],
)
def test_commands_one_after_the_other(block: str, place: Path, cli: Cli) -> None:
    if block.startswith("search"):
        assert cli("features", "photos/", "-o", "feats.npy", "--model", "demo").code == 0
    for command in OWN[block]:
        if "clip.mp4" in command and not Path("clip.mp4").exists():
            continue
        if "| jq" not in command or shutil.which("jq") is not None:
            works(command, cli)


def works(command: str, cli: Cli) -> None:
    command = command.replace("https://example.org/dog.jpg", "dog.jpg")
    # The stand-in for best.safetensors has five classes.
    command = command.replace("resnest evaluate data/", "resnest evaluate zero-to-four/")
    command = command.replace("resnest benchmark", "resnest benchmark --min-time 0")
    command = command.replace("resnest explain photos/", "resnest explain photos/2026/")  # of one
    if command.startswith(("resnest train", "resnest finetune")) and "--config" not in command:
        command = shortened(command)
    command, _, jq = command.partition(" | jq ")
    if IN_A_SHELL.search(command):
        result = in_a_shell(command)
    else:
        for part in command.split(" && "):
            _, *words = shlex.split(part)
            result = cli(*chain(*(Path().glob(w) if "epoch-*" in w else [w] for w in words)))
            assert result.code == 0, f"{part}: {result.err}"
    if jq:
        result = in_a_shell(f"jq {jq}", result.out)
    assert result.code == 0, f"{command}: {result.err}"
    assert result.out or re.search("-o |> |undo|verify|clean|python|train|finetune", command)
    assert "error" not in result.err


def in_a_shell(command: str, given: str | None = None) -> Result:
    done = subprocess.run(
        ["bash", "-c", command], input=given, capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def test_the_first_command_prints_what_the_readme_shows(place: Path) -> None:
    command, *shown = blocks(README, "console")[0].splitlines()
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
    """The same training for one epoch on small photos, if from scratch then of the smallest."""
    command = re.sub(r"--epochs \d+", "", command)
    if "--resume" in command:
        return command
    if command.startswith("resnest train"):
        command = re.sub("--model resnest14d", "", command) + " --model resnest14t"
    return command + " --epochs 1" + ("" if "--img-size" in command else " --img-size 32")


@pytest.mark.filterwarnings("ignore")  # of other libraries
@pytest.mark.parametrize("example", EXAMPLES)
def test_python_example(
    example: str, place: Path, cli: Cli, capfd: pytest.CaptureFixture[str]
) -> None:
    if "feats.npy" in example:
        assert cli("features", "photos/", "-o", "feats.npy", "--model", "demo").code == 0
    if "demo.onnx" in example:
        assert cli("export", "--model", "demo", "-o", "demo.onnx").code == 0
    if "timm.create_model" in example:  # shown as a line; test_checkpoint.py runs it in full
        example = f"import timm\n{example}".replace("best.safetensors", "ten.safetensors")
        info = checkpoint.CheckpointInfo(variant=VARIANTS["resnest50d"])
        checkpoint.save(place / "ten.safetensors", build("resnest50d", num_classes=10), info)
    capfd.readouterr()
    exec(example, {})
    if "demo.onnx" in example:  # it says what predict says, as the README shows
        (best,) = Classifier("demo").predict(ROOT / "tests/data/coffee.jpg", topk=1).predictions
        label, probability = capfd.readouterr().out.split()
        assert label == best.label
        assert float(probability) == pytest.approx(best.probability, abs=1e-6)
        assert f"```console\n{label} {probability[:7]}" in MANUAL["export"]


def test_the_file_tree_names_what_exists() -> None:
    tree = MANUAL["development"].split("    resnest_cli/\n")[1].split("\n\n")[0]
    for line in tree.splitlines():
        if match := re.match(r" {6}(\w+(?:\.py)?)", line):
            base = ROOT / ("tests" if "timings" in line or "trials" in line else "resnest_cli")
            assert (base / match[1]).exists(), line
    for folder in (ROOT / "resnest_cli").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"{folder.name}/" in tree
