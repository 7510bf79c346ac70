"""`resnest predict --xmp`: keywords beside the photos, and nothing that anybody would miss."""

import json
import os
import re
import stat
from pathlib import Path
from zipfile import ZipFile

import pytest

from resnest_cli.images.xmp import Keywords, begun, merged
from resnest_cli.model.checkpoint import save
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.resnest import build
from tests.conftest import CLASSES, Cli, Result, make_photo
from tests.images.test_xmp import HIERARCHY, OTHERS, OURS, SUBJECT, keywords, lists
from tests.networks import TINY, enliven
from tests.server import File, Server

ALL = ("--xmp", "--threshold", "0")  # every class that is shown


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos in a folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(("a.jpg", "b.png", "c.webp")):
        make_photo(folder / name, seed=seed)
    return folder


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())
    }


def labels(result: Result) -> dict[str, list[str]]:
    """What is said of each photo, of records as JSON lines."""
    records = map(json.loads, result.out.splitlines())
    return {Path(r["input"]).name: [p["label"] for p in r["predictions"]] for r in records}


def words(path: Path) -> list[str]:
    return lists(path.read_bytes()).get(SUBJECT, [])


@pytest.mark.parametrize(
    "shown",
    [("-k", "3", "--threshold", "0"), ("--threshold", "0.2"), ("--threshold", "1")],
)
def test_what_is_shown_becomes_keywords(
    cli: Cli, tiny_checkpoint: Path, photos: Path, shown: tuple[str, ...]
) -> None:
    before = state(photos)
    run = ("predict", photos, "-m", tiny_checkpoint, "--xmp", "--format", "jsonl", *shown)
    result = cli(*run)
    assert result.code == 0
    written = {name: found for name, found in labels(result).items() if found}
    assert {path.name for path in photos.glob("*.xmp")} == {f"{name}.xmp" for name in written}
    for name, expected in written.items():
        found = lists((photos / f"{name}.xmp").read_bytes())
        assert found[SUBJECT] == found[HIERARCHY] == expected
        assert len(found[OURS + "classProbabilities"]) == len(expected)
    assert f"{len(written)} XMP file" in result.err
    after = state(photos)
    assert {name: after[name] for name in before} == before  # the photos
    again = cli(*run).err
    assert "0 XMP files" in again
    assert "skipped" not in again  # of the XMP files themselves
    assert state(photos) == after


