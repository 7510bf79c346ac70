"""`--exclude`: which photos a list of issues takes away, which stay, and what is refused."""

from pathlib import Path

import pytest

from resnest_cli.data.class_folders import list_data
from resnest_cli.data.dataset import DataSet, read_split, write_split
from resnest_cli.data.exclusion import digest_of_list
from resnest_cli.data.labelled_photos import LabelledData, Reading
from resnest_cli.data.split_file import list_run_split
from resnest_cli.errors import UsageError
from tests.data.test_dataset import fill, load, names

HEAD = "path,kind,score,partner,suggestion"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for place, label in enumerate("ab"):
        fill(tmp_path / "data" / label, 5, 100 * place)
    return tmp_path / "data"


def issues(folder: Path, *rows: str, head: str = HEAD) -> str:
    path = folder / "issues.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return str(path)


def listed(data: Path, file: str, kinds: str | None = None) -> LabelledData:
    return list_data(str(data), Reading(exclude=file, exclude_kinds=kinds))


def excluded(found: LabelledData) -> dict[str, str]:
    return {photo.name: photo.error for photo in found.excluded}


ROWS = ("a/0.png,label,0.9,,b", "a/1.png,blurred,0.8,,", "b/0.png,label,0.7,,a")


def test_rows_are_left_out_and_that_is_said(tmp_path: Path, data: Path) -> None:
    file = issues(tmp_path, *ROWS)
    found = listed(data, file)
    assert excluded(found) == {"a/0.png": "label", "a/1.png": "blurred", "b/0.png": "label"}
    assert len(found.photos) == 7
    assert found.notes == [f"{file}: 3 photos left out: 1 blurred, 2 label"]


def test_kinds_are_chosen(tmp_path: Path, data: Path) -> None:
    file = issues(tmp_path, *ROWS)
    assert set(excluded(listed(data, file, "label, dark"))) == {"a/0.png", "b/0.png"}
    assert set(excluded(listed(data, file, "files"))) == {"a/1.png"}
    found = listed(data, file, "dark,leak")
    assert not found.excluded
    assert found.notes[0] == f"{file}: has no issue of the kind dark or leak"
    with pytest.raises(UsageError, match=r"no such kind of issue\. Did you mean label"):
        listed(data, file, "lable")
    with pytest.raises(UsageError, match="goes with --exclude FILE"):
        list_data(str(data), Reading(exclude_kinds="label"))


def test_a_photo_of_several_kinds_goes_once(tmp_path: Path, data: Path) -> None:
    found = listed(data, issues(tmp_path, "a/0.png,dark,1,,", "a/0.png,label,1,,b"))
    assert excluded(found) == {"a/0.png": "dark"}


@pytest.mark.parametrize(
    ("rows", "gone"),
    [
        # The one that no row names stays.
        (["a/1.png,copy,1,a/0.png,", "a/2.png,copy,1,a/0.png,"], {"a/1.png", "a/2.png"}),
        # Of a group whose photos are all named, the first stays.
        (["a/1.png,copy,1,a/0.png,", "a/0.png,near-copy,1,a/1.png,"], {"a/1.png"}),
        (["a/2.png,copy,1,a/1.png,", "a/1.png,copy,1,a/0.png,", "a/0.png,copy,1,a/2.png,"],
         {"a/1.png", "a/2.png"}),
        # One with another issue does not stay for the others.
        (["a/0.png,copy,1,a/1.png,", "a/1.png,copy,1,a/0.png,", "a/0.png,dark,1,,"], {"a/0.png"}),
        # Nobody knows the class of these.
        (["a/0.png,contradiction,1,b/0.png,", "b/0.png,contradiction,1,a/0.png,"],
         {"a/0.png", "b/0.png"}),
        # A row without a partner is a wish.
        (["a/0.png,copy,1,,"], {"a/0.png"}),
    ],
)  # fmt: skip
def test_of_copies_one_stays(tmp_path: Path, data: Path, rows: list[str], gone: set[str]) -> None:
    assert set(excluded(listed(data, issues(tmp_path, *rows)))) == gone


def test_of_a_leak_the_one_that_trains_stays(tmp_path: Path) -> None:
    for place, side in enumerate(("train", "val", "test")):
        for label in "ab":
            fill(tmp_path / "d" / side / label, 2, 100 * place + 10 * ord(label))
    file = issues(
        tmp_path, "val/a/0.png,leak,1,train/a/0.png,", "train/a/0.png,leak,1,val/a/0.png,"
    )
    found = listed(tmp_path / "d", file)
    assert set(excluded(found)) == {"val/a/0.png"}
    assert found.notes[-1] == (
        f"{file}: 1 photo left out: 1 leak; of 1 group of copies one photo stays (1 of val)"
    )


