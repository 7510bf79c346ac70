"""`resnest predict` when the decoder of a photo crashes or hangs: that photo's record only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli, make_photo

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
sys.argv = ["resnest", *{arguments!r}]
from resnest_cli import options
options.DECODING_LIMIT = 1.5
import resnest_cli.inference.classifier as classifier
from tests.commands.hazardous import HazardousPreparation
classifier.Preparation = HazardousPreparation
from resnest_cli.__main__ import main
main()
"""


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    names = ["0", "1", "crash-a", "3", "4", "hang", "6", "7", "crash-b", "9", "10", "11"]
    paths = [make_photo(tmp_path / f"{name}.png", seed=i) for i, name in enumerate(names)]
    for path in paths:
        hazard = "" if path.stem.isdigit() else path.stem.partition("-")[0].upper()
        path.write_bytes(path.read_bytes() + hazard.encode())
    return paths


def predict(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, list[dict], str]:
    program = PROGRAM.format(root=str(ROOT), arguments=[str(a) for a in arguments])
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=280,
    )
    return done.returncode, [json.loads(x) for x in done.stdout.splitlines()], done.stderr.decode()


def check(photos: list[Path], code: int, records: list[dict], err: str) -> None:
    assert code == 3, err
    assert [r["input"] for r in records] == [str(path) for path in photos]
    failed = {Path(r["input"]).stem: r["error"] for r in records if r["status"] == "error"}
    assert sorted(failed) == ["crash-a", "crash-b", "hang"]
    assert "crashed" in failed["crash-a"]
    assert "longer than 1.5" in failed["hang"]
    assert "3 of 12" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("options", [[], ["-j", "4", "-b", "3"], ["-j", "0"]])
def test_one_record_each_whatever_happens(
    cli: Cli, tiny_checkpoint: Path, photos: list[Path], options: list[str]
) -> None:
    common = ("-m", tiny_checkpoint, "--format", "jsonl")
    code, records, err = predict("predict", *photos, *common, *options)
    check(photos, code, records, err)
    good = [photo for photo in photos if photo.stem.isdigit()]
    alone = [json.loads(line) for line in cli("predict", *good, *common).out.splitlines()]
    kept = [r["predictions"] for r in records if r["status"] == "ok"]
    for one, two in zip(kept, (r["predictions"] for r in alone), strict=True):
        assert [p["index"] for p in one] == [p["index"] for p in two]


def test_a_list_on_stdin_with_hazards(tiny_checkpoint: Path, photos: list[Path]) -> None:
    listed = "".join(f"{path}\n" for path in photos).encode()
    arguments = ("--from-file", "-", "-m", tiny_checkpoint, "--format", "jsonl", "-b", "2")
    check(photos, *predict("predict", *arguments, stdin=listed))