def test_only_likely_classes_unless_another_threshold_is_given(
    cli: Cli, tiny_checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("predict", photos / "a.jpg", "-m", tiny_checkpoint, "--xmp", "--format", "jsonl")
    first = json.loads(cli(*run).out)["predictions"]
    assert len(first) == len(CLASSES)  # the record is not shorter
    for least, count in ((first[1]["probability"], 2), (1.0, 0)):
        monkeypatch.setattr("resnest_cli.report.sidecars.LEAST", least)
        cli(*run)
        file = photos / "a.jpg.xmp"
        found = words(file) if file.exists() else []
        assert found == [one["label"] for one in first[:count]]


def test_other_answers_replace_ours_and_spare_those_of_others(
    cli: Cli, tiny_checkpoint: Path, photos: Path
) -> None:
    file = photos / "a.jpg.xmp"
    file.write_text(OTHERS)
    file.chmod(0o640)
    cli("predict", photos / "a.jpg", "-m", tiny_checkpoint, *ALL)
    assert words(file) == ["family", "a & b", "<zoo>", *words(file)[3:]]
    assert sorted(words(file)[3:]) == sorted(CLASSES)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    best = labels(
        cli("predict", photos / "a.jpg", "-m", tiny_checkpoint, *ALL, "-k1", "--format", "jsonl")
    )
    assert words(file) == ["family", "a & b", "<zoo>", *best["a.jpg"]]
    rejected = cli("predict", photos, "-m", tiny_checkpoint, *ALL, "--reject-below", "1")
    assert rejected.code == 0
    assert words(file) == ["family", "a & b", "<zoo>"]
    assert not (photos / "b.png.xmp").exists()


def test_several_labels_give_the_selected_ones(cli: Cli, photos: Path, tmp_path: Path) -> None:
    network, limits = enliven(build(TINY, num_classes=3)), (0.0, 1.0, 0.0)
    save(tmp_path / "several.safetensors", network,
         CheckpointInfo(variant=TINY, class_names=("x", "y", "z"), thresholds=limits))  # fmt: skip
    cli("predict", photos / "a.jpg", "-m", tmp_path / "several.safetensors", "--xmp")
    assert sorted(words(photos / "a.jpg.xmp")) == ["x", "z"]


def test_the_other_name_and_a_parent(cli: Cli, tiny_checkpoint: Path, photos: Path) -> None:
    result = cli("predict", photos / "a.jpg", "-m", tiny_checkpoint, *ALL, "-k1",
                 "--xmp-name", "x.xmp", "--xmp-parent", "AI| animals ")  # fmt: skip
    assert result.code == 0
    assert [path.name for path in photos.glob("*.xmp")] == ["a.xmp"]
    found = lists((photos / "a.xmp").read_bytes())
    assert found[HIERARCHY] == ["AI|animals|" + found[SUBJECT][0]]
    both = cli("predict", photos / "a.jpg", "-m", tiny_checkpoint, *ALL)
    assert "1 photo has an XMP file of the other name" in both.err
    assert "--xmp-name x.xmp" in both.err


def test_photos_that_would_share_a_sidecar(cli: Cli, tiny_checkpoint: Path, photos: Path) -> None:
    twin = make_photo(photos / "a.png", seed=7)
    run = ("predict", photos / "a.jpg", twin, "-m", tiny_checkpoint, *ALL, "--xmp-name", "x.xmp")
    result = cli(*run)
    assert result.code == 3
    assert "a.xmp: holds the keywords of a.jpg, and cannot hold those of a.png" in result.err
    before = (photos / "a.xmp").read_bytes()
    assert cli(*run).code == 3
    assert (photos / "a.xmp").read_bytes() == before
    (photos / "a.jpg").unlink()  # it was renamed or converted
    assert cli("predict", *run[2:]).code == 0
    elsewhere = keywords("dog", photo="../photos/b.png")  # whatever stands there, it is a name
    (photos / "a.xmp").write_bytes(merged(begun(None), elsewhere))
    assert "holds the keywords of b.png" in cli("predict", *run[2:]).err


def test_sidecars_that_cannot_be_merged(
    cli: Cli, tiny_checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"damaged": OTHERS[:600], "foreign": "<svg/>", "empty": "", "large": OTHERS * 9}
    monkeypatch.setattr("resnest_cli.report.sidecars._MOST_BYTES", 8 * len(OTHERS))
    for seed, (name, text) in enumerate(bad.items()):
        make_photo(photos / f"{name}.jpg", seed=seed)
        (photos / f"{name}.jpg.xmp").write_text(text)
    (photos / "b.png.xmp").mkdir()
    before = {path: path.stat().st_mtime_ns for path in photos.glob("*.xmp")}
    result = cli("predict", photos, "-m", tiny_checkpoint, *ALL, "--quiet", "--format", "jsonl")
    assert result.code == 3
    assert [json.loads(line)["status"] for line in result.out.splitlines()] == ["ok"] * 7
    assert "5 XMP files could not be written:" in result.err
    for file, changed in before.items():
        assert re.search(f"{file}: cannot be read: .* It is left as it is", result.err)
        assert file.stat().st_mtime_ns == changed
    assert all(words(photos / name) for name in ("a.jpg.xmp", "c.webp.xmp"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_folder(cli: Cli, tiny_checkpoint: Path, photos: Path) -> None:
    photos.chmod(0o555)
    result = cli("predict", photos, "-m", tiny_checkpoint, *ALL)
    photos.chmod(0o755)
    assert result.code == 3
    assert "a.jpg.xmp: cannot be written: Permission denied" in result.err


def test_a_full_disk(
    cli: Cli, tiny_checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "a.jpg.xmp").write_text(OTHERS)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = cli("predict", photos, "-m", tiny_checkpoint, *ALL)
    assert result.code == 3
    assert "3 XMP files could not be written:" in result.err
    assert "a.jpg.xmp: cannot be written: No space left on device. Make room" in result.err
    assert sorted(path.name for path in photos.glob("*")) == [
        "a.jpg",
        "a.jpg.xmp",
        "b.png",
        "c.webp",
    ]
    assert (photos / "a.jpg.xmp").read_text() == OTHERS


def test_a_link_stays_a_link(cli: Cli, tiny_checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.xmp").write_text(OTHERS)
    (photos / "a.jpg.xmp").symlink_to(tmp_path / "kept.xmp")
    cli("predict", photos / "a.jpg", "-m", tiny_checkpoint, *ALL)
    assert (photos / "a.jpg.xmp").is_symlink()
    assert len(words(tmp_path / "kept.xmp")) == 8


def test_a_photo_that_cannot_be_read_keeps_its_keywords(
    cli: Cli, tiny_checkpoint: Path, photos: Path
) -> None:
    (photos / "a.jpg").write_text("no photo any more")
    old = merged(begun(None), Keywords(("cat",), (0.9,), "net"))
    (photos / "a.jpg.xmp").write_bytes(old)
    result = cli("predict", photos / "a.jpg", "-m", tiny_checkpoint, *ALL)
    assert result.code == 3
    assert (photos / "a.jpg.xmp").read_bytes() == old


def test_photos_from_elsewhere(
    cli: Cli, tiny_checkpoint: Path, photos: Path, server: Server, tmp_path: Path
) -> None:
    with ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(photos / "b.png", "b.png")
    for name in ("-", "https://example.org/a.jpg", f"{tmp_path}/b.zip", f"{tmp_path}/b.zip/b.png"):
        result = cli("predict", name, "-m", tiny_checkpoint, *ALL)
        assert result.code == 2
        assert f"{name}: --xmp writes files beside photos" in result.err
    server.files["/a.jpg"] = File((photos / "a.jpg").read_bytes())
    (tmp_path / "list.txt").write_text(f"{server.url('/a.jpg')}\n{photos / 'b.png'}\n")
    result = cli("predict", "--from-file", tmp_path / "list.txt", "-m", tiny_checkpoint, *ALL)
    assert result.code == 3
    assert f"{server.url('/a.jpg')}: is no file of its own on this machine" in result.err
    assert words(photos / "b.png.xmp")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--xmp-name", "x.xmp"), "go with --xmp"),
        (("--xmp-parent", "AI"), "go with --xmp"),
        (("--xmp", "--xmp-parent", "AI||x"), "--xmp-parent AI||x: give keywords"),
        (("--xmp", "--xmp-parent", ""), "give keywords"),
        (("--xmp", "--xmp-name", "xmp"), "x.jpg.xmp"),
        (("--undo", "sorted", "--xmp"), "--undo DIR stands alone"),
        (("--xmp", "-o", "classes/"), "go with records that are printed"),
        (("--xmp", "-o", "classes/", "--runner", "ray"), "--runner local"),
    ],
)
def test_flags_that_do_not_fit(
    cli: Cli, photo: Path, flags: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    result = cli("predict", photo, *flags)
    assert result.code == 2
    assert why in result.err
