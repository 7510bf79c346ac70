"""`--update`: what is computed, kept and dropped; and outputs that are merged without shards."""

import csv
import io
import json
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.jobs import file_output, local
from resnest_cli.jobs.assemble import FileParts, outputs
from resnest_cli.jobs.file_output import FileOutput, held
from resnest_cli.jobs.formats import read_entries, read_info
from resnest_cli.jobs.listing import ListShard
from resnest_cli.jobs.merge import merge
from tests.jobs import fake


@pytest.fixture(autouse=True)
def _nothing_computed() -> None:
    fake.COMPUTED.clear()
    fake.HEALED.clear()


class Photos:
    """A folder of files, a list of them, and an output of it."""

    def __init__(self, folder: Path, suffix: str = ".npy") -> None:
        self.folder, self.listed = folder, folder / "list.txt"
        self.target = folder / f"f{suffix}"

    def name(self, *names: str) -> None:
        """Names these, and makes those that are not there."""
        for name in names:
            if not (self.folder / name).exists() and "gone" not in name:
                (self.folder / name).write_text(name)
        paths = [self.folder / name for name in names]
        self.listed.write_text("".join(f"{path}\n" for path in paths))

    def run(self, **flags: bool):
        fake.COMPUTED.clear()
        return fake.run(fake.job_for(self.target, self.listed), **flags)

    def merged(self, *parts: Path) -> None:
        with held(self.target):
            merge(parts, self.target, overwrite=False)

    @property
    def computed(self) -> list[str]:
        return [Path(name).name for name in fake.COMPUTED]

    @property
    def rows(self) -> dict[str, bytes | None]:
        """By name, in order."""
        entries = read_entries(self.target, read_info(self.target))
        return {Path(entry.name).name: entry.row for entry in entries}

    @property
    def content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in outputs(self.target) if path.exists()}


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    made = Photos(tmp_path)
    made.name("a", "b", "bad", "d", "e", "f")
    made.run()
    return made


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
def test_new_and_changed_photos_are_computed_and_the_others_kept(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = Photos(tmp_path, suffix)
    photos.name("a", "b", "bad", "d", "e", "f")
    photos.run()
    before = photos.rows
    (tmp_path / "d").write_text("another")
    os.utime(tmp_path / "e", ns=(0, 5))
    photos.name("new0", "a", "bad", "new1", "d", "e", "f", "new bad")
    report = photos.run(update=True)
    assert "3 new, 2 changed, 1 gone (kept; --prune drops them), 3 kept." in capsys.readouterr().err
    assert photos.computed == ["new0", "new1", "d", "e", "new bad"]
    after = photos.rows
    assert [*after] == ["new0", "a", "b", "bad", "new1", "d", "e", "f", "new bad"]
    assert {name: row == after[name] for name, row in before.items()} == {
        "a": True, "b": True, "bad": True, "d": False, "e": False, "f": True,
    }  # fmt: skip
    assert report.info["counts"] == {"inputs": 9, "rows": 7, "failed": 2}
    assert report.photos == 5
    stats = [*struct.iter_unpack("<qq", (tmp_path / "f.stat").read_bytes())]
    assert stats[6] == (1, 5)
    assert len(stats) == 9
    if suffix != ".csv":
        with (tmp_path / "f.csv").open(newline="") as file:
            rows = [line["row"] for line in csv.DictReader(file) if line["status"] == "ok"]
        assert rows == [*map(str, range(7))]
    again = photos.content
    nothing = photos.run(update=True)
    assert "0 new, 0 changed, 1 gone (kept; --prune drops them), 8 kept." in capsys.readouterr().err
    assert nothing.finished_before
    assert (photos.content, photos.computed) == (again, [])
    pruned = photos.run(update=True, prune="photos")
    assert "1 gone (dropped), 8 kept." in capsys.readouterr().err
    assert (pruned.finished_before, pruned.photos) == (False, 0)
    assert pruned.text("", "feats.csv says", "made").startswith("2 of 8 inputs could not be")
    del after["b"]
    assert photos.rows == after
    assert photos.run(resume=True).finished_before  # the list is now the one that is named
    assert photos.run(update=True, prune="photos").finished_before


def test_gone_photos_keep_their_neighbours(photos: Photos) -> None:
    photos.name("b", "x", "e", "y")
    photos.run(update=True)
    assert [*photos.rows] == ["a", "b", "bad", "d", "x", "e", "f", "y"]
    with pytest.raises(UsageError, match=r"input 1 was .*a' and is .*b'"):
        photos.run(resume=True)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
def test_the_order_is_that_of_the_new_list(tmp_path: Path, suffix: str) -> None:
    photos = Photos(tmp_path, suffix)
    photos.name("a", 'q"uote', "b", "bad", "d", "e", "f")
    photos.run()
    before = photos.rows
    photos.name("f", "b", "new", "a", "f", "bad")
    photos.run(update=True)
    assert photos.computed == ["new"]
    entries = [*read_entries(photos.target, read_info(photos.target))]
    assert [Path(entry.name).name for entry in entries] == [
        "f", "b", "new", "a", 'q"uote', "f", "bad", "d", "e",
    ]  # fmt: skip
    assert {name: row for name, row in photos.rows.items() if name != "new"} == before
    assert photos.run(update=True).finished_before
    photos.run(update=True, prune="photos")
    assert photos.computed == []
    assert [*photos.rows] == ["f", "b", "new", "a", "bad"]
    assert photos.run(resume=True).finished_before


def test_a_gone_photo_that_comes_back_at_another_place(photos: Photos) -> None:
    before = photos.rows
    photos.name("a", "bad", "d", "e", "f")
    (photos.folder / "b").rename(photos.folder / "away")
    assert photos.run(update=True).finished_before
    (photos.folder / "away").rename(photos.folder / "b")
    photos.name("a", "bad", "d", "e", "f", "b")
    photos.run(update=True)
    assert photos.computed == []
    assert [*photos.rows] == ["a", "bad", "d", "e", "f", "b"]
    assert photos.rows == before


def test_an_empty_list_is_refused(photos: Photos) -> None:
    before = photos.content
    photos.listed.write_text("\n")
    with pytest.raises(ResnestError, match="no photo found"):
        photos.run(update=True, prune="photos")
    assert photos.content == before


def test_a_photo_that_stands_twice_is_updated_twice(tmp_path: Path) -> None:
    photos = Photos(tmp_path)
    photos.name("a", "b", "a")
    photos.run()
    (tmp_path / "a").write_text("changed")
    photos.name("a", "n", "b", "a")
    photos.run(update=True)
    assert photos.computed == ["a", "n", "a"]


def test_what_differs_in_model_or_settings_is_refused(photos: Photos) -> None:
    before = photos.content
    job = fake.job_for(photos.target, photos.listed, dtype="float16")
    with pytest.raises(UsageError, match="--dtype float32 there, float16 here"):
        fake.run(job, update=True)
    job = fake.job_for(photos.target, photos.listed, batch_size=8)
    with pytest.raises(UsageError, match="--batch-size 4 there, 8 here"):
        fake.run(job, update=True)
    assert photos.content == before
    # Another version of the program may go on with what this one has made.
    info = json.loads(photos.target.with_suffix(".json").read_text())
    info["versions"] = {"resnest_cli": "0.9"}
    photos.target.with_suffix(".json").write_text(json.dumps(info))
    photos.name("a", "b", "bad", "d", "e", "f", "new")
    assert photos.run(update=True).info["versions"] == {"resnest_cli": "0.9"}
    assert photos.computed == ["new"]


def test_an_output_without_sizes_and_times(
    photos: Photos, capsys: pytest.CaptureFixture[str]
) -> None:
    """As earlier versions wrote it."""
    photos.target.with_suffix(".stat").unlink()
    photos.run(update=True)
    assert "noted no sizes and times, made 6 entries of" in capsys.readouterr().err
    assert photos.computed == []
    written = photos.target.with_suffix(".json").stat().st_mtime_ns
    os.utime(photos.folder / "b", ns=(0, written + 1))
    photos.run(update=True)
    assert photos.computed == ["b"]
    assert photos.target.with_suffix(".stat").stat().st_size == 16 * 6
    assert photos.run(update=True).finished_before
    # A retry, and an update, keep the time of what they do not compute.
    photos.target.with_suffix(".stat").unlink()
    written = photos.target.with_suffix(".json").stat().st_mtime_ns
    photos.run(retry=True)
    assert photos.computed == ["bad"]
    stats = [*struct.iter_unpack("<qq", photos.target.with_suffix(".stat").read_bytes())]
    size = (photos.folder / "bad").stat().st_size
    assert [stats[2][0], *stats[:2], *stats[3:]] == [size, *[(-1, written)] * 5]
    os.utime(photos.folder / "d", ns=(0, written + 1))
    assert photos.target.with_suffix(".json").stat().st_mtime_ns > written
    photos.run(update=True)
    assert photos.computed == ["d"]
    photos.target.with_suffix(".stat").write_bytes(b"0" * 15)
    with pytest.raises(ResnestError, match=r"f\.stat does not belong to"):
        photos.run(update=True)


def test_a_retry_notes_the_size_of_what_it_read(photos: Photos) -> None:
    (photos.folder / "bad").write_text("better")
    fake.HEALED.add(str(photos.folder / "bad"))
    assert photos.run(retry=True).info["counts"]["failed"] == 0
    assert photos.run(update=True).finished_before


def test_an_unfinished_run_goes_on_first(
    photos: Photos, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "MOST_INPUTS", 4)

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(file_output, "from_parts", fails)
        with pytest.raises(ResnestError, match="6 inputs are done and kept in"):
            photos.run(overwrite=True)
    photos.name("a", "new", "b", "bad", "d", "e", "f")
    with pytest.raises(UsageError, match="input 2 was"):
        photos.run(resume=True)
    photos.run(update=True)
    assert photos.computed == ["new"]
    (photos.folder / "a").write_text("changed")
    with monkeypatch.context() as patch:
        patch.setattr(file_output, "updated", fails)
        with pytest.raises(ResnestError, match="1 inputs are done and kept"):
            photos.run(update=True)
    before = photos.content
    with pytest.raises(UsageError, match="holds an unfinished run"):
        photos.run()
    photos.name("a", "b")  # not what the update began with
    with pytest.raises(UsageError, match=r"input 2 was .*new' and is .*b'"):
        photos.run(resume=True)
    assert photos.content == before
    photos.name("a", "new", "b", "bad", "d", "e", "f", "newer")
    capsys.readouterr()
    photos.run(update=True)
    assert photos.computed == ["newer"]
    assert "1 new, 0 changed, 0 gone, 7 kept." in capsys.readouterr().err
    assert not FileParts(photos.target).beside.exists()


def test_nothing_there_is_an_ordinary_run(tmp_path: Path) -> None:
    photos = Photos(tmp_path)
    photos.name("a", "gone")
    assert photos.run(update=True).info["counts"]["inputs"] == 2
    photos.name("a", "gone", "b")
    photos.run(update=True)
    assert photos.computed == ["b"]
    (tmp_path / "gone").write_text("is there")
    photos.run(update=True)
    assert photos.computed == ["gone"]


@pytest.fixture
def outputs_of_two(tmp_path: Path) -> tuple[Path, Path]:
    made = []
    for number in (1, 2):
        photos = Photos(tmp_path)
        photos.target = tmp_path / f"part{number}.npy"
        photos.name(*(f"{number}-{name}" for name in ("a", "bad", "c")))
        photos.run()
        made.append(photos.target)
    return made[0], made[1]


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_outputs_of_different_photos_are_joined_in_their_order(
    tmp_path: Path, outputs_of_two: tuple[Path, Path], suffix: str
) -> None:
    one, two = outputs_of_two
    joined = Photos(tmp_path, suffix)
    joined.merged(two, one)
    assert [*joined.rows] == ["2-a", "2-bad", "2-c", "1-a", "1-bad", "1-c"]
    info = read_info(joined.target)
    assert info["counts"] == {"inputs": 6, "rows": 4, "failed": 2}
    names = ("2-a", "2-bad", "2-c", "1-a", "1-bad", "1-c")
    joined.name(*names)
    assert joined.run(resume=True).finished_before  # the hash is that of one list of all
    joined.name(*names, "3")
    joined.run(update=True)
    assert joined.computed == ["3"]
    expected = b"".join(part.with_suffix(".stat").read_bytes() for part in (two, one))
    assert joined.target.with_suffix(".stat").read_bytes()[:96] == expected
    if suffix == ".npy":
        parts = [np.load(part) for part in (two, one)]
        assert np.array_equal(np.load(joined.target)[:4], np.concatenate(parts))


def test_outputs_that_do_not_belong_together(
    tmp_path: Path, outputs_of_two: tuple[Path, Path]
) -> None:
    one, two = outputs_of_two
    joined, other = Photos(tmp_path), Photos(tmp_path)
    other.target = tmp_path / "other.npy"
    other.name("1-c", "x")
    other.run()
    with pytest.raises(UsageError, match=r"1-c' stands in .*part1\.npy and in .*other\.npy"):
        joined.merged(one, two, other.target)
    other.run(overwrite=True)
    fake.run(fake.job_for(other.target, other.listed, dtype="float16"), overwrite=True)
    with pytest.raises(UsageError, match="do not belong together: --dtype float32 there"):
        joined.merged(one, other.target)
    shard = tmp_path / "shard.npy"
    fake.run(fake.job_for(shard, other.listed, shard=ListShard(1, 2)))
    with pytest.raises(UsageError, match=r"part1\.npy is no shard, and .*shard\.npy is one"):
        joined.merged(one, shard)
    assert not [path for path in outputs(joined.target) if path.exists()]
    one.with_suffix(".stat").unlink()  # as an earlier version wrote it
    written = one.with_suffix(".json").stat().st_mtime_ns
    joined.merged(one, two)
    stats = joined.target.with_suffix(".stat").read_bytes()
    assert stats == struct.pack("<qq", -1, written) * 3 + two.with_suffix(".stat").read_bytes()
    os.utime(tmp_path / "1-a", ns=(0, written + 1))
    (tmp_path / "2-c").write_text("another")
    joined.name(*(f"{number}-{name}" for number in (1, 2) for name in ("a", "bad", "c")))
    joined.run(update=True)
    assert joined.computed == ["1-a", "2-c"]


def test_what_has_no_size_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = Photos(tmp_path)
    photos.listed.write_text("")
    job = fake.job_for(photos.target, photos.listed)
    urls = ["https://host/good", "https://host/bad", "https://host/other"]
    (tmp_path / "photo").write_text("photo")
    given = ("-", *urls, str(tmp_path / "photo"))
    job = replace(job, options=replace(job.options, inputs=given, from_file=None))

    def run(**flags: bool) -> list[str]:
        fake.COMPUTED.clear()
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"photo")))
        fake.run(job, **flags)
        return [*fake.COMPUTED]

    assert run() == [*given]
    assert run(update=True) == ["-", urls[1]]
    text = "2 changed, 0 gone, 3 kept (2 of them without a size and time to compare)."
    assert text in capsys.readouterr().err
    photos.target.with_suffix(".stat").unlink()
    assert run(update=True) == ["-", urls[1]]


