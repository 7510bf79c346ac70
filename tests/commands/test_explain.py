"""`resnest explain`: predict's own probabilities, pictures, classes by any name, bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli.errors import UsageError
from resnest_cli.explanation import Target
from resnest_cli.explanation.explain import target
from resnest_cli.model.checkpoint_header import set_temperature
from tests.conftest import CLASSES, Cli, make_photo
from tests.planted_photos import program
from tests.server import File, Server

DATA = Path(__file__).parents[1] / "data"
CAT, COFFEE = DATA / "cat.jpg", DATA / "coffee.jpg"


def explained(cli: Cli, *arguments: object, code: int = 0) -> dict:
    result = cli("explain", *arguments, "--format", "json")
    assert result.code == code, result.err
    found: dict = json.loads(result.out)
    return found


def predicted(cli: Cli, *arguments: object) -> dict:
    found: dict = json.loads(cli("predict", *arguments, "--format", "json").out)
    return found


def hot(found: dict) -> list[dict]:
    return [one.pop("hot") for one in found["predictions"]]


def same(ours: dict, theirs: dict) -> None:
    assert len(ours["predictions"]) == len(theirs["predictions"])
    for one, other in zip(ours["predictions"], theirs["predictions"], strict=True):
        assert one["probability"] == pytest.approx(other.pop("probability"), abs=1e-5)
        assert one | {"probability": None} == other | {"probability": None}


@pytest.mark.parametrize("photo", [CAT, COFFEE])
def test_probabilities_are_those_of_predict(cli: Cli, photo: Path) -> None:
    found = explained(cli, photo, "-m", "demo")
    assert (found["status"], found["model"], found["stage"]) == ("ok", "resnest23t", 4)
    for one in hot(found):
        left, top, right, bottom = one["box"]
        assert 0 <= left < one["centre"][0] < right <= 1
        assert 0 <= top < one["centre"][1] < bottom <= 1
    same(found, predicted(cli, photo, "-m", "demo", "-k", "3"))


def test_with_the_temperature_of_a_checkpoint(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path, photo: Path
) -> None:
    own = Path(shutil.copy(tiny_checkpoint, tmp_path / "own.safetensors"))
    before = explained(cli, photo, "-m", own)
    set_temperature(own, 3.0)
    found = explained(cli, photo, "-m", own)
    hot(found)
    assert found["model"] == str(own)
    assert found["predictions"][0]["probability"] < before["predictions"][0]["probability"]
    same(found, predicted(cli, photo, "-m", own, "-k", "3"))


def test_photos_are_fed_as_in_predict(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Each option changes something, and the same as there."""
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(COFFEE) as photo:
        photo.save(turned, exif=exif)
    usual = explained(cli, turned, "-m", tiny_checkpoint)
    before = hot(usual)
    for option in (
        ("--img-size", "64"), ("--crop-pct", "0.5"), ("--interpolation", "bilinear"),
        ("--crop-mode", "squash"), ("--crop-mode", "border"), ("--no-exif",),
    ):  # fmt: skip
        found = explained(cli, turned, "-m", tiny_checkpoint, *option)
        assert hot(found) != before, option
        assert found != usual
        same(found, predicted(cli, turned, "-m", tiny_checkpoint, "-k", "3", *option))


def test_classes_by_name_id_and_index(cli: Cli) -> None:
    top = explained(cli, CAT, "-m", "demo", "-k", "12")["predictions"]
    best = next(one for one in top if one["label"] != "tabby")
    given = ["Tabby", "n07920052", str(best["index"]), "tabby"]
    words = [word for text in given for word in ("--class", text)]
    found = explained(cli, CAT, "-m", "demo", *words)
    named = {one["label"]: one for one in found["predictions"]}
    assert list(named) == ["tabby", "espresso", best["label"]]
    assert named["espresso"]["rank"] > 3
    assert [named["tabby"], named[best["label"]]] == [
        one for one in top if one["label"] == "tabby"
    ] + [best]
    assert len({json.dumps(one["hot"]) for one in named.values()}) == 3