def test_paths_are_understood(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(data / "é=", 3, 300)
    (data / "a" / "=1.png").write_bytes((data / "a" / "0.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    file = issues(
        tmp_path, "data/a/0.png,label,1,,", f"{data}/a/1.png,label,1,,", "./a//2.png,label,1,,",
        "a\\3.png,label,1,,", "'a/4.png,label,1,,", "e\N{COMBINING ACUTE ACCENT}=/0.png,label,1,,",
    )  # fmt: skip
    found = listed(data, file)
    assert sorted(excluded(found)) == [*(f"a/{n}.png" for n in range(5)), "é=/0.png"]


def test_tables_and_splits_of_runs(tmp_path: Path, data: Path) -> None:
    table = tmp_path / "photos.csv"
    rows = [f"data/{label}/{n}.png,{label}" for label in "ab" for n in range(5)]
    table.write_text("\n".join(["path,label", *rows]))
    found = list_data(str(table), Reading(exclude=issues(tmp_path, "data/a/0.png,label,1,,b")))
    assert set(excluded(found)) == {"data/a/0.png"}
    run = tmp_path / "split.csv"
    write_split(run, load(data))
    found = list_run_split(run, Reading(base_folder=str(data)))
    again = listed_with_base(run, data, issues(tmp_path, "a/0.png,label,1,,b"))
    assert len(again.photos) == len(found.photos) - 1


def listed_with_base(run: Path, base: Path, file: str) -> LabelledData:
    return list_data(str(run), Reading(base_folder=str(base), exclude=file))


def test_other_data_and_odd_lists_are_refused(tmp_path: Path, data: Path) -> None:
    file = issues(tmp_path, "x/0.png,label,1,,b", "x/1.png,label,1,,b", "a/0.png,label,1,,b")
    with pytest.raises(UsageError, match=r"2 of 3 photos that it lists are not in .*other data"):
        listed(data, file)
    found = listed(data, issues(tmp_path, *ROWS, "a/99.png,label,1,,b"))
    assert len(found.excluded) == 3
    assert "1 of 4 photos that it lists are not in" in found.notes[0]
    for row, head, text in (
        ("a/0.png,1", "path,label", "needs columns path and kind"),
        ("a/0.png,ugly,1,,", HEAD, "line 2: 'ugly' is no kind of issue"),
        (",label,1,,", HEAD, "line 2 has no path"),
    ):
        with pytest.raises(UsageError, match=text):
            listed(data, issues(tmp_path, row, head=head))
    for name, text in ((tmp_path / "no.csv", "no such file"), (data / "a/0.png", "is a photo")):
        with pytest.raises(UsageError, match=text):
            listed(data, str(name))


def test_what_is_no_list_says_so(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder; name the list in it: .*/issues\.csv"):
        listed(data, str(tmp_path))
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(UsageError, match=r"^--exclude .*empty\.csv: is empty"):
        listed(data, str(tmp_path / "empty.csv"))


def test_a_list_without_photos_leaves_all(tmp_path: Path, data: Path) -> None:
    file = issues(tmp_path, "a,class,0.5,b,")
    found = listed(data, file)
    assert len(found.photos) == 10
    assert found.notes == [f"{file}: no photo left out: it lists none"]


def test_no_class_is_emptied(tmp_path: Path, data: Path) -> None:
    rows = [f"a/{n}.png,label,1,,b" for n in range(5)]
    with pytest.raises(UsageError, match=r"leaves the class 'a' without any of its 5 photos"):
        listed(data, issues(tmp_path, *rows))


def test_the_data_set_and_its_split_remember(tmp_path: Path, data: Path) -> None:
    found = load(data, reading=Reading(exclude=issues(tmp_path, *ROWS)))
    used = names(found.train) | names(found.val)
    assert len(used) == 7
    assert not used & {"a/0.png", "a/1.png", "b/0.png"}
    write_split(tmp_path / "split.csv", found)
    again: DataSet = read_split(tmp_path / "split.csv", str(data))
    assert [(p.name, p.error) for p in again.excluded] == [
        ("a/0.png", "label"), ("a/1.png", "blurred"), ("b/0.png", "label"),
    ]  # fmt: skip
    listing = list_run_split(tmp_path / "split.csv", Reading(base_folder=str(data)))
    assert len(listing.photos) == 7
    assert "3 photos that training left out not taken" in listing.notes[0]


def test_the_digest_is_of_the_bytes(tmp_path: Path) -> None:
    one = digest_of_list(issues(tmp_path, *ROWS))
    assert one != digest_of_list(issues(tmp_path, *ROWS[:2]))
    (tmp_path / "issues.csv").unlink()
    assert digest_of_list(str(tmp_path / "issues.csv")) == digest_of_list(None) == ""
