"""`--teacher` at the command line: every option acts, and runs go on with the same teacher."""

import csv
import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resnest_cli.model import checkpoint, checkpoint_header
from resnest_cli.model.resnest import build
from resnest_cli.model.variants import Preprocessing
from resnest_cli.training.report import _mixed
from tests.commands.test_training import COLOURS, data, place, rows_of
from tests.conftest import Cli, make_photo
from tests.inference.test_foreign_onnx import made
from tests.networks import TINY, enliven

__all__ = ["data", "place"]  # fixtures

SHORT = ("--freeze", "none", "--epochs", "1", "-b", "8", "--lr", "0.003", "-j", "0")
NAMES = ("black", *COLOURS)

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def wise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of the three colours, and of black, in 32 pixels."""
    path = tmp_path_factory.mktemp("wise") / "wise.safetensors"
    variant = replace(TINY, preprocessing=Preprocessing(32))
    info = checkpoint.CheckpointInfo(variant=variant, class_names=NAMES)
    checkpoint.save(path, enliven(build(variant, num_classes=4), seed=7), info)
    return path


@pytest.fixture
def loose(place: Path) -> Path:
    """Six photos without labels, one of which the labelled data have, and one that is broken."""
    folder = place / "loose"
    for index in range(6):
        path = folder / str(index % 2) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_photo(path, (50, 40), seed=index)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff half a photo")
    return folder


def last(place: Path, name: str) -> bytes:
    weights = place / "runs" / "finetune" / name / "weights" / "last.safetensors"
    tensors = checkpoint.load(weights).tensors
    return b"".join(tensor.numpy().tobytes() for tensor in tensors.values())


def test_a_teacher_is_looked_at_before_the_photos(
    cli: Cli, data: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of thousands of photos take minutes to check."""
    monkeypatch.setattr("resnest_cli.training.job.load_data", None)
    (place / "cut.safetensors").write_bytes(b"half")
    result = cli("train", data, "--teacher", place / "cut.safetensors")
    assert result.code == 1
    assert "cut.safetensors" in result.err


def test_every_option_acts(
    cli: Cli, data: Path, place: Path, loose: Path, tiny_checkpoint: Path, wise: Path
) -> None:
    """Each gives other weights than the run without it."""
    (place / "names.txt").write_text("red\nblue\ngreen\nblack\n")
    teacher = ("--teacher", str(wise))
    cases: dict[str, tuple[str, ...]] = {
        "none": (),
        "teacher": teacher,
        "weight": (*teacher, "--teacher-weight", "1"),
        "temperature": (*teacher, "--teacher-temperature", "1"),
        "size": (*teacher, "--teacher-size", "40"),
        "mean": (*teacher, "--teacher-mean", "0.1"),
        "std": (*teacher, "--teacher-std", "0.3,0.1,0.2"),
        "labels": (*teacher, "--teacher-labels", "names.txt"),
        "classes": (*teacher, "--teacher-classes"),
        "unlabelled": (*teacher, "--unlabelled", "loose"),
        "mixed": (*teacher, "--unlabelled", "loose", "--mixup", "0.4", "--cutmix", "1"),
    }
    for name, more in cases.items():
        done = cli("finetune", data, "--model", tiny_checkpoint, *SHORT, *more, "--run", name)
        assert done.code == 0, done.err
    found = {name: last(place, name) for name in cases}
    assert len(set(found.values())) == len(cases)
    info = checkpoint_header.read_info(place / "runs/finetune/classes/weights/best.safetensors")
    assert info.class_names == NAMES
    info = checkpoint_header.read_info(place / "runs/finetune/unlabelled/weights/best.safetensors")
    assert info.provenance["teacher"]["name"] == wise.name
    assert len(info.provenance["teacher"]["sha256"]) == 64
    assert info.trained_on is not None
    assert info.trained_on.photos == 24 + 6
    assert info.provenance["photos"] == 24 + 6


