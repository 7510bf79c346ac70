"""`resnest models` and `resnest download`: lists, verification, cleaning, first downloads."""

import json
import re
from pathlib import Path

import pytest

from resnest_cli.model import weights
from resnest_cli.model.variants import VARIANTS
from tests.conftest import CLASSES, Cli, Published
from tests.server import Reply


def test_models_lists_every_variant_within_80_columns(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = cli("models")
    assert result.code == 0
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    for variant in VARIANTS.values():
        row = next(line for line in lines if line.split()[:1] == [variant.id])
        top1 = f"{variant.top1:.2f}" if variant.top1 else "-"
        for text in (*variant.aliases, f"{variant.parameters / 1e6:.1f}M", f"{variant.gmacs:.2f}",
                     str(variant.preprocessing.size), top1):  # fmt: skip
            assert text in row
    assert "fast: resnest14d, balanced: resnest50d, best: resnest269e" in result.out


def test_models_as_json(cli: Cli, published: Published) -> None:
    records = json.loads(cli("models", "--format", "json").out)
    assert [record["id"] for record in records] == list(VARIANTS)
    assert records[2]["aliases"] == ["resnest50"]
    assert records[2]["recommended"] == "balanced"
    assert [record["id"] for record in records if record["cached"]] == ["resnest23t"]
    published.serve()
    cli("download", "resnest14d")
    first = json.loads(cli("models", "--format", "json").out)[0]
    assert first["cached"]
    assert first["bytes"] == len(published.data)
    assert Path(first["path"]).read_bytes() == published.data
    assert len(first["compiled"]) == 1
    assert f"{len(published.data) / 1e6:.0f} MB*" in cli("models").out


def test_first_prediction_downloads_and_the_second_does_not(
    cli: Cli, published: Published, photo: Path
) -> None:
    published.serve()
    first = cli("predict", photo, "-m", "resnest14d", "--format", "json")
    assert first.code == 0, first.err
    assert "Downloading" in first.err
    assert len(published.server.log(published.path)) == 1
    second = cli("predict", photo, "-m", "resnest14d", "--format", "json", "--offline")
    assert second.out == first.out
    assert second.err == ""
    assert len(published.server.log(published.path)) == 1
    quiet = cli("predict", photo, "-m", "resnest14d", "--format", "json", "--quiet")
    assert quiet.err == ""


def test_a_damaged_file_is_set_aside_and_fetched_again(
    cli: Cli, published: Published, photo: Path, homes: Path
) -> None:
    published.serve()
    good = cli("predict", photo, "-m", "resnest14d", "--format", "json").out
    cached = Path(json.loads(cli("models", "--format", "json").out)[0]["path"])
    cached.write_bytes(cached.read_bytes()[:1_000_000])  # cut short
    verified = cli("models", "verify", "resnest14d")
    assert verified.code == 1
    assert "damaged" in verified.err
    again = cli("predict", photo, "-m", "resnest14d", "--format", "json")
    assert again.out == good
    assert cached.read_bytes() == published.data
    assert cached.with_name(cached.name + ".damaged").exists()
    assert cli("models", "verify").code == 0


def test_download_reports_each_model_and_goes_on_after_a_failure(
    cli: Cli, published: Published
) -> None:
    published.serve()
    result = cli("download", "resnest26d", "resnest14d", "--mirror", published.server.url())
    # resnest26d: the mirror answers 404, its published host cannot be reached from here.
    assert result.code == 1
    assert "resnest26d" in result.err
    assert "404" in result.err
    assert result.out.startswith("resnest14d\t")


def test_download_wants_models_or_all(cli: Cli) -> None:
    assert cli("download").code == 2
    assert cli("download", "resnest50d", "--all").code == 2
    wrong = cli("download", "resnst50d")
    assert wrong.code == 2
    assert "Did you mean resnest50d" in wrong.err


def test_download_offline(cli: Cli, published: Published) -> None:
    published.serve()
    result = cli("download", "resnest14d", "--offline")
    assert result.code == 1
    assert published.path[1:] in result.err
    assert published.server.requests == []


def test_wrong_content_is_never_used(cli: Cli, published: Published, photo: Path) -> None:
    page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    published.serve()
    published.server.script(published.path, *[Reply(body=page)] * 20)
    result = cli("predict", photo, "-m", "resnest14d")
    assert result.code == 1
    assert "web page" in result.err
    assert "Traceback" not in result.err


def test_clean_removes_what_we_fetched_and_nothing_else(
    cli: Cli, published: Published, homes: Path
) -> None:
    published.serve()
    cli("download", "resnest14d")
    folder = homes / "torch_home" / "hub" / "checkpoints"
    foreign = folder / "vgg16-397923af.pth"
    foreign.write_bytes(b"somebody else's")
    dry = cli("models", "clean", "--dry-run")
    assert published.path[1:] in dry.out
    assert "would be freed" in dry.err
    assert (folder / published.path[1:]).exists()
    cleaned = cli("models", "clean")
    assert cleaned.code == 0
    assert not (folder / published.path[1:]).exists()
    assert foreign.read_bytes() == b"somebody else's"
    assert "Nothing to clean" in cli("models", "clean").err


def test_verify_names_what_is_missing(cli: Cli) -> None:
    result = cli("models", "verify", "resnest50d")
    assert result.code == 1
    assert "missing" in result.err
    rest = cli("models", "verify")
    assert rest.code == 0
    assert re.findall(r"^(resnest\w+) +(\w+)", rest.out, re.MULTILINE) == [("resnest23t", "ok")]


def test_verify_tells_bundled_weights_that_are_gone(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_BUNDLED", tmp_path)
    result = cli("models", "verify")
    assert result.code == 1
    assert "resnest23t" in result.err
    assert "missing" in result.err


def test_show_tells_what_a_checkpoint_holds(
    cli: Cli, tiny_checkpoint: Path, published: Published, tmp_path: Path
) -> None:
    record = json.loads(cli("models", "show", tiny_checkpoint, "--format", "json").out)
    assert record["class_names"] == list(CLASSES)
    assert record["metrics"] == {"top1": 0.5}
    assert record["variant"] == "resnest50d_2s2x40d"
    assert record["preprocessing"]["size"] == 48
    table = cli("models", "show", tiny_checkpoint).out
    assert "red fox" in table
    assert "bicubic" in table
    pickle = tmp_path / "weights.pth"
    pickle.write_bytes(published.data)
    record = json.loads(cli("models", "show", pickle, "--format", "json").out)
    assert record["format"] == "pickle"
    assert record["variant"] == "resnest14d"
    assert record["num_classes"] == 1000
    pickle.write_bytes(published.data[:100_000])
    assert cli("models", "show", pickle).code == 1
    gone = cli("models", "show", tmp_path / "gone.pth")
    assert gone.code == 2
    assert "gone.pth" in gone.err
