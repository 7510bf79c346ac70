"""A folder of photos sorted and taken back: kills, full disks, other files in the way."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import locked
from resnest_cli.images.sources import Source
from resnest_cli.inference.ranking import Prediction, Record
from resnest_cli.options import How, SortOptions
from resnest_cli.progress import silent
from resnest_cli.sorting import sort as sort_module
from resnest_cli.sorting import transfer
from resnest_cli.sorting.journal import Journal
from resnest_cli.sorting.sort import Outcome, sorting, undo
from tests.sorting.killed import make_far, make_photos, photos_of, tree

SHARED = Path("/dev/shm")
HOWS = ("copy", "link", "move")
NAMES = ("cat", "dog")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return make_photos(Path())


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder `out` is on another disk."""
    monkeypatch.setattr(os, "link", os.link)  # is put back at the end
    make_far(Path("out"))


def sort(
    photos: list[str], how: How = "move", *, resume: bool = False, stop: int = 99, **asked: str
) -> Outcome:
    """Sorts into `out`, or plans the first `stop` photos and then ends as by a signal."""

    def answers(sources: Iterator[Source]) -> Iterator[Record]:
        for source in sources:
            if planned and photos.index(source.name) >= stop:
                raise KeyboardInterrupt
            planned.append(source.name)
            yield Record(source.name, "m", None, (Prediction(1, 0, "cat", 0.9),))

    planned = list[str]()
    told = {"how": how, **asked}
    options = SortOptions(sort_into=Path("out"), **{how: True})
    with sorting(options, told, resume=resume) as work:
        sources = (Source(one, one) for one in photos)
        records = list(work.planned(sources, lambda: (NAMES, answers)))
        assert [record.input for record in records] == photos
        outcome = work.carry_out(silent, "go on")
    outcome.lines.append(str(len(planned)))
    return outcome


@pytest.mark.parametrize("how", [*HOWS, pytest.param("far", marks=pytest.mark.slow)])
def test_every_kill_is_gone_on_with(how: str, tmp_path: Path) -> None:
    memory = SHARED if SHARED.is_dir() else tmp_path  # where a sync costs nothing
    with tempfile.TemporaryDirectory(dir=memory) as work:
        command = [sys.executable, "-m", "tests.sorting.killed", work, how]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


@pytest.mark.parametrize("how", HOWS)
def test_there_and_back(photos: list[str], how: How) -> None:
    before = tree(Path())
    outcome = sort(photos, how)
    assert (outcome.photos, outcome.files, outcome.failed) == (4, 5, 0)
    after = tree(Path())
    there = {Path(name).name for name in after if name.startswith("out")}
    assert there == {"1.jpg", "2.jpg", "2.jpg.xmp", "3.jpg", "1-2.jpg", ".resnest-sort-1.jsonl"}
    assert (before.items() <= after.items()) == (how != "move")
    if how == "copy":
        assert after["out/cat/2.jpg"] == before["in/2.jpg"]  # mode and time, too
        assert after["out/cat/3.jpg"] == before["in/other"]
    elif how == "move":
        assert after["out/cat/1-2.jpg"] == before["in/b/1.jpg"]
        assert after["out/cat/3.jpg"] == (str(Path("in/other").absolute()),)
    assert undo(Path("out"), silent).files == 5
    assert tree(Path()) == before
    assert not Path("out").exists()
    with pytest.raises(UsageError, match="nothing was sorted"):
        undo(Path("out"), silent)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_names_that_are_no_text_come_back(photos: list[str]) -> None:
    odd = os.fsdecode(b"in/\xe9\n.jpg")
    Path(odd).write_text("photo")
    before = tree(Path())
    assert sort([odd]).files == 1
    assert Path("out/cat", Path(odd).name).exists()
    undo(Path("out"), silent)
    assert tree(Path()) == before