def test_prune_drops_nothing_where_what_is_named_is_out_of_reach(tmp_path: Path) -> None:
    photos = Photos(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_text(name)
    photos.listed.write_text("")
    job = fake.job_for(photos.target, photos.listed)
    whole = replace(job, options=replace(job.options, inputs=(str(folder),), from_file=None))
    (folder / "sub").mkdir()
    fake.run(whole)
    before = photos.content
    folder.rename(tmp_path / "away")
    with pytest.raises(ResnestError, match=r"photos: does not exist: .* or leave out --prune"):
        fake.run(whole, update=True, prune="photos")
    (tmp_path / "away" / "b.jpg").unlink()
    (tmp_path / "away").rename(folder)
    glob = str(tmp_path / "*.png")
    options = replace(whole.options, inputs=(str(folder), glob))
    with pytest.raises(ResnestError, match=r"png: is a pattern that matches no file: --prune"):
        fake.run(replace(whole, options=options), update=True, prune="photos")
    assert photos.content == before
    assert not FileParts(photos.target).beside.exists()
    assert fake.run(whole, update=True, prune="photos").info["counts"]["inputs"] == 1


@pytest.mark.parametrize("left", ["empty", "hidden", "gone", "no folder"])
def test_a_folder_that_is_empty_or_gone_is_pruned_only_when_that_is_said(
    tmp_path: Path, left: str
) -> None:
    photos, disk = Photos(tmp_path), tmp_path / "all" / "disk"
    disk.mkdir(parents=True)
    for name in ("a.jpg", "disk/b.jpg", "disk/c.jpg"):
        (tmp_path / "all" / name).write_text(name)
    photos.listed.write_text("")
    job = fake.job_for(photos.target, photos.listed)
    inputs = (str(tmp_path / "all"), str(tmp_path / "none" / "bad.jpg"))  # no row to be lost
    fake.run(replace(job, options=replace(job.options, inputs=inputs, from_file=None)))
    shutil.rmtree(disk)
    why = "is empty"
    if left in {"empty", "hidden"}:
        disk.mkdir()
    if left == "hidden":
        (disk / ".DS_Store").touch()
    if left == "gone":
        why = "No such file or directory"
    if left == "no folder":
        disk.touch()
        why = "Not a directory"
    job = replace(job, options=replace(job.options, inputs=inputs[:1], from_file=None))
    before = photos.content
    with pytest.raises(ResnestError, match=f"disk: {why}: .* of 2 inputs .* --prune-folders drops"):
        fake.run(job, update=True, prune="photos")
    assert photos.content == before
    assert fake.run(job, update=True).info["counts"]["inputs"] == 4
    assert fake.run(job, update=True, prune="folders").info["counts"]["inputs"] == 1


def test_a_folder_with_something_left_in_it_is_no_missing_disk(tmp_path: Path) -> None:
    photos = Photos(tmp_path)
    (tmp_path / "sub").mkdir()
    photos.name("a", "sub/b", "sub/c")
    photos.run()
    (tmp_path / "sub" / "b").unlink()
    photos.name("a")  # c is there, and not named any more
    assert photos.run(update=True, prune="photos").info["counts"]["inputs"] == 1


def test_a_list_that_changes_while_failures_are_looked_for(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and the listing."""
    begin, names = FileOutput.retry, ["a", "b", "bad", "d", "e", "f"]
    before = photos.content
    for then, what in (
        (names[:-1], "f' is missing after input 5"),
        ([*names, "g"], "input 7 is new: .*g'"),
        (["a", "x", *names[2:]], "input 2 was .*b' and is .*x'"),
    ):

        def changed(*arguments: object, then: list[str] = then) -> object:
            photos.name(*then)
            return begin(*arguments)

        photos.name(*names)
        with monkeypatch.context() as patch:
            patch.setattr(FileOutput, "retry", changed)
            with pytest.raises(UsageError, match=what):
                photos.run(retry=True)
        assert photos.content == before
        assert not FileParts(photos.target).beside.exists()
    photos.name(*names)
    assert photos.run(retry=True).info["counts"]["failed"] == 1


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_names_with_line_breaks(tmp_path: Path, suffix: str) -> None:
    photos = Photos(tmp_path, suffix)
    photos.listed.write_text("")
    names = [str(tmp_path / name) for name in ('a"\n"', "b\r\n\n", "c,\udce9\n", "=d")]
    for name in names:
        Path(name).write_text("photo")
    job = fake.job_for(photos.target, photos.listed)

    def run(*names: str, **flags: bool) -> list[str]:
        fake.COMPUTED.clear()
        fake.run(replace(job, options=replace(job.options, inputs=names, from_file=None)), **flags)
        return [*fake.COMPUTED]

    run(*names)
    before = photos.rows
    assert run(*reversed(names), update=True) == []
    assert photos.rows == before
    assert [*photos.rows] == [*reversed(before)]


@pytest.mark.parametrize("damage", [None, b"input,row,status,error\na\n", b'input\n"', b""])
@pytest.mark.parametrize("flags", [{"update": True}, {"resume": True}, {"retry": True}])
def test_damaged_lines(photos: Photos, damage: bytes | None, flags: dict[str, bool]) -> None:
    lines = photos.target.with_suffix(".csv")
    lines.unlink() if damage is None else lines.write_bytes(damage)
    with pytest.raises(ResnestError, match=r"do not fit: |input 1 is new"):
        photos.run(**flags)


def test_columns_of_classes_bear_their_names(tmp_path: Path) -> None:
    photos = Photos(tmp_path)
    photos.name("a", "bad", "c", "d", "e")
    job = {
        suffix: fake.job_for(tmp_path / f"{suffix}.{suffix}", photos.listed, head="probabilities")
        for suffix in ("csv", "npy")
    }
    for one in job.values():
        fake.run(one)
    header = 'input,row,status,error,cat,crane (1),"a ""dog"", wet",crane (3),e,f,g,h'
    assert (tmp_path / "csv.csv").read_text().splitlines()[0] == header
    assert "class_names" in json.loads((tmp_path / "npy.json").read_text())
    assert fake.run(job["csv"], resume=True).finished_before
    fake.HEALED.add(str(tmp_path / "bad"))
    fake.run(job["csv"], retry=True)
    photos.name("a", "bad", "c", "d", "e", "new")
    fake.run(job["csv"], update=True)
    with (tmp_path / "csv.csv").open(newline="") as file:
        lines = [*csv.DictReader(file)]
    assert len(lines) == 6
    assert all(line["crane (3)"] for line in lines)
    (tmp_path / "merged").mkdir()
    joined = Photos(tmp_path / "merged", ".csv")
    joined.merged(tmp_path / "npy.npy")
    assert joined.target.read_text().splitlines()[0] == header
    # An output of an earlier version, which did not name them.
    info = json.loads((tmp_path / "npy.json").read_text())
    del info["class_names"]
    (tmp_path / "npy.json").write_text(json.dumps(info))
    assert fake.run(job["npy"], update=True).info["class_names"]


def test_an_update_that_only_goes_on_says_what_it_did(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MOST_INPUTS", 4)
    commit = FileOutput.commit

    def fails(self: FileOutput, number: int, items: list) -> object:
        with self.writing():
            if number == 1:
                raise OSError(28, "No space left on device")
        return commit(self, number, items)

    with monkeypatch.context() as patch:
        patch.setattr(FileOutput, "commit", fails)
        with pytest.raises(ResnestError, match="4 inputs are done and kept in"):
            photos.run(overwrite=True)
    report = photos.run(update=True)
    assert (report.photos, report.finished_before) == (2, False)
    assert photos.computed == ["e", "f"]


def test_an_unfinished_run_of_an_earlier_version_is_refused(photos: Photos) -> None:
    folder = FileParts(photos.target).beside
    folder.mkdir()
    (folder / "state.json").write_text('{"format": 1, "kind": "run", "identity": {}}')
    (folder / "index.jsonl").write_text('{"number": 0, "inputs": 4, "end": false}\n')
    (folder / "000000.rows").write_bytes(b"rows")
    for flags in ({}, {"resume": True}, {"retry": True}, {"update": True}):
        with pytest.raises(UsageError, match="of an earlier version of this program: finish it"):
            photos.run(**flags)
    shutil.copytree(folder, folder.with_name("other.npy.parts"))
    beside = fake.job_for(folder.with_name("other.npz"), photos.listed)
    with pytest.raises(UsageError, match="holds an unfinished run, which writes"):
        fake.run(beside)
    with pytest.raises(UsageError, match="of an earlier version"):
        photos.merged(photos.target.with_name("other.npy"))
    assert (folder / "000000.rows").exists()
    photos.run(overwrite=True)
    assert not folder.exists()
