"""Reading what `features` wrote, in every format; and what is refused, with the remedy."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from resnest_cli import Features
from resnest_cli.errors import ResnestError, UsageError
from tests.search.outputs import FAILED, write_output

ODD = [
    "photos/a, b.jpg",
    "photos/newline\n.jpg",
    "=cmd.jpg",
    "caf\udce9.jpg",
    "猫.jpg",
    "plain.jpg",
]


def some_rows(dtype: str = "float32", shape: tuple[int, ...] = (6, 11)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.csv", "f.parquet", "folder", "F.NPY"])
def test_every_format_has_the_same_rows_and_names(tmp_path: Path, name: str, dtype: str) -> None:
    rows = some_rows(dtype)
    if name in {"f.parquet", "folder"}:
        pytest.importorskip("pyarrow")
    if name == "F.NPY":
        write_output(tmp_path / "f.npy", rows, ODD)
        (tmp_path / "f.npy").rename(tmp_path / name)
        for suffix in (".csv", ".json"):
            (tmp_path / f"f{suffix}").rename(tmp_path / f"F{suffix}")
    else:
        write_output(tmp_path / name, rows, ODD, parts=3 if name == "folder" else 0)
    features = Features.open(tmp_path / name)
    assert np.array_equal(features.rows, rows)
    assert features.rows.dtype == dtype
    assert not features.rows.flags.writeable
    escaped = ["caf\\xe9.jpg" if "\udce9" in one else one for one in ODD]
    assert list(features.names) == (escaped if name == "folder" else ODD)
    assert features.names[1:3] == ODD[1:3]
    assert features.names[-1] == "plain.jpg"
    assert features.failed == {FAILED: "is empty (0 bytes)"}
    assert (len(features), features.model) == (6, "made up")
    assert features.row_of("=cmd.jpg") == 2
    assert features.row_of("none") is None
    found = features.search(rows[2:4], 2)
    assert found.rows[:, 0].tolist() == [2, 3]


def test_an_archive_is_mapped_not_read(tmp_path: Path) -> None:
    for name in ("f.npy", "f.npz"):
        (tmp_path / name[-1]).mkdir()
        place = write_output(tmp_path / name[-1] / name, some_rows())
        assert isinstance(Features.open(place).rows, np.memmap)


def test_temporary_copies_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_output(tmp_path / "f.csv", some_rows())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    features = Features.open(place)
    assert list(scratch.iterdir()) == []
    assert features.search(features.rows[:1], 1).rows.tolist() == [[0]]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ResnestError, match=r"gone: cannot be written.* TMPDIR=FOLDER"):
        Features.open(place)


def test_maps_are_one_long_row_each(tmp_path: Path) -> None:
    rows = some_rows(shape=(5, 3, 2, 2))
    features = Features.open(write_output(tmp_path / "maps.npz", rows))
    assert np.array_equal(features.rows, rows.reshape(5, 12))


@pytest.mark.parametrize("head", ["logits", "probabilities"])
def test_heads_are_refused(tmp_path: Path, head: str) -> None:
    extraction = {"head": head, "dtype": "float32", "row_shape": [11]}
    place = write_output(tmp_path / "f.npy", some_rows(), extraction=extraction)
    with pytest.raises(UsageError, match=f"f.npy holds {head} of classes.*without --head"):
        Features.open(place)


def _without_record(place: Path) -> None:
    place.with_suffix(".json").unlink()


def _unfinished(place: Path) -> None:
    place.with_name(place.name + ".parts").mkdir()
    place.unlink()


def _cut(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-1])


def _damaged(place: Path) -> None:
    place.write_bytes(b"\x93NUMPX" + place.read_bytes()[6:])


def _no_text(place: Path) -> None:
    place.with_suffix(".json").write_text("{")


def _half_a_record(place: Path) -> None:
    text = place.with_suffix(".json").read_text()
    place.with_suffix(".json").write_text(text.replace("weights_sha256", "hash"))


def _lines_are_missing(place: Path) -> None:
    lines = place.with_suffix(".csv")
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_without_record, r"has no record f\.json beside it.*resnest features"),
        (_unfinished, r"f\.npy is not finished: .*f\.npy\.parts holds an unfinished run.*--resume"),
        (Path.unlink, "there is no such file"),
        (_cut, "rows are missing at its end"),
        (_damaged, r"f\.npy: cannot be read: the magic string is not correct"),
        (_no_text, r"f\.json, which describes .*, cannot be read"),
        (_half_a_record, "'weights_sha256' is missing. Make the features again"),
        (_lines_are_missing, "6 lines, but 7 inputs"),
    ],
)
def test_what_is_damaged_or_missing(tmp_path: Path, harm, message: str) -> None:
    place = write_output(tmp_path / "f.npy", some_rows())
    harm(place)
    with pytest.raises(ResnestError, match=message):
        Features.open(place)


def test_other_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("")
    with pytest.raises(UsageError, match=r"f\.txt: no output of `resnest features`"):
        Features.open(tmp_path / "f.txt")
    with pytest.raises(UsageError, match=r"has no record _summary\.json.*behind FEATURES"):
        Features.open(tmp_path)
    with zipfile.ZipFile(write_output(tmp_path / "f.npz", some_rows()), "w") as archive:
        archive.writestr("other.npy", b"")
    with pytest.raises(ResnestError, match=r"f\.npz: cannot be read: .*features\.npy"):
        Features.open(tmp_path / "f.npz")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    rows = some_rows()
    place = write_output(tmp_path / "f.npz", rows)
    np.savez_compressed(place, features=rows)
    with pytest.raises(ResnestError, match="it is compressed"):
        Features.open(place)


def test_folders_of_other_things(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    begun = write_output(tmp_path / "begun", some_rows(), parts=2)
    (begun / "_summary.json").unlink()
    with pytest.raises(UsageError, match=r"begun is not finished: .*--runner ray --resume"):
        Features.open(begun)
    predictions = write_output(tmp_path / "predictions", some_rows(), parts=1)
    (predictions / "_summary.json").write_text('{"ranking": {"topk": 5}}')
    with pytest.raises(UsageError, match="holds predictions"):
        Features.open(predictions)
    gaps = write_output(tmp_path / "gaps", some_rows(), parts=3)
    (gaps / "part-00001.parquet").unlink()
    with pytest.raises(ResnestError, match="4 inputs in its parts, and 7 in its record"):
        Features.open(gaps)
    (gaps / "part-00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(ResnestError, match=r"part-00000\.parquet: cannot be read"):
        Features.open(gaps)