def test_the_plan_names_the_teacher(
    cli: Cli, data: Path, place: Path, loose: Path, tiny_checkpoint: Path, wise: Path
) -> None:
    shutil.copy(data / "red" / "0.png", loose / "twin.png")
    done = cli("finetune", data, "--model", tiny_checkpoint, *SHORT, "--teacher", wise,
               "--unlabelled", "loose", "--teacher-weight", "0.25", "--dry-run")  # fmt: skip
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert "30 photos to train on, 6 of them without a label, 6 to validate" in words
    assert "32 x 32 pixels, 4 classes, 3 of which count; 25% of the loss at temperature 4" in words
    assert "it takes" in words
    assert "no label 6 0" in words
    assert "loose: 1 photo left out, which are among the labelled ones" in words
    assert "loose/broken.jpg" in done.out
    done = cli("finetune", data, "--model", tiny_checkpoint, *SHORT, "--teacher-size", "64",
               "--dry-run")  # fmt: skip
    assert "--teacher-size does nothing here: there is no --teacher." in done.out + done.err


def test_photos_without_any_label(
    cli: Cli, place: Path, loose: Path, tiny_checkpoint: Path, wise: Path
) -> None:
    """A share validates, by the teacher's first answer; a run that goes on keeps all of it."""
    more = ("--unlabelled", "loose", "--teacher", wise, "--teacher-classes", "--val-split", "0.34",
            "--sched", "constant")  # fmt: skip
    how = ("--model", tiny_checkpoint, *SHORT, *more)
    done = cli("finetune", *how, "--dry-run", "--classes", "3", "--teacher-weight", "0.2")
    assert "--classes does nothing here: there is no DATA." in done.err
    assert "--teacher-weight does nothing here: there are no labels" in done.err
    assert "4 photos to train on, none with a label, 2 to validate" in " ".join(done.out.split())
    done = cli("finetune", *how, "--epochs", "2", "--run", "whole")
    assert done.code == 0, done.err
    assert cli("finetune", *how, "--run", "parts").code == 0
    run = place / "runs/finetune/parts"
    with (run / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["split"] for row in rows) == ["bad", *["unlabelled"] * 4, *["val"] * 2]
    told = cli("predict", *(str(loose / r["path"]) for r in rows if r["split"] == "val"),
               "--model", wise, "--format", "json", "-k", "1")  # fmt: skip
    answers = [one["predictions"][0]["label"] for one in json.loads(told.out)]
    assert [row["class_name"] for row in rows if row["split"] == "val"] == answers
    done = cli("finetune", "--run", "parts", "--resume", "--epochs", "2")
    assert done.code == 0, done.err
    assert last(place, "parts") == last(place, "whole")
    written = tomllib.loads((run / "args.toml").read_text())
    assert ("data" in written, written["teacher_weight"]) == (False, 1.0)
    info = checkpoint_header.read_info(run / "weights" / "last.safetensors")
    assert info.provenance["validated_by"] == "the teacher's first answers"
    assert rows_of(run)[0]["top1"] in {"0.0", "0.5", "1.0"}
    # Its validation photos are data that others take; and all can be moved.
    assert cli("evaluate", run / "split.csv", "--model", wise).code == 0
    loose.rename(place / "elsewhere")
    done = cli("finetune", "--run", "parts", "--resume", "--epochs", "3")
    assert (done.code, "--resume --unlabelled DIR" in done.err) == (2, True), done.err
    moved = ("--unlabelled", "elsewhere")
    done = cli("finetune", "--run", "parts", "--resume", "--epochs", "3", *moved)
    assert done.code == 0, done.err


