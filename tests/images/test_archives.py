"""Photos inside .zip and .tar archives: what they are called, their bytes, what is refused."""

import io
import json
import os
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.errors import ResnestError
from resnest_cli.images import archives
from resnest_cli.images.sources import Source, SourceStats, is_one, iter_sources, with_bytes
from resnest_cli.jobs.parts import PartInfo, Parts
from tests.conftest import Cli, make_photo

TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
FILES = {"b.jpg": b"1", "sub/a.png": b"22", "sub/deep/c.gif": b"333", "notes.txt": b"4"}


def packed(path: Path, files: dict[str, bytes] = FILES) -> Path:
    """An archive of these files, in their order; the name says of which kind."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in files.items():
                file.writestr(name, data)
        return path
    ending = next(ending for ending in reversed(TARS) if path.name.endswith(ending))
    with tarfile.open(path, TARS[ending]) as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def found(*inputs: object, **how: object) -> list[Source]:
    return list(with_bytes(iter_sources(map(str, inputs), archives=True, **how)))


def contents(*inputs: object, **how: object) -> dict[str, bytes | str | None]:
    """The bytes of each source, or its error, by what follows the last archive's name."""
    return {source.name: source.data or source.error for source in found(*inputs, **how)}


@pytest.mark.parametrize("ending", [".zip", *TARS])
def test_archives_stand_for_the_photos_in_them(tmp_path: Path, ending: str) -> None:
    path, stats = packed(tmp_path / f"x{ending}"), SourceStats()
    expected = {f"{path}/{name}": data for name, data in FILES.items() if name != "notes.txt"}
    assert contents(path, stats=stats) == expected
    assert list(contents(path)) == list(expected)  # in its order
    assert stats.skipped == 1
    assert contents(path, recursive=False) == {f"{path}/b.jpg": b"1"}
    assert list(contents(f"{path}/sub")) == [f"{path}/sub/a.png", f"{path}/sub/deep/c.gif"]
    names = [f"{path}/{name}" for name in reversed(FILES)]  # a text, too, since it is named
    assert list(contents(*names).values()) == [b"4", b"333", b"22", b"1"]
    assert "does not exist in this archive" in str(contents(f"{path}/none.jpg"))
    assert [is_one(name) for name in (str(path), f"{path}/sub", f"{path}/b.jpg")] == [0, 0, 1]


def test_what_exists_under_the_whole_name_is_no_member(tmp_path: Path) -> None:
    folder = tmp_path / "photos.zip"
    folder.mkdir()
    (folder / "a.jpg").touch()
    packed(folder / "inner.zip")
    assert found(folder) == [Source(f"{folder}/a.jpg", path=f"{folder}/a.jpg")]
    assert contents(f"{folder}/inner.zip/b.jpg") == {f"{folder}/inner.zip/b.jpg": b"1"}
    photo = make_photo(tmp_path / "photo.tar.gz.png").rename(tmp_path / "photo.zip.tar")
    assert found(photo) == [Source(str(photo), path=str(photo))]  # the content decides
    assert found(f"{photo}/a.jpg")[0].path == f"{photo}/a.jpg"


def test_hidden_members_and_droppings_are_passed_over(tmp_path: Path) -> None:
    hidden = ["__MACOSX/._b.jpg", ".a.jpg", ".git/a.jpg", "a/@eaDir/b.jpg"]
    path = packed(tmp_path / "x.zip", dict.fromkeys([*hidden, "a.jpg"], b"1"))
    assert contents(path) == {f"{path}/a.jpg": b"1"}
    assert contents(f"{path}/.a.jpg") == {f"{path}/.a.jpg": b"1"}


