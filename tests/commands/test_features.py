"""`resnest features` and `resnest merge`: what they write, refuse, and say."""

import csv
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from resnest_cli.images.sources import Source
from resnest_cli.inference.classifier import Classifier
from tests.conftest import Cli, make_photo
from tests.server import File, Server

WIDTH = 128  # features of the tiny network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven photos, two more that are none, one other file."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(11):
        make_photo(photos / f"img{number}.png", seed=number)
    (photos / "img3b.jpeg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    (photos / "img8b.png").write_bytes(b"")
    (photos / "notes.txt").write_text("not a photo")
    return photos


@pytest.fixture
def features(cli: Cli, tiny_checkpoint: Path):
    def run(*arguments: str | Path):
        return cli("features", *arguments, "-m", tiny_checkpoint)

    return run


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def files(place: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in place.glob("feats*") if p.is_file()}


def test_a_row_for_each_readable_photo_in_order(
    features, folder: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "feats.npy"
    result = features(folder, "-o", out, "-b", "4")
    assert result.code == 3
    assert result.out == ""
    matrix = np.load(out, mmap_mode="r")
    assert isinstance(matrix, np.memmap)
    assert (matrix.dtype, matrix.shape) == (np.float32, (11, WIDTH))
    table = lines(tmp_path / "feats.csv")
    assert list(table[0]) == ["input", "row", "status", "error"]
    names = [Path(line["input"]).name for line in table]
    assert names == ["img0.png", "img1.png", "img2.png", "img3.png", "img3b.jpeg",
                     *(f"img{i}.png" for i in range(4, 9)), "img8b.png", "img9.png",
                     "img10.png"]  # fmt: skip
    assert [line["row"] for line in table if line["status"] == "ok"] == [*map(str, range(11))]
    bad = {Path(line["input"]).name: line for line in table if line["status"] == "error"}
    assert bad["img8b.png"]["error"] == "is empty (0 bytes)"
    assert bad["img3b.jpeg"]["row"] == ""
    info = json.loads((tmp_path / "feats.json").read_text())
    assert info["counts"] == {"inputs": 13, "rows": 11, "failed": 2}
    assert info["engine"]["batch_size"] == 4
    assert info["versions"].keys() == {"resnest_cli", "pillow", "numpy"}
    assert len(info["weights_sha256"]) == 64
    assert info["preprocessing"]["size"] == 48
    assert "2 of 13 inputs could not be read (1 empty, 1 " in result.err
    assert "1 other file" in result.err
    time = r"[\d.]+ m?s"
    steps = ", ".join(f"{step} {time}" for step in ("read", "decode", "network", "write"))
    assert re.search(rf"^13 photos, [\d.]+ photos/s; {steps}\.$", result.err, re.M)
    assert str(out) in result.err
    assert not (tmp_path / "feats.npy.parts").exists()
    from resnest_cli import Classifier

    single = Classifier(str(tiny_checkpoint)).features(folder / "img5.png")
    row = next(int(x["row"]) for x in table if x["input"].endswith("img5.png"))
    np.testing.assert_allclose(matrix[row], single[0], atol=1e-5 * np.abs(single).max())


def test_every_format_holds_the_same(features, folder: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for name in ("a.npy", "b.npz", "c.csv", "d.parquet"):
        assert features(folder, "-o", tmp_path / name).code == 3
    matrix = np.load(tmp_path / "a.npy")
    table = lines(tmp_path / "a.csv")
    good = [line["input"] for line in table if line["status"] == "ok"]
    with np.load(tmp_path / "b.npz") as archive:
        assert np.array_equal(archive["features"], matrix)
        at, paths = archive["offsets"], archive["paths"]
        assert (at.dtype, paths.dtype) == (np.int64, np.uint8)
        names = [bytes(paths[at[i] : at[i + 1]]).decode() for i in range(len(at) - 1)]
    assert names == good
    written = lines(tmp_path / "c.csv")
    values = [[float(x[f"f{i}"]) for i in range(WIDTH)] for x in written if x["status"] == "ok"]
    assert np.array_equal(np.array(values, np.float32), matrix)
    assert [x["input"] for x in written] == [x["input"] for x in table]
    assert not (tmp_path / "c.csv.csv").exists()
    found = pq.read_table(tmp_path / "d.parquet")
    assert str(found.schema.field("features").type) == f"fixed_size_list<element: float>[{WIDTH}]"
    rows = found.to_pylist()
    assert [r["input"] for r in rows] == [x["input"] for x in table]
    kept = [r["features"] for r in rows if r["status"] == "ok"]
    assert np.array_equal(np.array(kept, np.float32), matrix)
    assert all(r["features"] is None for r in rows if r["error"])
    for name in ("b", "d"):
        assert (tmp_path / f"{name}.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (["--dtype", "float16"], (11, WIDTH)),
        (["--normalize", "l2"], (11, WIDTH)),
        (["--pool", "none"], (11, WIDTH, 2, 2)),
        (["--stage", "2"], (11, 64)),
        (["--stage", "0", "--pool", "none"], (11, 16, 24, 24)),
        (["--head", "logits"], (11, 5)),
        (["--head", "probabilities"], (11, 5)),
        (["--engine", "torch"], (11, WIDTH)),
        (["--no-exif", "--img-size", "64"], (11, WIDTH)),
        (["--crop-mode", "squash"], (11, WIDTH)),
        (["--crop-pct", "0.5"], (11, WIDTH)),
        (["--interpolation", "bilinear"], (11, WIDTH)),
    ],
)
def test_every_option_acts(
    features, folder: Path, tmp_path: Path, options: list[str], shape: tuple
) -> None:
    features(folder, "-o", tmp_path / "plain.npy")
    assert features(folder, "-o", tmp_path / "other.npy", *options).code == 3
    plain, other = np.load(tmp_path / "plain.npy"), np.load(tmp_path / "other.npy")
    assert other.shape == shape
    if "l2" in options:
        np.testing.assert_allclose(np.linalg.norm(other, axis=1), 1, rtol=1e-6)
    if "probabilities" in options:
        np.testing.assert_allclose(other.sum(axis=1), 1, rtol=1e-6)
    if "float16" in options:
        assert other.dtype == np.float16
        assert np.array_equal(other, plain.astype(np.float16))
    elif "torch" in options:
        assert not np.array_equal(other, plain)
        np.testing.assert_allclose(other, plain, atol=1e-5 * np.abs(plain).max())
    else:
        assert not np.array_equal(other, plain)


def test_existing_output_is_refused_or_replaced(features, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats.npy"
    features(folder, "-o", out)
    before = files(tmp_path)
    refused = features(folder, "-o", out)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert files(tmp_path) == before
    make_photo(folder / "img99.png", seed=99)
    assert features(folder, "-o", out, "--overwrite").code == 3
    assert len(np.load(out)) == 12
    assert features(folder, "-o", out, "--overwrite", "--resume").code == 2
    (tmp_path / "mine.csv").write_text("notes")
    assert features(folder, "-o", tmp_path / "mine.npy").code == 2
    assert features(folder, "-o", tmp_path / "mine.npy", "--resume").code == 1
    assert (tmp_path / "mine.csv").read_text() == "notes"
    assert not list(tmp_path.glob("*.parts"))


def test_a_finished_run_resumes_to_exit_0_if_it_is_the_same(
    features, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "feats.npy"
    assert features(folder, "-o", tmp_path / "bad.npy").code == 3
    finished = features(folder, "-o", tmp_path / "bad.npy", "--resume")
    assert (finished.code, "2 of 13 inputs" in finished.err) == (0, True)
    nothing = features(folder / "img1.png", folder / "img2.png", "-o", out, "--resume")
    assert nothing.code == 0  # nothing to resume: starts afresh
    before = files(tmp_path)
    again = features(folder / "img1.png", folder / "img2.png", "-o", out, "--resume")
    assert again.code == 0
    assert "finished already" in again.err
    for inputs, what in (
        (["img1.png"], "'" + str(folder / "img2.png") + "' is missing after input 1"),
        (["img1.png", "img2.png", "img4.png"], "input 3 is new"),
        (["img1.png", "img5.png"], "input 2 was"),
    ):
        other = features(*(folder / name for name in inputs), "-o", out, "--resume")
        assert (other.code, what in other.err) == (2, True), other.err
    same = (folder / "img1.png", folder / "img2.png", "-o", out, "--resume")
    for options, what in (
        (["--dtype", "float16"], "--dtype float32 there, float16 here"),
        (["--stage", "1"], "--stage none there, 1 here"),
        (["--crop-pct", "0.5"], "--crop-pct 0.9 there, 0.5 here"),
        (["--no-exif"], "--exif True there, False here"),
        (["--shard", "1/2"], "--shard"),
        (["--fast-decode"], "--fast-decode none there, True here"),
    ):
        other = features(*same, *options)
        assert (other.code, what in other.err) == (2, True), other.err
    assert files(tmp_path) == before
    assert not (tmp_path / "feats.npy.parts").exists()


def test_fast_decoding_changes_rows_and_is_noted(
    features, cli: Cli, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    photo, out = tmp_path / "large.jpg", tmp_path / "feats.npy"
    make_photo(photo, (900, 700))
    rows = []
    for options in ([], ["--fast-decode"]):
        assert features(photo, "-o", out, "--overwrite", *options).code == 0
        rows.append(np.load(out)[0])
        info = json.loads((tmp_path / "feats.json").read_text())
        assert info["preprocessing"].get("fast_decode", False) == bool(options)
    assert 0 < np.abs(rows[0] - rows[1]).max() < 0.5 * np.abs(rows[0]).max()
    again = features(photo, "-o", out, "--resume", "--fast-decode")
    assert "finished already" in again.err
    refused = features(photo, "-o", out, "--resume")
    assert (refused.code, "--fast-decode True there, none here" in refused.err) == (2, True)
    answers = [
        json.loads(cli("predict", photo, "-m", tiny_checkpoint, "--format", "json", *more).out)
        for more in ([], ["--fast-decode"])
    ]
    plain, fast = (
        {one["index"]: one["probability"] for one in answer["predictions"]} for answer in answers
    )
    assert plain != fast
    assert max(abs(plain[index] - fast[index]) for index in plain) < 0.2


def test_another_model_is_refused_by_its_weights(
    features, cli: Cli, folder: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from safetensors.torch import load_file

    from resnest_cli.model import checkpoint

    out = tmp_path / "feats.npy"
    features(folder / "img1.png", "-o", out)
    loaded = checkpoint.load(tiny_checkpoint)
    tensors = load_file(tiny_checkpoint)
    tensors["fc.bias"] = tensors["fc.bias"] + 1
    other = tmp_path / "other.safetensors"
    network = checkpoint.instantiate(loaded)
    network.load_state_dict(tensors)
    checkpoint.save(other, network, loaded.info)
    result = cli("features", folder / "img1.png", "-o", out, "--resume", "-m", other)
    assert result.code == 2
    assert "weights" in result.err
    assert torch.equal(load_file(other)["fc.bias"], tensors["fc.bias"])


def test_retry_failed_computes_the_failed_rows_only(
    features, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    targets = [tmp_path / f"feats{i}.{s}" for i, s in enumerate(("npy", "npz", "csv", "parquet"))]
    for out in targets:
        features(folder, "-o", out, "-b", "4")
    whole = tmp_path / "whole.npy"
    make_photo(folder / "img3b.jpeg", seed=33)
    features(folder, "-o", whole, "-b", "4")
    read = []
    original = Classifier.read

    def noting(self: Classifier, source: Source) -> object:
        read.append(Path(source.name).name)
        return original(self, source)

    monkeypatch.setattr(Classifier, "read", noting)
    for out in targets:
        read.clear()
        result = features(folder, "-o", out, "--retry-failed")
        assert result.code == 3, result.err
        assert sorted(read) == ["img3b.jpeg", "img8b.png"]
        assert "1 of 13" in result.err
        assert not out.with_name(out.name + ".parts").exists()
        table = lines(out.with_suffix(".csv"))
        assert [x["row"] for x in table if x["status"] == "ok"] == [*map(str, range(12))] or (
            out.suffix == ".csv"
        )
    matrix, expected = np.load(targets[0]), np.load(whole)
    np.testing.assert_allclose(matrix, expected, atol=1e-5 * np.abs(expected).max())
    changed = [i for i in range(12) if not np.array_equal(matrix[i], expected[i])]
    assert set(changed) <= {4, *range(4)}  # its batch was another one then
    assert features(folder, "-o", targets[0], "--retry-failed").code == 3
    assert np.array_equal(np.load(targets[0]), matrix)
    (folder / "img8b.png").write_bytes(b"no photo, still")
    assert features(folder, "-o", targets[0], "--retry-failed").code == 3
    assert "is not an image" in (tmp_path / "feats0.csv").read_text()
    (folder / "img8b.png").unlink()
    assert features(folder, "-o", targets[0], "--retry-failed").code == 2


def test_shards_merge_to_the_bytes_of_one_run(
    features, cli: Cli, folder: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.npy"
    features(folder, "-o", whole, "-b", "2")
    for count in (1, 3, 9):  # nine shards of seven batches: two of them are empty
        place = tmp_path / str(count)
        place.mkdir()
        parts = [place / f"part{i}.npy" for i in range(1, count + 1)]
        for index, part in enumerate(parts, start=1):
            done = features(folder, "-o", part, "-b", "2", "--shard", f"{index}/{count}")
            assert done.code in {0, 3}
            listed = part.with_suffix(".csv").read_text().splitlines()[1:]
            assert ("This shard has none of the inputs." in done.err) == (not listed)
            assert "finished already" not in done.err
        if count == 1:
            continue
        out = place / "whole.npy"
        merged = cli("merge", *reversed(parts), "-o", out)
        assert merged.code == 0, merged.err
        for suffix in (".npy", ".csv", ".json", ".stat"):
            assert out.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()
        assert not list(place.glob("*.parts"))
        assert cli("merge", *parts, "-o", out).code == 0  # is there already
        out.with_suffix(".json").write_bytes(parts[0].with_suffix(".json").read_bytes())
        assert "exists" in cli("merge", *parts, "-o", out).err
        assert cli("merge", *parts, "-o", out, "--overwrite").code == 0


def test_update_computes_what_is_new_and_says_so(
    features, cli: Cli, folder: Path, tmp_path: Path
) -> None:
    out = ("-o", tmp_path / "feats.npy")
    assert features(folder, *out).code == 3
    before, rows = files(tmp_path), np.load(out[1])
    nothing = features(folder, *out, "--update")
    assert (nothing.code, files(tmp_path)) == (0, before)
    assert f"{out[1]}: 0 new, 0 changed, 0 gone, 13 kept." in nothing.err
    assert "finished already" in nothing.err
    make_photo(folder / "img3c.png", seed=50)
    make_photo(folder / "img4.png", seed=51)
    (folder / "img0.png").unlink()
    updated = features(folder, *out, "--update", "--prune")
    assert updated.code == 3
    assert "1 new, 1 changed, 1 gone (dropped), 11 kept." in updated.err
    assert "2 photos, " in updated.err
    names = [Path(line["input"]).name for line in lines(tmp_path / "feats.csv")]
    assert names[:6] == ["img1.png", "img2.png", "img3.png", "img3b.jpeg", "img3c.png", "img4.png"]
    new = np.load(out[1])
    assert new.shape == rows.shape
    assert np.array_equal(new[:3], rows[1:4])
    assert np.array_equal(new[5:], rows[5:])
    again = cli("merge", out[1], "-o", tmp_path / "copy.npz")
    assert (again.code, "11, 128) of 13 inputs in 1 part." in again.err) == (0, True)
    for options, what in (
        (["--shard", "1/2"], "--update goes without --shard"),
        (["--overwrite"], "excludes --resume, --retry-failed and --update"),
        (["--retry-failed"], "exclude each other"),
        (["--runner", "ray"], "--update is for --runner local"),
        (["--stage", "1"], "--stage none there, 1 here"),
        (["--crop-pct", "0.5"], "--crop-pct 0.9 there, 0.5 here"),
    ):
        refused = features(folder, *out, "--update", *options)
        assert (refused.code, what in refused.err) == (2, True), refused.err
    for prune in ("--prune", "--prune-folders"):
        assert "go with --update" in features(folder, *out, prune).err
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    (tmp_path / "one").mkdir()
    make_photo(tmp_path / "one" / "1.png")
    refused = features(tmp_path / "one", folder, *out, "--update", "--prune")
    assert (refused.code, "--prune-folders drops them" in refused.err) == (1, True)
    pruned = features(tmp_path / "one", folder, *out, "--update", "--prune-folders")
    assert (pruned.code, "1 new, 0 changed, 13 gone (dropped), 0 kept." in pruned.err) == (0, True)


def test_merge_refuses_what_is_no_whole(features, cli: Cli, folder: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"part{i}.npy" for i in (1, 2, 3)]
    for index, part in enumerate(parts, start=1):
        features(folder, "-o", part, "-b", "2", "--shard", f"{index}/3")
    out = tmp_path / "all.npy"

    def refused(code: int, what: str, *arguments: str | Path) -> None:
        result = cli("merge", *arguments, "-o", out)
        assert result.code == code, result.err
        assert what in result.err
        assert not out.exists()
        assert not (tmp_path / "all.npy.parts").exists()

    refused(2, "shard 2/3 is missing", parts[0], parts[2])
    refused(2, "both shard 1/3", parts[0], parts[0], parts[1], parts[2])
    features(folder, "-o", tmp_path / "whole.npy")
    refused(2, "is no shard, and", tmp_path / "whole.npy", *parts)
    features(folder, "-o", tmp_path / "wide.npy", "-b", "2", "--shard", "2/3", "--stage", "1")
    refused(2, "--stage", parts[0], tmp_path / "wide.npy", parts[2])
    features(folder / "img1.png", "-o", tmp_path / "short.npy", "-b", "2", "--shard", "2/3")
    refused(2, "list of inputs", parts[0], tmp_path / "short.npy", parts[2])
    refused(1, "gone.npy: there is no such file", parts[0], tmp_path / "gone.npy")
    text = (tmp_path / "part2.csv").read_text()
    (tmp_path / "part2.csv").write_text(text[: text.rindex("\n", 0, -1) + 1])
    refused(1, "do not fit", *parts)
    assert cli("merge", *parts, "-o", parts[0]).code == 2


def test_what_cannot_end_well_is_told_first(
    features, cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model is looked for")

    monkeypatch.setattr("resnest_cli.inference.classifier.find_model", never)
    assert features(folder).code == 2
    assert features("-o", tmp_path / "x.npy").code == 2
    for name in ("feats.txt", "feats", "feats.NPY"):
        result = features(folder, "-o", tmp_path / name)
        assert result.code == 2
        assert ".npy, .npz, .csv, .parquet" in result.err
    missing = features(folder, "-o", tmp_path / "none" / "feats.npy")
    assert (missing.code, "there is no folder" in missing.err) == (1, True)
    (tmp_path / "dir.npy").mkdir()
    assert features(folder, "-o", tmp_path / "dir.npy").code == 1
    (tmp_path / "taken.npy.parts").write_text("a file")
    assert "cannot be written" in features(folder, "-o", tmp_path / "taken.npy").err
    out = ("-o", tmp_path / "feats.npy")
    for options in (["--head", "logits", "--stage", "1"], ["--head", "logits", "--pool", "none"],
                    ["--stage", "5"], ["--shard", "0/2"], ["--shard", "3/2"], ["--shard", "x"],
                    ["--dtype", "float64"]):  # fmt: skip
        assert features(folder, *out, *options).code == 2, options
    listed = tmp_path / "feats.csv"
    listed.write_text(str(folder / "img1.png"))
    assert features("--from-file", listed, "-o", tmp_path / "feats.npy").code == 2
    assert listed.read_text() == str(folder / "img1.png")
    assert not list(tmp_path.glob("feats.npy*"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "Run: pip install pyarrow" in features(folder, "-o", tmp_path / "f.parquet").err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_folder(features, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    assert features(folder, "-o", place / "feats.npy").code == 1


def test_no_photo_and_no_readable_photo(features, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = features(empty, "-o", tmp_path / "feats.npy")
    assert result.code == 1
    assert "no photo found" in result.err
    assert not list(tmp_path.glob("feats*"))
    result = features(tmp_path / "gone1.jpg", tmp_path / "gone2.jpg", "-o", tmp_path / "feats.npy")
    assert result.code == 3
    assert "2 missing" in result.err
    assert np.load(tmp_path / "feats.npy").shape == (0, WIDTH)
    assert len(lines(tmp_path / "feats.csv")) == 2


def test_any_source_and_any_name(
    features, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [os.fsdecode(b"caf\xe9.png"), 'a,"b".png', "new\nline.png", "return\r.png", " .png"]
    photos = tmp_path / "odd"
    photos.mkdir()
    for number, name in enumerate(odd):
        make_photo(tmp_path / "p.png", seed=number).rename(photos / name)
    server.files["/dog.png"] = File(make_photo(tmp_path / "dog.png").read_bytes())
    listed = tmp_path / "list"
    listed.write_bytes(b"\0".join(os.fsencode(photos / name) for name in odd))

    class Stdin:
        buffer = io.BytesIO((tmp_path / "dog.png").read_bytes())

    monkeypatch.setattr("sys.stdin", Stdin)
    out = tmp_path / "feats.npy"
    result = features(server.url("/dog.png"), "-", photos / "*.png", "--from-file", listed, "-0",
                      "-o", out)  # fmt: skip
    assert result.code == 0, result.err
    names = [line["input"] for line in lines(tmp_path / "feats.csv")]
    assert names[:2] == [server.url("/dog.png"), "-"]
    assert sorted(names[2:7]) == sorted(str(photos / name) for name in odd)
    assert names[7:] == [str(photos / name) for name in odd]
    matrix = np.load(out)
    assert len(matrix) == 12
    np.testing.assert_array_equal(matrix[0], matrix[1])


def test_float16_that_cannot_hold_a_value_is_an_error(
    features, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnest_cli.inference.onnx_engine import OnnxEngine

    original = OnnxEngine.output
    monkeypatch.setattr(OnnxEngine, "output", lambda *a: original(*a) * np.float32(1e6))
    out = tmp_path / "feats.npy"
    assert features(folder / "img1.png", "-o", out, "--dtype", "float16").code == 3
    assert "beyond float16" in lines(tmp_path / "feats.csv")[0]["error"]
    assert features(folder / "img1.png", "-o", out, "--overwrite").code == 0


def test_a_disk_without_room_is_told_before_it_is_full(
    features, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    out = tmp_path / "feats.npz"
    result = features(folder, "-o", out)
    assert result.code == 1
    assert "MB are missing" in result.err
    assert not out.exists()
    monkeypatch.undo()
    monkeypatch.setenv("RESNEST_HOME", str(tmp_path / "resnest_home"))
    result = features(folder, "-o", out, "--resume")
    assert result.code == 3, result.err
    features(folder, "-o", tmp_path / "whole.npz")
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_foreign_file_in_the_folder_of_parts_is_left(
    features, folder: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "feats.npy.parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text("mine")
    assert features(folder / "img1.png", "-o", tmp_path / "feats.npy").code == 0
    assert [p.name for p in parts.iterdir() if p.name != "lock"] == ["thesis.txt"]
    shutil.rmtree(parts)