def test_a_run_goes_on_with_the_same_teacher_only(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path, wise: Path
) -> None:
    shutil.copy(wise, place / "wise.safetensors")
    how = ("finetune", data, "--model", tiny_checkpoint, *SHORT, "--teacher", "wise.safetensors")
    assert cli(*how).code == 0
    again = ("finetune", "--resume", "--epochs", "2")
    for other, words in (
        (("--teacher", "demo"), "teacher: "),
        (("--teacher-weight", "0.1"), "teacher_weight: 0.5 there, 0.1 now"),
        (("--teacher-mean", "0.5"), "teacher_mean: "),
        (("--teacher", str(tiny_checkpoint)), "does not know blue"),
    ):
        done = cli(*again, *other)
        assert (done.code, words in done.err) == (2, True), done.err
    variant = replace(TINY, preprocessing=Preprocessing(32))
    info = checkpoint.CheckpointInfo(variant=variant, class_names=NAMES)
    network = enliven(build(variant, num_classes=4), seed=8)
    checkpoint.save(place / "wise.safetensors", network, info)
    done = cli(*again)
    assert done.code == 2, done.err
    assert "are not the teacher's weights and classes that" in done.err
    assert cli(*again, "--teacher", wise).code == 0  # the same, in another place


def test_a_foreign_classifier_teaches(
    cli: Cli, data: Path, place: Path, tiny_checkpoint: Path
) -> None:
    made(place / "foreign.onnx", ("n", 3, "h", "w"), unusual=True)
    (place / "names.txt").write_text("\n".join(NAMES))
    how = ("finetune", data, "--model", tiny_checkpoint, *SHORT, "--teacher", "foreign.onnx")
    flags = (
        ("", "--trust-onnx"),
        ("--trust-onnx", "give --teacher-size"),
        ("--teacher-size 24", "give --teacher-mean and --teacher-std"),
        ("--teacher-mean 0.5 --teacher-std 0.25", "give --teacher-labels FILE"),
        ("--teacher-labels names.txt", ""),
    )
    given: list[str] = []
    for more, words in flags:
        given += more.split()
        done = cli(*how, *given)
        assert words in done.err
        assert (done.code == 0) == (not words), done.err
    assert "foreign.onnx, 24 x 24 pixels, 4 classes, 3 of which count" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--unlabelled", "loose"), "--unlabelled needs a --teacher"),
        (("--teacher-classes",), "--teacher-classes needs a --teacher"),
        (("--teacher", "WISE", "--bce-loss"), "use --no-bce-loss"),
        (("--teacher", "WISE", "--freeze", "backbone"), "Use --freeze stages:4"),
        (("--teacher", "WISE", "--unlabelled", "loose", "--balanced"), "belong to no class"),
        (("--teacher", "WISE", "--unlabelled", "nowhere"), "there is no such folder"),
        (("--teacher", "WISE", "--teacher-mean", "red"), "three numbers such as"),
        (("--teacher", "WISE", "--teacher-weight", "2"), "--teacher-weight: 2.0 is not"),
        (("--teacher", "nothing"), "unknown model 'nothing'"),
    ],
)
def test_what_does_not_fit(
    cli: Cli,
    data: Path,
    loose: Path,
    tiny_checkpoint: Path,
    wise: Path,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    assert loose.exists()
    given = [str(wise) if one == "WISE" else one for one in arguments]
    done = cli("finetune", data, "--model", tiny_checkpoint, "-j", "0", "--device", "cpu", *given)
    assert done.code in {1, 2}, done.err
    assert words in done.err


def test_data_may_be_left_out_with_the_teachers_classes_only(cli: Cli, wise: Path) -> None:
    done = cli("train", "--unlabelled", "loose", "--teacher", wise)
    assert (done.code, "name the DATA" in done.err) == (2, True), done.err


def test_titles_of_mixtures() -> None:
    names = ("cat", "dog")
    for targets, title in (
        ([0.0, 0.0], "no label"),
        ([0.9, 0.1], "cat"),
        ([0.0 + 0.03, 0.24 + 0.03], "no label 0.70 + dog 0.30"),
        ([0.56 + 0.1, 0.24 + 0.1], "cat 0.70 + dog 0.30"),
    ):
        assert _mixed(np.array(targets, np.float32), names, 0.2) == title