def test_names_of_a_packed_folder_have_no_dot(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.tar.gz", {"./sub/a.jpg": b"1"})
    assert contents(path) == contents(f"{path}/sub/a.jpg") == {f"{path}/sub/a.jpg": b"1"}


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "sub/../../a.jpg", "c:/a.jpg"])
def test_names_that_lead_out_are_errors_and_the_rest_goes_on(
    tmp_path: Path, ending: str, name: str
) -> None:
    path = packed(tmp_path / f"x{ending}", {"1.jpg": b"1", name: b"2", "3.jpg": b"3"})
    first, bad, last = contents(path).items()
    assert (first, last) == ((f"{path}/1.jpg", b"1"), (f"{path}/3.jpg", b"3"))
    assert "leads out of the archive" in str(bad)


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_bombs_are_errors_and_the_rest_goes_on(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MOST", 10**6)
    path = packed(tmp_path / f"x{ending}", {"bomb.jpg": bytes(2 * 10**6), "b.jpg": b"1"})
    bomb, photo = contents(path).values()
    assert "unpacks to 2 MB, more than the 1 MB" in str(bomb)
    assert photo == b"1"


def test_a_member_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", {"a.jpg": b"a" * 5000, "b.jpg": b"1"})
    data = path.read_bytes().replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little"))
    path.write_bytes(data)
    lie, photo = contents(path).values()
    assert "is damaged: Bad CRC-32" in str(lie)
    assert photo == b"1"


def test_encrypted_members_are_errors(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", {"a.jpg": b"1", "b.jpg": b"2"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the first header
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    assert list(contents(path).values()) == [
        "is encrypted: unpack the archive with its password", b"2",
    ]  # fmt: skip


def test_links_are_errors(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    assert "is a link" in str(contents(tmp_path / "x.tar"))


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
def test_a_cut_archive_gives_what_is_there_and_an_error(tmp_path: Path, ending: str) -> None:
    files = {f"{number}.jpg": os.urandom(3000) for number in range(8)}
    path = packed(tmp_path / f"x{ending}", files)
    whole = contents(path)
    path.write_bytes(path.read_bytes()[:14_000])
    read = contents(path)
    kept = {name: data for name, data in read.items() if isinstance(data, bytes)}
    assert kept.items() <= whole.items()
    if ending == ".zip":  # whose table of contents stands at the end
        assert list(read.items()) == [(str(path), "is damaged: File is not a zip file")]
        return
    assert len(kept) >= 3
    assert "more photos may have been in it" in str(read[str(path)])
    assert contents(f"{path}/1.jpg") == {f"{path}/1.jpg": files["1.jpg"]}
    assert "is an archive that is truncated" in str(contents(f"{path}/7.jpg"))


def test_headers_that_declare_gigabytes_take_none(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    assert "has a header of an absurd size" in str(contents(tmp_path / "x.tar"))


def test_an_archive_that_is_written_anew_gives_no_other_photos(tmp_path: Path) -> None:
    for ending in (".zip", ".tar"):
        path = packed(tmp_path / f"x{ending}")
        sources = list(iter_sources([str(path)], archives=True))
        packed(path, {"other.jpg": b"9" * 2000, **FILES})
        errors = [source.error or "" for source in with_bytes(sources)]
        assert all("the archive has changed" in error for error in errors)


def test_twins_are_two_photos(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        warnings.simplefilter("ignore")
        for data in (b"1", b"2"):
            file.writestr("a.jpg", data)
    for name in ("x.zip", "x.zip/a.jpg"):
        assert [source.data for source in found(tmp_path / name)] == [b"1", b"2"]


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, bytes]:
    """Seven photos, one of them damaged, by name."""
    files = {}
    for number in range(7):
        path = make_photo(tmp_path / "photo.png", (20, 20), seed=number)
        files[f"{number}.png"] = path.read_bytes()
    return files | {"3.png": b""}


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_predict_answers_as_for_the_files(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path, photos: dict[str, bytes], ending: str
) -> None:
    path, folder = packed(tmp_path / f"x{ending}", photos), tmp_path / "x"
    folder.mkdir()
    for name, data in photos.items():
        (folder / name).write_bytes(data)
    how = ["-m", tiny_checkpoint, "-b", "4", "--format", "jsonl"]
    inside, beside = cli("predict", path, *how), cli("predict", folder, *how)
    assert inside.out == beside.out.replace(f"{folder}/", f"{path}/")
    assert (inside.code, inside.err) == (3, beside.err)
    one = cli("predict", f"{path}/2.png", "-m", tiny_checkpoint, "--format", "json")
    assert json.loads(one.out)["input"] == f"{path}/2.png"


@pytest.mark.parametrize("name", ["out/", "feats.npy"])
def test_jobs_go_on_inside_an_archive(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path, photos: dict[str, bytes], name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("resnest_cli.jobs.local.MOST_INPUTS", 2)
    path = packed(tmp_path / "x.tar.gz", photos)
    command = "features" if name == "feats.npy" else "predict"
    lines = [] if command == "features" else ["--format", "jsonl"]
    words = [command, path, "-m", tiny_checkpoint, "-b", "2", *lines, "-o"]
    whole = tmp_path / f"whole-{name}"
    assert cli(*words, f"{whole}{'/' * name.endswith('/')}").code == 3
    out = f"{tmp_path}/{name}"
    commit = Parts.commit

    def stopped(parts: Parts, number: int, results: Any) -> PartInfo:
        if number == 2:
            raise ResnestError("full")
        return commit(parts, number, results)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "commit", stopped)
        assert cli(*words, out).code == 1
    assert "Going on after 4 inputs" in cli(*words, out, "--resume").err
    for file in [whole] if whole.is_file() else sorted(whole.glob("part-*")):
        again = Path(out) if whole.is_file() else Path(out) / file.name
        assert again.read_bytes() == file.read_bytes()
    if command == "features":
        os.utime(path, ns=(1, 1))
        assert "7 changed" in cli(*words, out, "--update").err