def test_classes_that_are_none(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("crane\nmaillot\ncrane\ntench\nred fox\n")
    model = ["-m", tiny_checkpoint, "--labels", names]
    twice = cli("explain", CAT, *model, "--class", "crane")
    assert twice.code == 2
    assert re.search("'crane' is the name of several classes of .*: 0 and 2", twice.err)
    assert "Give --class the index or id." in twice.err
    assert explained(cli, CAT, *model, "--class", "2")["predictions"][0]["index"] == 2
    unknown = cli("explain", CAT, *model, "--class", "red foks")
    assert unknown.code == 2
    assert "Did you mean red fox" in unknown.err
    assert "--class takes a name, id or index" in unknown.err
    assert cli("explain", CAT, *model, *["--class", "1"] * 13).code == 2


@pytest.mark.parametrize("name", ["crane", "maillot"])
def test_imagenets_names_that_stand_twice(cli: Cli, seeded_weights: bytes, tmp_path: Path,
                                          name: str) -> None:  # fmt: skip
    weights = tmp_path / "seeded.pth"
    weights.write_bytes(seeded_weights)
    result = cli("explain", CAT, "-m", "resnest14d", "--weights", weights, "--class", name)
    assert result.code == 2
    both = {"crane": "134 (n02012849) and 517 (n03126707)",
            "maillot": "638 (n03710637) and 639 (n03710721)"}  # fmt: skip
    assert both[name] in result.err


def test_pictures_of_one_photo(cli: Cli, tmp_path: Path) -> None:
    heat, attention = tmp_path / "heat.png", tmp_path / "attention.jpg"
    result = cli("explain", COFFEE, "-m", "demo", "-o", heat, "--attention", attention, "-k", "2")
    assert result.code == 0, result.err
    assert f"Where it looked: {heat}." in result.err
    assert f"Split attention: {attention}." in result.err
    with Image.open(heat) as picture:
        assert picture.size[0] == 1164
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    photo, espresso = pixels[110:470, 24:384], pixels[110:470, 402:762]
    assert np.abs(photo - espresso).mean() > 10
    yellow = (espresso[..., 0] > 200) & (espresso[..., 2] < 120)
    ys, xs = np.nonzero(yellow)
    assert abs(xs.mean() - 180) < 60  # the cup is in the middle
    assert abs(ys.mean() - 180) < 110
    with Image.open(attention) as picture:
        assert picture.format == "JPEG"
    more = tmp_path / "more.png"
    assert cli("explain", COFFEE, "-m", "demo", "-o", more, "-k", "7").code == 0
    with Image.open(more) as picture, Image.open(heat) as first:
        assert picture.size[0] > first.size[0]
        assert picture.size[1] > first.size[1]


def test_attention_as_json(cli: Cli, tmp_path: Path) -> None:
    found = explained(cli, COFFEE, "-m", "demo", "--attention", tmp_path / "a.png")
    assert found["attention"] == str(tmp_path / "a.png")
    assert [(one["stage"], one["block"]) for one in found["blocks"]] == [
        (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2)
    ]  # fmt: skip
    for one in found["blocks"]:
        assert sum(one["preferred"]) == pytest.approx(1, abs=1e-3)
        assert sum(one["mean"]) == pytest.approx(1, abs=1e-3)
    other = explained(cli, CAT, "-m", "demo", "--attention", tmp_path / "a.png")
    assert other["blocks"] != found["blocks"]
    assert "blocks" not in explained(cli, CAT, "-m", "demo")


def test_stage_and_topk(cli: Cli, tiny_checkpoint: Path) -> None:
    found = [
        explained(cli, CAT, "-m", tiny_checkpoint, "--stage", stage, "-k", "1") for stage in "1234"
    ]
    assert [one["stage"] for one in found] == [1, 2, 3, 4]
    assert len({json.dumps(one["predictions"][0]["hot"]) for one in found}) == 4
    assert len({json.dumps(one["predictions"][0]["probability"]) for one in found}) == 1
    assert len(explained(cli, CAT, "-m", tiny_checkpoint, "-k", "5")["predictions"]) == 5
    assert cli("explain", CAT, "-m", tiny_checkpoint, "--stage", "5").code == 2
    assert cli("explain", CAT, "-m", tiny_checkpoint, "-k", "13").code == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos of one name, one that cannot be read, one that is none."""
    for place, photo in (("a", CAT), ("b", COFFEE)):
        (tmp_path / "photos" / place).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "photos" / place / "1.jpg")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"\xff\xd8 no photo")
    (tmp_path / "photos" / "notes.txt").write_text("not a photo")
    return tmp_path / "photos"


def test_a_folder(cli: Cli, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "heat"
    arguments = ["explain", folder, "-m", "demo", "-o", out, "--attention", out]
    result = cli(*arguments, "--html", tmp_path / "page.html", "--format", "json")
    assert result.code == 3
    assert "1 of 3 inputs could not be read:" in result.err
    assert f"{folder / 'bad.jpg'}: " in result.err
    assert "1 other file" in result.err
    found = json.loads(result.out)
    assert [one["status"] for one in found] == ["ok", "ok", "error"]
    assert sorted(path.name for path in out.iterdir()) == [
        "00001-1.attention.png", "00001-1.png", "00002-1.attention.png", "00002-1.png"
    ]  # fmt: skip
    assert [one["heat"] for one in found] == [str(out / "00001-1.png"), str(out / "00002-1.png"),
                                              None]  # fmt: skip
    for one, photo in zip(found, (CAT, COFFEE), strict=False):
        alone = explained(cli, photo, "-m", "demo")
        assert hot(one) == hot(alone)
        assert one["predictions"] == alone["predictions"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count('<li class="card ') == 3
    assert text.count("data:image/jpeg") == 8  # two photos, three classes each
    assert text.count('<span class="label">espresso') == 1
    assert "://" not in re.sub(r"data:image/[a-z]+;base64,[^\"]*", "", text)


def test_as_a_table(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(folder.parent)
    result = cli("explain", "photos", "-m", "demo", "-k", "2")
    assert result.code == 3
    lines = result.out.splitlines()
    assert lines[0] == "photos/a/1.jpg"
    label = explained(cli, CAT, "-m", "demo", "-k", "1")["predictions"][0]["label"]
    assert re.fullmatch(rf" +1  {label} +\d+\.\d\d%  x \d+% to \d+%, y \d+% to \d+%", lines[1])
    assert lines[6] == "photos/bad.jpg"
    assert lines[7].startswith("error: ")
    assert max(len(line) for line in lines if not line.startswith("error: ")) <= 80
    assert "Nothing was drawn" in result.err
    assert "Nothing was drawn" not in cli("explain", "photos", "-m", "demo", "--quiet").err
    assert len(cli("explain", "photos", "-m", "demo", "--no-recursive").out.splitlines()) == 2


def test_only_bad_photos(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = cli(
        "explain", tmp_path / "gone.jpg", "-m", tiny_checkpoint, "-o", tmp_path / "heat.png"
    )
    assert result.code == 3
    assert "gone.jpg" in result.out
    assert "Where it looked" not in result.err
    assert not (tmp_path / "heat.png").exists()
    (tmp_path / "empty").mkdir()
    nothing = cli("explain", tmp_path / "empty", "-m", tiny_checkpoint)
    assert nothing.code == 1
    assert "no photo found" in nothing.err
    assert cli("explain", "-m", tiny_checkpoint).code == 2


def test_lists_urls_and_stdin(
    server: Server, cli: Cli, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    server.files["/cat.jpg"] = File(CAT.read_bytes())
    (tmp_path / "list.txt").write_text(f"{server.url('/cat.jpg')}\n{COFFEE}\n")
    (tmp_path / "list0").write_bytes(f"{COFFEE}\0".encode())
    found = explained(
        cli, "--from-file", tmp_path / "list.txt", "-m", tiny_checkpoint, "-o", tmp_path / "o"
    )
    assert [one["status"] for one in found] == ["ok", "ok"]
    assert (tmp_path / "o" / "00001-cat.png").exists()
    (again,) = explained(cli, "--from-file", tmp_path / "list0", "-0", "-m", tiny_checkpoint)
    assert again["predictions"] == found[1]["predictions"]
    refused = cli("explain", server.url("/cat.jpg"), "-m", tiny_checkpoint, "--offline")
    assert refused.code == 3
    command = [sys.executable, "-m", "resnest_cli", "explain", "-", "-m", str(tiny_checkpoint)]
    with CAT.open("rb") as stream:
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "s.png")], stdin=stream, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("-\n")
    assert (tmp_path / "s.png").exists()


def test_names_never_collide(tmp_path: Path) -> None:
    place = Target(tmp_path, folder=True)
    names = ["a/1.jpg", "b/1.jpg", "", "x" * 500 + ".png", "https://h/p?q=/../..", "caf\udce9.jpg"]
    files = [place.of(index, name, ".png") for index, name in enumerate(names)]
    assert len(set(files)) == len(names)
    for file in files:
        assert file.parent == tmp_path
        file.write_bytes(b"")
    assert Target(tmp_path / "heat.png", folder=False).of(7, "a", ".png") == tmp_path / "heat.png"


@pytest.mark.parametrize(
    ("output", "inputs", "says"),
    [
        ("heat.gif", ["cat.jpg"], "pictures are .png or .jpg files"),
        ("heat.png", ["cat.jpg", "dog.jpg"], "give -o a folder"),
        ("heat.png", ["photos"], "give -o a folder"),
        ("cat.jpg", ["cat.jpg"], "is read by this command"),
        ("photos", ["photos"], "lies in photos, which is read"),
        ("photos/heat", ["photos", "cat.jpg"], "lies in photos, which is read"),
        ("photos/heat", ["photos/**/*.jpg"], "which is read"),
        ("gone/heat.png", ["cat.jpg"], "there is no folder gone"),
        ("list.txt", ["photos"], "is a file. Give -o a folder"),
    ],
)
def test_where_pictures_cannot_go(
    cli: Cli, folder: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, output: str,
    inputs: list[str], says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder.parent)
    make_photo(Path("cat.jpg"))
    Path("list.txt").touch()
    before = sorted(Path().rglob("*.*"))
    result = cli("explain", *inputs, "-m", tiny_checkpoint, "-o", output)
    assert result.code in {1, 2}
    assert says in result.err
    assert sorted(Path().rglob("*.*")) == before


def test_a_list_that_names_the_folder_of_pictures_ends(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copy(COFFEE, tmp_path / "1.jpg")
    (tmp_path / "heat").mkdir()
    shutil.copy(COFFEE, tmp_path / "heat" / "2.jpg")
    (tmp_path / "list.txt").write_text(f"{tmp_path}\n")
    found = explained(cli, "--from-file", tmp_path / "list.txt", "-m", tiny_checkpoint,
                      "-o", tmp_path / "heat", code=3)  # fmt: skip
    assert found[0]["status"] == "ok"
    assert {one["status"] for one in found[1:]} == {"error"}
    assert "lies in the folder that pictures are written to" in found[1]["error"]


def test_one_photo_into_a_folder(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert cli("explain", CAT, "-m", tiny_checkpoint, "-o", tmp_path).code == 0
    assert (tmp_path / "00001-cat.png").exists()
    same_file = ["-o", tmp_path / "x.png", "--attention", tmp_path / "x.png"]
    assert cli("explain", CAT, "-m", tiny_checkpoint, *same_file).code == 2


def test_a_target_below_an_input_by_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "other").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="lies in other"):
        target(Path("photos/heat"), "-o", ["other"], one=False)
    assert target(None, "-o", ["other"], one=False) is None
    assert target(Path("photos2"), "-o", ["photos"], one=False) == Target(Path("photos2"), True)


def test_a_model_and_device_that_are_none(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert "Did you mean" in cli("explain", CAT, "-m", "resnest50x").err
    assert cli("explain", CAT, "-m", tmp_path / "gone.safetensors").code == 2
    assert cli("explain", CAT, "-m", tiny_checkpoint, "--device", "gpu").code == 2
    assert cli("explain", CAT, "-m", tiny_checkpoint, "--device", "cpu").code == 0
    assert "no such option" in cli("explain", CAT, "-m", tiny_checkpoint, "--engine", "onnx").err


def test_names_in_any_script(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("猫\nсобака\n$1 bill$\n[bold]x\n" + "long " * 30 + "\n", encoding="utf-8")
    odd = tmp_path / "ca\tt $x$ 猫.png"
    make_photo(odd)
    heat = tmp_path / "heat.png"
    arguments = ["explain", odd, "-m", tiny_checkpoint, "--labels", names, "-k", "5", "-o", heat]
    result = cli(*arguments, "--html", tmp_path / "page.html")
    assert result.code == 0, result.err
    assert heat.exists()
    assert "собака" in result.out
    assert "猫" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_decoder_with_bugs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        path = make_photo(tmp_path / f"{name}.png")
        path.write_bytes(path.read_bytes() + b"CRASH" * (name == "2"))
    arguments = (tmp_path, "-m", tiny_checkpoint, "-o", tmp_path.with_suffix(".heat"))
    command = program("explain", *arguments, "--format", "json")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert [one["status"] for one in found] == ["ok", "error", "ok"]
    assert "crashed" in found[1]["error"]
    made = sorted(path.name for path in tmp_path.with_suffix(".heat").iterdir())
    assert made == ["00001-1.png", "00003-3.png"]


def test_a_reader_that_has_gone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resnest_cli", "explain", str(CAT), "-m", str(tiny_checkpoint)]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "heat.png")], stdout=writing, stderr=subprocess.PIPE,
            text=True, check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert done.returncode == 141, done.stderr
    assert (tmp_path / "heat.png").stat().st_size > 0


def test_own_classes_of_a_checkpoint(cli: Cli, tiny_checkpoint: Path, photo: Path) -> None:
    found = explained(cli, photo, "-m", tiny_checkpoint, "--class", "red fox")
    assert [one["index"] for one in found["predictions"]] == [CLASSES.index("red fox")]
