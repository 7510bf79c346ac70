"""`resnest search`: every option acts, every query has a record, what does not fit is refused."""

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resnest_cli import Classifier, Features
from resnest_cli.model.checkpoint import save
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.resnest import build
from resnest_cli.search import records as search_records
from tests.conftest import Cli, Result, make_photo
from tests.networks import TINY, enliven
from tests.search.outputs import FAILED, brute_force, write_output
from tests.server import File, Server

Search = Callable[..., Result]
ROWS = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
ROWS[20] = ROWS[4] + np.float32(0.01)
ROWS[25] = 2 * ROWS[7]


@pytest.fixture
def feats(tmp_path: Path) -> Path:
    return write_output(tmp_path / "feats.npy", ROWS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("queries") / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(5):
        make_photo(folder / f"{number}.png", seed=number)
    make_photo(folder / "deep" / "5.png", seed=5)
    return folder


@pytest.fixture
def made(cli: Cli, photos: Path, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Features of six photos by the tiny network."""
    place = tmp_path / "made.npy"
    assert cli("features", photos, "-m", tiny_checkpoint, "-o", place).code == 0
    return place


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_photos_of_all_kinds_have_a_record_each(
    cli: Cli, made: Path, photos: Path, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    server.files["/a.png"] = File((photos / "2.png").read_bytes())
    (tmp_path / "list.txt").write_text(f"{photos / '3.png'}\n")
    found = cli(
        "search", made, photos / "4.png", tmp_path / "broken.jpg", photos / "deep",
        photos / "[01].png", server.url("/a.png"), tmp_path / "none.png",
        "--from-file", tmp_path / "list.txt", "--row", "5", "-k", "2", "--format", "jsonl",
    )  # fmt: skip
    assert found.code == 3
    assert "2 of 9 queries could not be read" in found.err
    lines = records(found.out)
    first = [line["neighbours"][0]["row"] if line["neighbours"] else None for line in lines]
    names = [Path(line["input"]).name for line in lines]
    assert names == ["5.png", "4.png", "broken.jpg", "5.png", "0.png", "1.png", "a.png",
                     "none.png", "3.png"]  # fmt: skip
    assert first[1:] == [4, None, 5, 0, 1, 2, None, 3]
    assert first[0] != 5  # a row is not its own neighbour
    assert lines[0]["row"] == 5
    assert lines[1]["row"] is None
    assert all(line["neighbours"][0]["score"] > 0.9999 for line in lines[1:] if line["neighbours"])
    assert [line["status"] for line in lines].count("error") == 2
    assert all(len(line["neighbours"]) == 2 for line in lines if line["error"] is None)
    assert all(line["model"] == "resnest50d_2s2x40d" for line in lines)


def test_photos_go_through_many_rows_together(
    cli: Cli, made: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("search", made, photos, "-b", "2", "-k", "2", "--format", "jsonl")
    one_by_one = cli(*given)
    passes, answer = [], search_records._of_prepared

    def answered(features, items, *more):
        passes.append(len(items))
        assert all(item.photo is None for item in items)  # a thousand of them fill the memory
        return answer(features, items, *more)

    monkeypatch.setattr(search_records, "_SMALL", 0)
    monkeypatch.setattr(search_records, "_TOGETHER", 4)
    monkeypatch.setattr(search_records, "_of_prepared", answered)
    assert cli(*given).out == one_by_one.out
    assert passes == [4, 2]


def test_options_of_reading_act(cli: Cli, made: Path, photos: Path) -> None:
    data = (photos / "1.png").read_bytes()
    command = [sys.executable, "-m", "resnest_cli", "search", str(made), "-", "--format", "jsonl"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    assert json.loads(done.stdout)["neighbours"][0]["row"] == 1
    flat = cli("search", made, photos, "--no-recursive", "-b", "2", "-j", "2", "--format", "csv")
    assert len(flat.out.splitlines()) == 1 + 5
    small = cli("search", made, photos / "0.png", "--max-pixels", "10", "--format", "json")
    assert small.code == 3
    assert "pixels" in json.loads(small.out)["error"]
    torch = cli("search", made, photos / "0.png", "--engine", "torch", "--format", "json")
    assert json.loads(torch.out)["neighbours"][0]["score"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_metric_and_k(cli: Cli, feats: Path, metric: str) -> None:
    found = cli("search", feats, "--row", "4", "--row", "photos/7.jpg", "-k", "3", "--metric",
                metric, "--format", "jsonl")  # fmt: skip
    wanted, scores = brute_force(ROWS[[4, 7]], ROWS, 4, metric)
    for line, own, rows, values in zip(records(found.out), (4, 7), wanted, scores, strict=True):
        others = rows != own
        assert line["metric"] == metric
        assert [one["row"] for one in line["neighbours"]] == rows[others][:3].tolist()
        assert [one["score"] for one in line["neighbours"]] == values[others][:3].tolist()
        assert [one["rank"] for one in line["neighbours"]] == [1, 2, 3]
        assert line["neighbours"][0]["input"] == f"photos/{rows[others][0]}.jpg"
    assert len(json.loads(cli("search", feats, "--row", "0", "--format", "json").out)["neighbours"]
               ) == 5  # fmt: skip


def test_a_row_that_failed_and_one_that_is_not_there(cli: Cli, feats: Path) -> None:
    found = cli("search", feats, "--row", FAILED, "--row", "3", "--format", "jsonl")
    assert found.code == 3
    bad, good = records(found.out)
    assert (bad["status"], bad["error"], bad["neighbours"]) == ("error", "is empty (0 bytes)", [])
    assert good["status"] == "ok"
    for row, message in (("30", "--row 30: the rows are 0 to 29"),
                         ("7.jpg", "Did you mean photos/7.jpg or photos/17.jpg or photos/27.jpg?"),
                         ("other", "--row other: no input has this name")):  # fmt: skip
        refused = cli("search", feats, "--row", "3", "--row", row)
        assert (refused.code, refused.out) == (2, "")
        assert message in refused.err


def test_every_format_says_the_same(cli: Cli, feats: Path, tmp_path: Path) -> None:
    lines = records(cli("search", feats, "--self", "-k", "2", "--format", "jsonl").out)
    assert [line["row"] for line in lines] == [*range(30)]
    assert json.loads(cli("search", feats, "--self", "-k", "2", "--format", "json").out) == lines
    for name in ("o.jsonl", "o.json", "o.csv", "o.npz", "o.txt"):
        assert cli("search", feats, "--self", "-k", "2", "-o", tmp_path / name).code == 0
    assert records((tmp_path / "o.jsonl").read_text()) == lines
    assert json.loads((tmp_path / "o.json").read_text()) == lines
    rows = [*csv.DictReader(io.StringIO((tmp_path / "o.csv").read_text()))]
    for row, line in zip(rows, lines, strict=True):
        assert row["input"] == line["input"]
        for one in line["neighbours"]:
            assert row[f"input_{one['rank']}"] == one["input"]
            assert int(row[f"row_{one['rank']}"]) == one["row"]
            assert float(row[f"score_{one['rank']}"]) == one["score"]
    with np.load(tmp_path / "o.npz") as archive:
        assert archive["rows"].dtype == np.int64
        assert archive["rows"].tolist() == [[n["row"] for n in x["neighbours"]] for x in lines]
        assert archive["scores"].tolist() == [[n["score"] for n in x["neighbours"]] for x in lines]
    first = (tmp_path / "o.npz").read_bytes()
    assert cli("search", feats, "--self", "-k", "2", "-o", tmp_path / "o.npz").code == 0
    assert (tmp_path / "o.npz").read_bytes() == first
    assert sorted(path.name for path in tmp_path.glob("*o.*")) == sorted(
        f"o.{suffix}" for suffix in ("csv", "json", "jsonl", "npz", "txt")
    )
    table = (tmp_path / "o.txt").read_text().splitlines()
    assert len(table) == 32
    assert table[6].split() == ["photos/4.jpg", "photos/20.jpg", "0.9999"]


def test_tables(cli: Cli, feats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (40, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        found = cli("search", feats, "--row", "7", "--row", FAILED, "-k", "2", "--metric",
                    "euclidean")  # fmt: skip
        assert "photos/25" in found.out
        assert "Distance" in found.out
        assert "error: is empty" in found.out
        assert max(map(len, found.out.splitlines())) <= width
        found = cli("search", feats, "--self")
        assert max(map(len, found.out.splitlines())) <= width


def test_duplicates(cli: Cli, feats: Path) -> None:
    lines = records(cli("search", feats, "--duplicates", "0.999", "--format", "jsonl").out)
    assert [[one["row"] for one in line["photos"]] for line in lines] == [[4, 20], [7, 25]]
    assert lines[1]["photos"][1]["score"] == 1.0
    assert lines[1]["group"] == 2
    near = cli("search", feats, "--duplicates", "0.1", "--metric", "euclidean", "--format", "json")
    assert [[p["input"] for p in group["photos"]] for group in json.loads(near.out)] == [
        ["photos/4.jpg", "photos/20.jpg"]
    ]
    assert "1 group of 2 photos, of 30 in all." in near.err
    rows = [*csv.DictReader(io.StringIO(cli("search", feats, "--duplicates", "0.999", "--format",
                                            "csv").out))]  # fmt: skip
    assert [(row["group"], row["row"]) for row in rows] == [("1", "4"), ("1", "20"), ("2", "7"),
                                                            ("2", "25")]  # fmt: skip
    table = cli("search", feats, "--duplicates", "0.999")
    assert "Group 2: 2 photos" in table.out
    none = cli("search", feats, "--duplicates", "1", "--metric", "cosine", "--format", "csv")
    assert none.code == 0
    assert cli("search", feats, "--duplicates", "0", "--metric", "euclidean", "--format", "json"
               ).out == "[]\n"  # fmt: skip


def test_a_page_shows_queries_groups_and_errors(
    cli: Cli, made: Path, photos: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    (tmp_path / "<b>.png").write_bytes(b"")
    found = cli("search", made, photos / "1.png", tmp_path / "<b>.png", "-k", "3", "--html", page)
    assert found.code == 3
    text = page.read_text()
    assert text.count("data:image/jpeg") == 4  # the query, and three
    assert "&lt;b&gt;.png" in text
    assert "<b>.png" not in text
    assert "2 queries, 1 of them unreadable; cosine" in text
    assert f"Page written to {page}." in found.err
    assert cli("search", made, "--duplicates", "-1", "--html", page).code == 0
    text = page.read_text()
    assert "Group 1: 6 photos" in text
    assert text.count("data:image/jpeg") == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one PHOTO, or give --row, --self or --duplicates"),
        (["--self", "--row", "1"], "exclude each other"),
        (["a.png", "--duplicates", "0.9"], "exclude each other"),
        (["--duplicates", "0.9", "-k", "3"], "-k does not go with --duplicates"),
        (["--duplicates", "0.9", "--metric", "dot"], "--metric cosine or euclidean"),
        (["--duplicates", "1.5"], "a cosine lies between -1 and 1"),
        (["--duplicates", "nan"], "a cosine lies between -1 and 1"),
        (["--duplicates", "-1", "--metric", "euclidean"], "a distance is 0 or more"),
        (["--self", "-m", "demo"], "--model goes with PHOTOs"),
        (["--self", "--format", "npz"], "with -o FILE"),
        (["--row", "1", "-o", "x.npz"], "--format npz is for --self"),
        (["--self", "-o", "x.npz", "--html", "y.html"], "without --html"),
        (["--self", "-k", "0"], "--topk: 0 is not a whole number from 1."),
        (["--self", "--metric", "manhattan"], "manhattan"),
        (["--self", "-o", "feats.csv"], "feats.csv"),
        (["--self", "-o", "feats.json"], "feats.json"),
        (["--self", "-o", "feats.npy"], "feats.npy"),
        (["--self", "-o", "a.jpg"], "photos are never written to"),
    ],
)
def test_what_does_not_fit_is_refused(
    cli: Cli, feats: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(feats.parent)
    before = {path.name: path.read_bytes() for path in feats.parent.glob("feats*")}
    refused = cli("search", "feats.npy", *words)
    assert refused.code in {1, 2}
    assert refused.out == ""
    assert message in refused.err
    assert {path.name: path.read_bytes() for path in feats.parent.glob("feats*")} == before


def test_bad_features(cli: Cli, feats: Path, photo: Path, tmp_path: Path) -> None:
    for place, code in ((tmp_path / "none.npy", 1), (tmp_path, 2), (photo, 2)):
        refused = cli("search", place, "--self")
        assert (refused.code, refused.out) == (code, "")
        assert str(place) in refused.err
    empty = write_output(tmp_path / "empty.npy", ROWS[:0])
    assert "empty.npy has no rows" in cli("search", empty, "--self").err
    feats.with_suffix(".json").unlink()
    assert "no record feats.json beside it" in cli("search", feats, photo).err


def test_a_reader_that_has_gone_ends_it_quietly(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    place = write_output(tmp_path / "many.npy", rows)
    command = [sys.executable, "-m", "resnest_cli", "search", str(place), "--self", "--format",
               "jsonl"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["row"] == 0
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_no_heavy_library_is_loaded_for_rows(tmp_path: Path, feats: Path) -> None:
    code = (
        "import sys; from resnest_cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'onnxruntime', 'sklearn', 'scipy', 'pyarrow', 'PIL', 'jinja2',"
        " 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "search", str(feats), "--row", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_a_model_of_several_labels(cli: Cli, photos: Path, tmp_path: Path) -> None:
    """Its features are compared as any others; the library knows it, and `check` takes it, too."""
    checkpoint = tmp_path / "several.safetensors"
    info = CheckpointInfo(variant=TINY, class_names=("sea", "sun"), thresholds=(0.2, 0.9))
    save(checkpoint, enliven(build(TINY, num_classes=2)), info)
    feats = tmp_path / "several.npy"
    assert cli("features", photos, "-m", checkpoint, "-o", feats).code == 0
    found = cli("search", feats, photos / "3.png", "--row", "0", "-k", "2", "--format", "jsonl",
                "--html", tmp_path / "page.html")  # fmt: skip
    assert found.code == 0, found.err
    row, photo = records(found.out)
    assert photo["neighbours"][0]["input"].endswith("3.png")
    assert photo["neighbours"][0]["score"] == pytest.approx(1, abs=1e-5)
    rows = np.load(feats)
    expected = brute_force(rows[:1], rows, 3, "cosine")[0][0, 1:]
    assert [one["row"] for one in row["neighbours"]] == expected.tolist()
    assert "Nearest photos" in (tmp_path / "page.html").read_text()
    stored, classifier = Features.open(feats), Classifier(checkpoint, device="cpu")
    nearest = stored.search(classifier.features([photos / "1.png"]), k=1)
    assert stored.names[int(nearest.rows[0, 0])].endswith("1.png")
    other = tmp_path / "probabilities.npy"
    head = ("--head", "probabilities")
    assert cli("features", photos, "-m", checkpoint, *head, "-o", other).code == 0
    refused = cli("search", other, "--row", "0")
    assert refused.code == 2
    assert "probabilities" in refused.err
    for label, number in (("sea", 0), ("sea", 1), ("sun", 2), ("sun", 3)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / f"{number}.png", tmp_path / "data" / label)
    checked = cli("check", tmp_path / "data", "--multi-label", "--model", checkpoint)
    assert checked.code == 0, checked.err
