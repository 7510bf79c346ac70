"""One table of photos and the same flags, through every command that reads labelled photos."""

import tomllib
from pathlib import Path

import pytest

from tests.conftest import CLASSES, Cli, make_photo
from tests.training import kills

FLAGS = {
    "split_names": "one,two,three",
    "path_column": "code",
    "label_column": "kind",
    "split_column": "fold",
    "base_folder": "pictures",
    "extension": ".png",
}
GIVEN = [text for name, value in FLAGS.items() for text in ("--" + name.replace("_", "-"), value)]
SHORT = ("--epochs", "2", "-j", "0", "--img-size", "32")

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table in its own folder, whose photos lie elsewhere; a third of them is for tests."""
    monkeypatch.chdir(tmp_path)
    rows = ["note;code;kind;fold"]
    for number in range(18):
        name = f"{number:03}"
        (tmp_path / "pictures").mkdir(exist_ok=True)
        make_photo(tmp_path / "pictures" / f"{name}.png", (40, 36), seed=number)
        label, side = CLASSES[number % 2], ("one", "one", "two", "one", "three", "two")[number % 6]
        rows.append(f"x;{name};{label};{side}")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "t.csv").write_text("\n".join(rows))
    return tmp_path


def test_the_flags_go_through_training(cli: Cli, place: Path, tiny_checkpoint: Path) -> None:
    first = cli("finetune", "lists/t.csv", *GIVEN, "--model", tiny_checkpoint, *SHORT)
    assert first.code == 0, first.err
    words = " ".join(first.err.split())
    assert "columns taken: code (path), kind (label), fold (split)" in words
    assert "3 photos of the test split held out" in words
    run = place / "runs/finetune/exp"
    settings = tomllib.loads((run / "args.toml").read_text())
    photos = place / "pictures"
    assert {name: settings[name] for name in FLAGS} == FLAGS | {"base_folder": str(photos)}
    listed = (run / "split.csv").read_text()
    assert listed.count(",train,") == 9
    assert listed.count(",val,") == 6
    assert "\n000.png," in listed
    again = cli("finetune", "--config", run / "args.toml", "--run", "again")
    assert again.code == 0, again.err
    outcomes = [kills.outcome(place / "runs/finetune" / name) for name in ("exp", "again")]
    assert outcomes[0]["last.safetensors"] == outcomes[1]["last.safetensors"]
    more = cli("finetune", "--resume", "--run", "exp", "--epochs", "3", "--base-folder", "pictures")
    assert more.code == 0, more.err
    other = cli("finetune", "--resume", "--run", "exp", "--base-folder", "lists")
    assert (other.code, "lists: these are not the photos that" in other.err) == (2, True)


def test_a_base_folder_is_found_again(
    cli: Cli, place: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cli("finetune", "lists/t.csv", *GIVEN, "--model", tiny_checkpoint, *SHORT,
                "--freeze", "none")  # fmt: skip
    assert first.code == 0, first.err
    run, table = place / "runs/finetune/exp", place / "lists/t.csv"
    monkeypatch.chdir(place / "runs")
    resume = ("finetune", "--resume", "-o", place / "runs", "--dry-run", "--epochs", "3")
    photos = place / "pictures"
    for more in ((), (table,), ("--base-folder", photos), (table, "--base-folder", photos)):
        again = cli(*resume, *more)
        assert again.code == 0, again.err
    again = cli("finetune", "--config", run / "args.toml", "--dry-run")
    assert again.code == 0, again.err

    photos = photos.rename(place / "moved")
    gone = cli(*resume)
    assert (gone.code, "where they lie now: --resume --base-folder DIR" in gone.err) == (2, True)
    again = cli(*resume, "--base-folder", photos)
    assert again.code == 0, again.err
    judged = cli("evaluate", run / "split.csv", "--base-folder", photos,
                 "--model", tiny_checkpoint, "--format", "json")  # fmt: skip
    assert (judged.code, '"photos": 6' in judged.out) == (0, True), judged.err


@pytest.mark.parametrize("there", [True, False])
def test_a_base_folder_beside_the_table_moves_with_it(
    cli: Cli, place: Path, tiny_checkpoint: Path, there: bool
) -> None:
    (place / "pictures").rename(place / "lists/pictures")
    first = cli("finetune", "lists/t.csv", *GIVEN, "--model", tiny_checkpoint, *SHORT)
    assert first.code == 0, first.err
    (place / "lists").rename(place / "moved")
    if not there:
        (place / "moved/pictures").rename(place / "elsewhere")
    again = cli("finetune", place / "moved/t.csv", "--resume", "--epochs", "3", "--dry-run")
    assert again.code == (0 if there else 2), again.err
    assert there or "or the --base-folder" in again.err


def test_the_flags_go_through_the_other_commands(
    cli: Cli, place: Path, tiny_checkpoint: Path
) -> None:
    packed = cli("pack", "lists/t.csv", *GIVEN, "-o", "shards")
    assert packed.code == 0, packed.err
    assert "9 photos in 1 shards to train on, 6 in 1 to validate" in " ".join(packed.err.split())
    judged = cli("evaluate", "lists/t.csv", *GIVEN, "--model", tiny_checkpoint, "--split", "val",
                 "--format", "json")  # fmt: skip
    assert judged.code == 0, judged.err
    assert '"photos": 6' in judged.out
    mean = cli("average", tiny_checkpoint, tiny_checkpoint, "--data", "lists/t.csv", *GIVEN,
               "-o", "mean.safetensors")  # fmt: skip
    assert mean.code == 0, mean.err
    assert "fold (split)" in " ".join(mean.err.split())


@pytest.mark.parametrize(
    ("data", "flags", "message"),
    [
        ("lists/t.csv", ["--path-column", "none"], "it has note, code, kind, fold"),
        ("pictures", ["--label-column", "kind"], "--label-column is for a table of photos"),
        ("lists/t.csv", GIVEN[:8], "18 of 18 photos are not there"),
        ("shards/x-{00..01}.tar", ["--extension", ".jpg"], "is for a table of photos"),
    ],
)
def test_flags_that_do_not_fit(
    cli: Cli, place: Path, data: str, flags: list[str], message: str
) -> None:
    done = cli("train", data, *flags, "--dry-run")
    assert done.code == 2
    assert message in " ".join(done.err.split())