def test_an_interrupted_plan_goes_on_where_it_was(photos: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        sort(photos, stop=2)
    with pytest.raises(UsageError, match="unfinished sorting: --resume"):
        sort(photos)
    with pytest.raises(UsageError, match="begun with another model"):
        sort(photos, resume=True, model="other")
    assert sort(photos, resume=True).lines == ["2"]  # were predicted
    assert not list(Path("in").rglob("1.jpg"))


def test_a_plan_whose_inputs_have_changed_is_made_anew_from_there(photos: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        sort(photos, stop=3)
    del photos[1]
    outcome = sort(photos, resume=True)
    assert outcome.lines == ["2"]
    assert (outcome.photos, outcome.files) == (3, 3)


def test_a_line_that_a_kill_cut_off_is_no_line(photos: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        sort(photos, stop=2)
    path = Path("out/.resnest-sort-1.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    assert sort(photos, resume=True).lines == ["3"]


@pytest.mark.usefixtures("far")
def test_a_full_disk_ends_the_run_which_goes_on(
    photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, copy = photos_of(Path()), shutil.copyfileobj

    def full(source: object, target: object, size: int) -> None:
        if "2.jpg" in str(target) and not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target, size)  # type: ignore[type-var, arg-type]

    room = list[bool]()
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(ResnestError, match=r"out/cat/2.jpg: cannot be written.*\n  go on"):
        sort(photos)
    assert Path("in/2.jpg").exists()
    assert not Path("in/1.jpg").exists()
    assert len(photos_of(Path())) == len(before)
    room.append(True)
    assert sort(photos, resume=True).files == 5
    undo(Path("out"), silent)
    assert photos_of(Path()) == before


def test_no_room_is_seen_before_anything_is_done(
    photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(Path())
    monkeypatch.setattr(sort_module, "free_bytes", lambda _: 100)
    with pytest.raises(ResnestError, match="there is no room"):
        sort(photos, "copy")
    assert tree(Path()) == before
    assert not Path("out").exists()
    assert sort(photos, "move").files == 5  # needs none


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("damage", ["copy", "remove"])
def test_an_original_goes_only_once_its_copy_is_good(
    photos: list[str], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    before = photos_of(Path())
    if damage == "copy":
        monkeypatch.setattr(
            shutil, "copyfileobj", lambda source, target, _: target.write(source.read()[:-1] + b"x")
        )
    else:
        unlink = Path.unlink

        def refused(path: Path, missing_ok: bool = False) -> None:
            if "in" in path.parts:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            unlink(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", refused)
    outcome = sort(photos)
    assert outcome.failed == (3 if damage == "copy" else 4)  # a link has no bytes
    assert ("reads otherwise" if damage == "copy" else "Permission denied") in outcome.failures()
    if damage == "copy":
        undo(Path("out"), silent)
    assert photos_of(Path()) == before


def test_without_hard_links_nothing_is_replaced(
    photos: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "this file system has none")

    before = photos_of(Path())
    monkeypatch.setattr(os, "link", refused)
    assert sort(photos).files == 5
    undo(Path("out"), silent)
    assert photos_of(Path()) == before
    with pytest.raises(FileExistsError):
        transfer.rename(Path("in/1.jpg"), Path("in/other"))


def test_what_came_in_between_stays_and_is_named(photos: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        sort(photos, stop=3)
    Path("out/cat").mkdir()
    Path("out/cat/1.jpg").write_text("another's")
    Path("in/2.jpg").write_text("edited")
    outcome = sort(photos, resume=True)
    assert outcome.failed == 2
    assert "1.jpg: stays: out/cat/1.jpg has been put there since" in outcome.lines[0]
    assert "2.jpg: stays: it has changed since it was predicted" in outcome.lines[1]
    assert Path("out/cat/1.jpg").read_text() == "another's"
    assert Path("in/1.jpg").exists()
    assert Path("in/2.jpg.xmp").exists()  # goes with its photo


def test_undo_keeps_what_is_not_what_it_was(photos: list[str]) -> None:
    sort(photos)
    Path("in/1.jpg").write_text("new here")
    Path("out/cat/2.jpg").write_text("edited meanwhile")
    Path("out/cat/3.jpg").unlink()
    outcome = undo(Path("out"), silent)
    assert outcome.failed == 2
    assert "1.jpg has been put there since" in outcome.lines[0]
    assert outcome.lines[1] == "out/cat/3.jpg: is gone from there"
    assert Path("in/1.jpg").read_text() == "new here"
    assert Path("in/2.jpg").read_text() == "edited meanwhile"
    Path("in/1.jpg").unlink()
    Path("in/3.jpg").symlink_to("other")  # by hand
    assert undo(Path("out"), silent).failed == 0
    assert not Path("out").exists()


def test_undo_says_so_where_a_photo_was_edited_and_its_place_is_taken(photos: list[str]) -> None:
    sort(photos)
    Path("in/1.jpg").write_text("new here")
    Path("out/cat/1.jpg").write_text("edited meanwhile")
    outcome = undo(Path("out"), silent)
    assert outcome.failed == 1
    assert "in/1.jpg has been put there since" in outcome.lines[0]
    assert Path("in/1.jpg").read_text() == "new here"
    assert Path("out/cat/1.jpg").read_text() == "edited meanwhile"


def test_undo_leaves_copies_that_were_changed_and_files_of_others(photos: list[str]) -> None:
    sort(photos, "copy")
    Path("out/cat/1.jpg").write_text("edited")
    Path("out/cat/mine.jpg").write_text("mine")
    outcome = undo(Path("out"), silent)
    assert (outcome.files, outcome.failed) == (4, 1)
    assert sorted(path.name for path in Path("out/cat").iterdir()) == ["1.jpg", "mine.jpg"]


def test_what_is_being_taken_back_is_not_sorted_on(photos: list[str]) -> None:
    sort(photos)
    journal = Journal.last(Path("out"))
    assert journal is not None
    journal.mark("undoing")
    for resume in (True, False):
        with pytest.raises(UsageError, match="being taken back: --undo out"):
            sort(photos, resume=resume)
    undo(Path("out"), silent)


def test_a_journal_of_another_version_is_refused(photos: list[str]) -> None:
    sort(photos)
    path = Path("out/.resnest-sort-1.jsonl")
    path.write_text(path.read_text().replace('"version": 1', '"version": 2', 1))
    with pytest.raises(ResnestError, match="another version"):
        undo(Path("out"), silent)


def test_each_run_is_taken_back_by_itself(photos: list[str]) -> None:
    sort(photos[:2])
    middle = photos_of(Path())
    sort(photos[2:])
    assert Journal.numbers(Path("out")) == [1, 2]
    undo(Path("out"), silent)
    assert photos_of(Path()) == middle
    undo(Path("out"), silent)
    assert not Path("out").exists()


def test_a_folder_is_sorted_into_by_one_process(
    photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnest_cli.files.PATIENCE", 0.1)
    with locked(folder=Path("out")), pytest.raises(ResnestError, match="another command"):
        sort(photos)
