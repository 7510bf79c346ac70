"""Tables of photos as people keep them: columns, texts, paths and splits, and what is refused."""

import gzip
import os
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest

from resnest_cli.data.class_folders import list_data
from resnest_cli.data.labelled_photos import LabelledData, Reading
from resnest_cli.errors import ResnestError, UsageError

PHOTOS = (
    "cat/0.jpg",
    "cat/1.jpg",
    "dog/0.jpg",
    "dog/1.jpg",
    "café/0.jpg",
    "a b/0 .jpg",
    "café/7.jpg",
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with files that stand for photos: nothing here is opened."""
    for name in PHOTOS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def read(place: Path, data: str | bytes, name: str = "t.csv", **reading: str) -> LabelledData:
    path = place / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list_data(str(path), Reading(**reading))


def found(listing: LabelledData) -> list[tuple[str, str]]:
    return [(photo.name, photo.label) for photo in listing.photos]


TWO = [("cat/0.jpg", "cat"), ("dog/1.jpg", "dog")]
BODY = "cat/0.jpg,cat\ndog/1.jpg,dog\n"


@pytest.mark.parametrize(
    "head",
    [
        "path,label", "PATH,Label", "filename,class", "image,category", "image_path,target",
        "file,label",
        "id,class_name", "Filename,Label", "FILE NAME,Class", "file_name,label", "filepaths,labels",
        "Image Index,label", "img,label", '"path","label"', " path , label ",
        "id,breed", "uuid,label",  # the only one left
    ],
)  # fmt: skip
def test_names_of_columns(place: Path, head: str) -> None:
    listing = read(place, f"{head}\n{BODY}")
    assert found(listing) == TWO
    plain = [name.strip(' "') for name in head.split(",")]
    assert bool(listing.notes) == (plain not in (["path", "label"], ["PATH", "Label"]))
    assert all(f"{plain[0]} (path), {plain[1]} (label)" in note for note in listing.notes)


@pytest.mark.parametrize(
    ("head", "row", "flags", "expected"),
    [
        # Better names go first; further columns are nothing.
        ("id,filename,label,class", "7,cat/0.jpg,x,y", {}, ("cat/0.jpg", "x")),
        ("path,filename,class_id,class_name", "cat/0.jpg,0.jpg,3,cat", {}, ("cat/0.jpg", "cat")),
        (",path,label", "0,cat/0.jpg,cat", {}, ("cat/0.jpg", "cat")),
        ("Unnamed: 0,image,breed", "0,cat/0.jpg,cat", {}, ("cat/0.jpg", "cat")),
        ("path,label,class_name,split,error", "cat/0.jpg,c,cat,train,", {}, ("cat/0.jpg", "c")),
        # Flags.
        ("a,b,c", "x,cat/0.jpg,cat", {"path_column": "b", "label_column": "c"},
         ("cat/0.jpg", "cat")),
        ("image,file,label", "x,cat/0.jpg,cat", {"path_column": "FILE"}, ("cat/0.jpg", "cat")),
        ("path,class,category", "cat/0.jpg,1,2", {"label_column": "category"}, ("cat/0.jpg", "2")),
        ("path,label,Path", "x,cat,cat/0.jpg", {"path_column": "Path"}, ("cat/0.jpg", "cat")),
    ],
)  # fmt: skip
def test_the_right_column(
    place: Path, head: str, row: str, flags: Mapping[str, str], expected: tuple[str, str]
) -> None:
    assert found(read(place, f"{head}\n{row}\n", **flags)) == [expected]


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("image,file,label\n", {}, "several columns may be the path: image, file.*--path-column"),
        ("path,class,category\n", {}, "several columns may be the label.*--label-column"),
        ("path,a,b\n", {}, "no column is plainly the label; it has path, a, b.*--label-column"),
        ("a,b,label\n", {}, "no column is plainly the path; it has a, b, label.*--path-column"),
        ("a,b\n", {}, "plainly the path or the label.*--path-column and --label-column"),
        ("path,id\n", {}, "plainly the label"),  # a path's name is no label
        ("path,label\n", {"label_column": "labl"}, "no such column; it has path, label. Did you"),
        ("path,label\n", {"label_column": "path", "path_column": "path"}, "another flag"),
        ("path,label,label\n", {}, "several columns may be the label: label, label"),
        ("path,MEL,NV\ncat/0.jpg,0.0,1.0\ndog/0.jpg,1,0\n", {}, "0 and 1 for each class .MEL, NV"),
        ("path,label\n", {"extension": ".dcm"}, r"--extension \.dcm: no photo has it"),
        ("path,label\n", {"base_folder": "none"}, "--base-folder none: there is no such folder"),
    ],
)
def test_columns_that_are_not_plain(
    place: Path, text: str, flags: Mapping[str, str], message: str
) -> None:
    if text.count("\n") == 1:
        text += ",".join(["cat/0.jpg"] * (text.count(",") + 1)) + "\n"
    with pytest.raises(UsageError, match=message):
        read(place, text, **flags)


CSV = "path,label\ncat/0.jpg,cat\ndog/1.jpg,dog\n"


def parquet(columns: Mapping[str, list[object]], folder: Path) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), folder / "made")
    return (folder / "made").read_bytes()


@pytest.mark.parametrize(
    ("data", "notes"),
    [
        (CSV, 0),
        (CSV.replace("\n", "\r\n"), 0),
        (CSV.replace("\n", "\r"), 0),
        (CSV.replace(",", ";"), 0),
        (CSV.replace(",", "\t"), 0),
        (CSV.replace(",", "|"), 0),
        ("sep=;\n" + CSV.replace(",", ";"), 0),
        ("sep=,\r\n" + CSV, 0),
        ("\n\n" + CSV.replace("\n", "\n\n") + ",\n , \n\n", 0),
        (CSV.replace("\n", ",,\n") + ",,,\n", 0),
        ("path,label,note\ncat/0.jpg,cat,\"two\nlines, and a comma\"\ndog/1.jpg,dog\n", 0),
        ('"path";"label";"a, b, c"\ncat/0.jpg;cat;1\ndog/1.jpg;dog;2\n', 0),
        (BODY, 2),  # no first line with names
        ("cat,cat/0.jpg\ndog,dog/1.jpg\n", 2),
        (BODY.replace(",", " "), 2),  # as Caffe's lists
        (CSV.encode("utf-8-sig"), 0),
        (CSV.encode("utf-16"), 0),
        (b"\xfe\xff" + ("sep=;\r\n" + CSV.replace(",", ";")).encode("utf-16-be"), 0),
        (CSV.encode("utf-16-le"), 1),
        (CSV.encode("utf-32"), 0),
        (gzip.compress(CSV.encode(), mtime=0), 0),
        ('{"path": "cat/0.jpg", "label": "cat", "box": [1, 2]}\n\n'
         '{"label": "dog", "path": "dog/1.jpg"}\n', 0),
        ('[{"file_name": "cat/0.jpg", "label": "cat"},\n {"file_name": "dog/1.jpg", "label": "dog"}'
         "]", 1),
    ],
)  # fmt: skip
def test_forms_of_files(place: Path, data: str | bytes, notes: int) -> None:
    listing = read(place, data)
    assert found(listing) == TWO
    assert len(listing.notes) == notes, listing.notes


def test_parquet(place: Path) -> None:
    columns: dict[str, list[object]] = {
        "pixels": [b"..", b".."], "path": [p for p, _ in TWO], "label": [3, 14],
    }  # fmt: skip
    assert found(read(place, parquet(columns, place))) == [("cat/0.jpg", "3"), ("dog/1.jpg", "14")]
    columns["label"] = [1.0, 2.0]
    assert [label for _, label in found(read(place, parquet(columns, place)))] == ["1", "2"]
    columns["label"] = [1.0, float("nan")]
    with pytest.raises(UsageError, match=r"row 2 lacks a (path|label)"):
        read(place, parquet(columns, place))
    columns["label"] = [["cat"], ["dog"]]
    with pytest.raises(UsageError, match=r"column label .label. holds list"):
        read(place, parquet(columns, place))
    with pytest.raises(UsageError, match="cannot be read: Parquet"):
        read(place, parquet(columns, place)[:-9])


def test_parquet_without_pyarrow(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = parquet({"path": ["cat/0.jpg"], "label": ["cat"]}, place)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ResnestError, match=r"t\.csv needs pyarrow \(extra parquet\).*pip install pyarrow$"
    ):
        read(place, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "is empty"),
        ("\n,,\n", "is empty"),
        ("path,label\n", "lists no photo"),
        ("# made by hand\npath,label\ncat/0.jpg,cat\n", "has one column only, called # made by"),
        ("path,label\ncat/0.jpg,\n", r"line 2 lacks a label\. .*--multi-label"),
        ("sep=,\npath,label\n\ncat/0.jpg,\n", "line 4 lacks"),
        ('path,label,x\ncat/0.jpg,cat,"two\nlines"\ncat/1.jpg\n', "line 4 lacks"),
        ("path,label\ncat/0.jpg,cat,dog\n", "line 2 has 3 cells, but there are 2 columns"),
        ('path,label\ncat/0.jpg,"cat\ndog/1.jpg,dog"\n', "line 2: 'cat.ndog.*quote left open"),
        ('path,label\n"cat/0.jpg,cat\n', "line 2 is not CSV"),
        ("path,label\ncat/0.jpg,cat\ncat\\0.jpg,dog\n", "more than once, in lines 2 and 3"),
        ("path,label\ncat/0.jpg,cat\n./cat/0.jpg,dog\n", "more than once"),
        ("path,label\ncat/0.jpg,c\0at\n", "NUL byte in line 2"),
        (b"path,label\ncat/0.jpg,\x81\x8d\n", "line 2 is neither UTF-8 nor Windows-1252"),
        (b"\xff\xfep\0a\0t", "is not whole: byte 4"),
        (b"PK\x03\x04....", "is a zip archive, as Excel's .xlsx is, .*; unpack photos"),
        (gzip.compress(CSV.encode(), mtime=0)[:-9], "a gzip file: cannot be read"),
        ('{"path": "cat/0.jpg", "label": "cat"}\n{"path"\n', "line 2 is not JSON"),
        ('{"path": {"0": "cat/0.jpg"},\n "label": {"0": "cat"}}', "is one JSON object.*orient="),
        ('["cat/0.jpg"]', "row 1 is no JSON object"),
        ("[]", "has no record"),
        ('{"images": [{"file_name": "cat/0.jpg"}], "annotations": [1]}', "is one JSON object"),
        ('{"cat/0.jpg": "cat", "dog/1.jpg": "dog"}', "is one JSON object"),
        ('{"path": {"0": "cat/0.jpg"}, "label": {"0": "cat"}}', "is one JSON object"),
        ('{"path": "cat/0.jpg", "label": ["cat", "dog"]}', "label .label. holds lists"),
        ('{"path": "cat/0.jpg", "label": "\\ud800"}', "line 1: .*no text"),
        ("[" * 100_000, "is not JSON"),
    ],
)  # fmt: skip
def test_what_is_refused(place: Path, data: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        read(place, data)
    assert str(place / "t.csv") in str(error.value)


def test_windows_1252_is_read_and_said(place: Path) -> None:
    """Line by line: one such line makes no others unreadable."""
    data = b"path,label\ncaf\xe9/0.jpg,caf\xe9\n" + "cat/0.jpg,ñandú\n".encode()
    listing = read(place, data)
    assert found(listing) == [("café/0.jpg", "café"), ("cat/0.jpg", "ñandú")]
    assert "line 2 first: café/0.jpg,café" in " ".join(listing.notes)
    assert "1 line not in UTF-8, read as Windows-1252" in listing.notes[0]


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="names are text there")
def test_a_path_may_be_bytes_that_are_no_text(place: Path) -> None:
    name = b"cat/\xe9t\xe9.jpg"
    Path(os.fsdecode(os.fsencode(place) + b"/" + name)).touch()
    (photo,) = read(place, b"path,label\n" + name + b",cat\n").photos
    assert os.fsencode(photo.name) == name
    assert Path(photo.path).exists()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["1.0", "2.0", "10"], ["1", "2", "10"]),
        (["007", "7"], ["007", "7"]),
        (["1.5", "2.0"], ["1.5", "2.0"]),
        ([" cat ", "cat"], ["cat", "cat"]),
        (["café", unicodedata.normalize("NFD", "café")], ["café", "café"]),
        (
            [unicodedata.normalize("NFD", "café"), "café"],
            2 * [unicodedata.normalize("NFD", "café")],
        ),
        (["nan", "NA"], ["nan", "NA"]),
        (["Cat", "cat"], ["Cat", "cat"]),
    ],
)
def test_labels(place: Path, labels: list[str], expected: list[str]) -> None:
    rows = [f"{name},{label}" for name, label in zip(PHOTOS, labels, strict=False)]
    listing = read(place, "\n".join(["path,label", *rows]))
    assert [photo.label for photo in listing.photos] == expected
    assert bool(listing.notes) == (labels[0] in {"1.0", "Cat", "nan"})


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (("1.0", "NaN", "NaN"), "NaN is a class, of 2 photos"),
        (("cat", "None", "null"), "None, null is a class, of 2 photos"),
        (("cat", "dog", "cat|dog"), "a photo may have several labels here (in the column label)"),
        (("cat", "dog", "cat|wet"), "'cat|wet' is a class of its own (1 such"),
        (("cat;wet", "dog;wet", "cat; dry"), "'cat;wet' is a class of its own (3 such"),
        (("crane, bird", "crane (machine)", "tiger, big cat"), None),
    ],
)
def test_labels_that_may_mean_something_else(
    place: Path, labels: tuple[str, ...], note: str | None
) -> None:
    rows = [f'{name},"{label}"' for name, label in zip(PHOTOS, labels, strict=False)]
    notes = read(place, "\n".join(["path,label", *rows])).notes
    assert sum(note in said for said in notes if note) == bool(note)
    assert bool(notes) == bool(note)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cat\\0.jpg", "cat/0.jpg"),
        (".\\cat\\0.jpg", "./cat/0.jpg"),
        ("sub/..\\cat\\0.jpg", "sub/../cat/0.jpg"),
        (" cat/0.jpg ", "cat/0.jpg"),
        ("a b/0 .jpg", "a b/0 .jpg"),
        (unicodedata.normalize("NFD", "café/0.jpg"), "café/0.jpg"),
        ("ABSOLUTE/cat/0.jpg", "ABSOLUTE/cat/0.jpg"),
        ("file://ABSOLUTE/cat/0.jpg", "ABSOLUTE/cat/0.jpg"),
        ("file:ABSOLUTE/cat/0.jpg", "ABSOLUTE/cat/0.jpg"),
        ("file://localhostABSOLUTE/a%20b/0%20.jpg", "ABSOLUTE/a b/0 .jpg"),
    ],
)
def test_spellings_of_paths(place: Path, text: str, name: str) -> None:
    (place / "sub").mkdir()
    text, name = (t.replace("ABSOLUTE", str(place)) for t in (text, name))
    (photo,) = read(place, f"path,label\n{text},cat\n").photos
    assert photo.name == name
    assert Path(photo.path).samefile(place / name)


@pytest.mark.skipif(sys.platform == "win32", reason="a backslash separates there")
def test_a_backslash_that_belongs_to_a_name(place: Path) -> None:
    (place / "cat\\0.jpg").touch()
    (photo,) = read(place, "path,label\ncat\\0.jpg,cat\n").photos
    assert photo.name == "cat\\0.jpg"


IDS = "id,breed\n0,cat\n1,cat\n"


@pytest.mark.parametrize(
    ("table", "text", "flags", "names"),
    [
        ("t.csv", IDS, {"base_folder": "cat", "extension": ".jpg"}, ["0.jpg", "1.jpg"]),
        ("t.csv", IDS, {"base_folder": "cat", "extension": "jpg"}, ["0.jpg", "1.jpg"]),
        ("sub/t.csv", IDS, {"base_folder": "cat", "extension": "jpg"},  # from the working folder
         ["0.jpg", "1.jpg"]),
        ("sub/t.csv", "path,label\n../cat/0.jpg,cat\n", {}, ["../cat/0.jpg"]),
        ("cat/t.csv", "path,label\n0,c\n1.jpg,c\n", {"extension": ".jpg"}, ["0.jpg", "1.jpg"]),
        # Of another machine: all have C:/data/x in common.
        ("t.csv", "path,label\nC:\\data\\x\\cat\\0.jpg,c\nC:\\data\\x\\dog\\0.jpg,d\n",
         {"base_folder": "."}, ["cat/0.jpg", "dog/0.jpg"]),
        ("t.csv", "path,label\n/home/me/cat/0.jpg,c\n/home/me/cat/1.jpg,c\n",
         {"base_folder": "."}, ["cat/0.jpg", "cat/1.jpg"]),
        ("t.csv", "path,label\n/home/me/cat/0.jpg,c\n", {"base_folder": "cat"}, ["0.jpg"]),
        ("t.csv", "path,label\n\\\\nas\\x\\cat\\0.jpg,c\n", {"base_folder": "."}, ["cat/0.jpg"]),
    ],
)  # fmt: skip
def test_base_folder_and_extension(
    place: Path, monkeypatch: pytest.MonkeyPatch, table: str, text: str,
    flags: Mapping[str, str], names: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(place)
    (place / "sub").mkdir()
    photos = read(place, text, table, **flags).photos
    assert [os.path.normpath(photo.name) for photo in photos] == names
    folder = Path(flags.get("base_folder", (place / table).parent))
    assert all(Path(photo.path).samefile(folder / photo.name) for photo in photos)


def test_paths_from_the_working_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    listing = read(place, f"path,label\n{BODY}", "lists/t.csv")
    assert [photo.path for photo in listing.photos] == ["cat/0.jpg", "dog/1.jpg"]
    assert [photo.name for photo in listing.photos] == ["../cat/0.jpg", "../dog/1.jpg"]
    assert "relative to the working folder" in listing.notes[0]


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("path,label\nx/0.jpg,c\nx/1.jpg,c\nx/2.jpg,c\nx/3.jpg,c\n", {},
         "4 of 4 photos are not there. Looked for .*x/0.jpg, .*x/1.jpg, .*x/2.jpg, ....*"
         "--base-folder DIR"),
        ("path,label\ncat/0.jpg,c\nx/1.jpg,c\nx/2.jpg,c\n", {}, "2 of 3 photos are not there"),
        ("path,label\ncat/0,c\n", {}, "Did you mean --extension .jpg?"),
        ("path,label\n0,c\n", {}, "Looked for .*/0. Paths are relative"),  # in several folders
        ("path,label\n7,c\n", {}, r"Did you mean --base-folder .*café --extension \.jpg\?"),
        ("path,label\nCat/1.JPG,c\n", {}, "There is .*cat/1.jpg: upper and lower case differ"),
        ("path,label\nC:\\x\\1.jpg,c\n", {}, "another machine.*--base-folder DIR"),
        ("path,label\nC:\\x\\1.jpg,c\n", {"base_folder": "PLACE/dog/"}, None),
        ("path,label\nC:\\x\\9.jpg,c\n", {"base_folder": "PLACE/dog"}, "Looked for .*dog/9.jpg"),
        ("path,label\ncat,c\n", {}, "1 of 1 photos are not there.*That is a folder"),
        ("path,label\nfile://nas[/x.jpg,c\n", {}, "1 of 1 paths are addresses"),
        ("path,label\nhttps://x.org/a.jpg,c\ncat/0.jpg,c\ns3://b/a.jpg,d\n", {},
         "2 of 3 paths are addresses, line 2 first: https://x.org/a.jpg.*download them first"),
    ],
)  # fmt: skip
def test_photos_that_are_not_there(
    place: Path, text: str, flags: dict[str, str], message: str | None
) -> None:
    flags = {key: value.replace("PLACE", str(place)) for key, value in flags.items()}
    if message is None:
        assert len(read(place, text, **flags).photos) == 1
        return
    with pytest.raises(UsageError, match=message):
        read(place, text, **flags)


def test_a_few_that_are_not_there_are_said(place: Path) -> None:
    listing = read(place, "path,label\ncat/0.jpg,c\nx.jpg,c\n")
    assert len(listing.photos) == 2
    assert "1 of 2 photos are not there. Looked for" in listing.notes[0]


SPLIT = "path,label,{}\ncat/0.jpg,c,{}\ncat/1.jpg,c,{}\ndog/0.jpg,c,{}\n"
SIDES = ["train", "val", "test"]


@pytest.mark.parametrize(
    ("values", "flags", "sides"),
    [
        (("split", "train", "val", "test"), {}, SIDES),
        (("Split", " TRAIN", "Validation ", "Testing"), {}, SIDES),
        (("data set", "train", "valid", "test"), {}, SIDES),
        (("subset", "train", "val", "val"), {}, ["train", "val", "val"]),
        (("anything", "train", "val", "val"), {}, ["train", "val", "val"]),
        (("split", "train", "train", "test"), {}, ["train", "train", "test"]),
        (("is_valid", "True", "False", "false"), {}, ["val", "train", "train"]),
        (("is_test", "1", "0", "0"), {}, ["test", "train", "train"]),
        (("fold", "1", "2", "3"), {"split_names": "1,2,3"}, SIDES),
        (("Usage", "Training", "PublicTest", "PrivateTest"),
         {"split_names": "Training,PublicTest,PrivateTest"}, SIDES),
        (("x", "a", "a", "b"), {"split_names": "a,b", "split_column": "x"},
         ["train", "train", "val"]),
        # No splits.
        (("dataset", "isic", "isic", "ham"), {}, [None] * 3),
        (("fold", "1", "2", "3"), {}, [None] * 3),
        (("anything", "train", "car", "bus"), {}, [None] * 3),
        (("anything", "train", "train", "train"), {}, [None] * 3),
        (("split", "", "", ""), {}, [None] * 3),
        (("split", "train", "val", "x"), {"split_names": "none"}, [None] * 3),
        (("is_valid", "True", "True", "True"), {}, [None] * 3),
    ],
)  # fmt: skip
def test_splits(
    place: Path, values: tuple[str, ...], flags: Mapping[str, str], sides: list[str | None]
) -> None:
    listing = read(place, SPLIT.format(*values), **flags)
    assert [photo.side for photo in listing.photos] == sides
    assert listing.own_split == ("val" in sides)
    held_out = [note for note in listing.notes if "of the test split held out" in note]
    assert len(held_out) == ("test" in sides)
    unused = any("is not taken as a split" in note for note in listing.notes)
    assert unused == (values[0] in {"dataset", "fold"} and not flags)
    assert any("(split)" in note for note in listing.notes) == (
        sides[0] is not None and values[0].lower() != "split"
    )


@pytest.mark.parametrize(
    ("values", "flags", "message"),
    [
        (("split", "train", "trian", "x"), {}, "line 3: unknown split 'trian'.*'trian', 'x'.*"
         "--split-names TRAIN,VAL"),
        (("Usage", "Training", "PublicTest", "Q"), {}, "line 3: unknown split 'PublicTest'"),
        (("split", "train", "val", ""), {}, "1 of 3 lines have no split, line 4 first"),
        (("is_valid", "True", "False", "maybe"), {}, "unknown split 'maybe'"),
        (("split", "train", "val", "test"), {"split_names": "a,b"}, "unknown split 'train'"),
        (("x", "train", "val", "test"), {"split_names": "a,b"}, "no column of .* has these values"),
        (("x", "a", "b", "c"), {"split_column": "x"}, "unknown split 'a'"),
        (("x", "a", "b", "c"), {"split_column": "x", "split_names": "none"}, "leave out one"),
        (("x", "a", "b", "c"), {"split_column": "y"}, "--split-column y: .* no such column"),
    ],
)  # fmt: skip
def test_splits_that_are_not_plain(
    place: Path, values: tuple[str, ...], flags: Mapping[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read(place, SPLIT.format(*values), **flags)


def test_two_columns_that_look_like_splits(place: Path) -> None:
    text = "path,label,a,b\ncat/0.jpg,c,train,test\ncat/1.jpg,c,test,train\n"
    with pytest.raises(UsageError, match=r"several columns may be the split: a, b.*--split-column"):
        read(place, text)
    assert [photo.side for photo in read(place, text, split_column="b").photos] == ["test", "train"]


def test_test_photos_without_labels_are_left_out(place: Path) -> None:
    text = "path,label,split\ncat/0.jpg,c,train\ncat/1.jpg,c,val\ndog/0.jpg,,test\n"
    listing = read(place, text)
    assert [photo.side for photo in listing.photos] == ["train", "val"]
    assert "1 photo of the test split without a label; not used" in listing.notes[-1]
    for other in (text.replace("test", "val"), "path,label,split\ncat/0.jpg,,test\n"):
        with pytest.raises(UsageError, match=r"lacks a (path|label)"):
            read(place, other)


def test_a_class_of_the_test_split_alone_is_said(place: Path) -> None:
    text = "path,label,split\ncat/0.jpg,c,train\ncat/1.jpg,c,val\ndog/0.jpg,d,test\n"
    assert "d: in the test split only" in read(place, text).notes[-1]


@pytest.mark.parametrize("name", ["path_column", "label_column", "split_column", "extension"])
def test_flags_of_tables_do_not_go_with_folders(place: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is for a table"):
        list_data(str(place), Reading(**{name: ".jpg"}))


def test_columns_without_names_are_called_by_number(place: Path) -> None:
    flags = {"path_column": "2", "label_column": "3", "extension": ".jpg"}
    assert found(read(place, "7,cat/0,x\n8,cat/1,y\n", **flags)) == [
        ("cat/0.jpg", "x"), ("cat/1.jpg", "y"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="have no names and are called by their number"):
        read(place, "cat/0.jpg,x,7\n")
