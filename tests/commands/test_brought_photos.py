"""Photos as people have them: too large, too dark, in a pipe, by an address of a file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.errors import ImageError
from resnest_cli.images import usual_limit
from resnest_cli.net import Access
from resnest_cli.options import MAX_PIXELS
from tests.conftest import Cli, make_photo


@pytest.fixture
def dark(tmp_path: Path) -> list[Path]:
    """Three photos of 12 bits in 16, and one of 16."""
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    values = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    for path in paths:
        Image.fromarray(values * (16 if path is paths[0] else 1)).save(path)
    return paths


@pytest.mark.parametrize("options", [[], ["--batch-size", "1", "-j", "3"]])
def test_a_dark_photo_is_said_once(
    cli: Cli, tiny_checkpoint: Path, dark: list[Path], options: list[str]
) -> None:
    found = cli("predict", *dark, "-m", tiny_checkpoint, "--format", "jsonl", *options)
    assert found.code == 0
    assert found.err.count("no sample is above 4095 of 65535") == 1
    assert f"{dark[1].name}: no sample is above" in found.err.replace("\n", "")
    quiet = cli("predict", *dark, "-m", tiny_checkpoint, "--format", "jsonl", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")


@pytest.mark.parametrize("command", ["features", "explain"])
def test_the_other_commands_say_it_too(
    cli: Cli, tiny_checkpoint: Path, dark: list[Path], tmp_path: Path, command: str
) -> None:
    output = ["-o", tmp_path / "f.npy"] if command == "features" else []
    found = cli(command, *dark, "-m", tiny_checkpoint, *output)
    assert found.code == 0
    assert found.err.count("no sample is above 4095 of 65535") == 1


def test_the_library_says_it_once(tiny_checkpoint: Path, dark: list[Path]) -> None:
    said: list[str] = []
    classifier = Classifier(str(tiny_checkpoint), access=Access(notify=said.append))
    classifier.predict([*dark])
    classifier.predict(dark[1])
    assert [text for text in said if "no sample" in text] == [
        text for text in said if "1.png" in text
    ]
    assert len([text for text in said if "no sample" in text]) == 1


@pytest.fixture
def large(tmp_path: Path) -> Path:
    folder = tmp_path / "large"
    folder.mkdir()
    for name in "ab":
        (folder / name).mkdir()
        make_photo(folder / name / "large.png", size=(80, 60))
    return folder


@pytest.mark.parametrize("command", ["predict", "features", "explain"])
def test_the_largest_photo_is_an_option(
    cli: Cli, tiny_checkpoint: Path, large: Path, tmp_path: Path, command: str
) -> None:
    common = [command, large / "a", "-m", tiny_checkpoint, "--offline"]
    if command == "features":
        common += ["-o", tmp_path / "f.npy", "--overwrite"]
    refused = cli(*common, "--max-pixels", "4799")
    assert refused.code == 3
    assert cli(*common, "--max-pixels", "4800").code == 0
    record = cli("predict", large, "-m", tiny_checkpoint, "--max-pixels", "4799", "--format", "csv")
    assert "has 80 x 60 pixels, more than the limit of 4799" in record.out
    assert "--max-pixels 4800" in record.out
    assert "GB of memory" in record.out


def test_evaluate_takes_it_too(cli: Cli, tiny_checkpoint: Path, large: Path) -> None:
    classes = sorted(large.iterdir())
    for index, folder in enumerate(classes):
        folder.rename(large / str(index))
    common = ["evaluate", large, "-m", tiny_checkpoint, "--format", "json"]
    assert cli(*common, "--max-pixels", "4800").code == 0
    assert cli(*common, "--max-pixels", "4799").code != 0


def test_the_library_and_the_environment_take_it_too(
    tiny_checkpoint: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = large / "a" / "large.png"
    assert Classifier(str(tiny_checkpoint), max_pixels=4800).predict(photo).error is None
    with pytest.raises(ImageError, match="more than the limit of 4799"):
        Classifier(str(tiny_checkpoint), max_pixels=4799).predict(photo)
    assert usual_limit() == MAX_PIXELS
    monkeypatch.setenv("RESNEST_MAX_PIXELS", "4799")
    assert usual_limit() == 4799


def test_an_address_of_a_file(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "a b.png")
    address = f"file://{tmp_path.as_posix()}/a%20b.png"
    for command in (["predict"], ["explain"]):
        found = cli(*command, address, "-m", tiny_checkpoint, "--format", "json")
        assert found.code == 0
        assert json.loads(found.out)["input"] == str(photo)
    assert Classifier(str(tiny_checkpoint)).predict(address).input == str(photo)
    page = tmp_path / "page.html"
    assert cli("predict", address, "-m", tiny_checkpoint, "--html", page).code == 0
    assert "data:image/jpeg" in page.read_text()
    other = cli("predict", "file://nas/a.jpg", "-m", tiny_checkpoint, "--format", "json")
    assert other.code == 3
    assert json.loads(other.out)["error"].startswith("is an address of a file on another machine")


def test_an_address_of_a_file_wherever_a_file_is_named(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    make_photo(tmp_path / "a b.png")
    place = f"file://{tmp_path.as_posix()}"
    (tmp_path / "list.txt").write_text(f"{place}/a%20b.png\n")
    (tmp_path / "names.txt").write_text("v\nw\nx\ny\nz\n")
    model = ["-m", f"file://{tiny_checkpoint.as_posix()}", f"--labels={place}/names.txt"]
    table = [f"--output={place}/a%20b.csv"]
    assert cli("predict", "--from-file", f"{place}/list.txt", *model, *table).code == 0
    assert (tmp_path / "a b.csv").read_text().splitlines()[1].split(",")[5] in "vwxyz"
    assert cli("features", f"{place}/a%20b.png", *model[:2], "-o", f"{place}/f.npy").code == 0
    assert (tmp_path / "f.npy").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_hints_at_standard_input(cli: Cli, tiny_checkpoint: Path) -> None:
    read, write = os.pipe()
    try:
        found = cli("predict", f"/dev/fd/{read}", "-m", tiny_checkpoint, "--format", "json")
    finally:
        os.close(read)
        os.close(write)
    assert found.code == 3
    error = "is a named pipe, not a regular file; - reads a photo from standard input"
    assert json.loads(found.out)["error"] == error
