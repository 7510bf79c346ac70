"""The wheel: built, installed elsewhere, and used from there."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from resnest_cli.model.variants import get_variant
from resnest_cli.training.settings import RECIPES

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | variables,
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_package_and_the_labels_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "resnest_cli/imagenet_classes.txt" in names
    assert "resnest_cli/py.typed" in names
    recipes = {name.rpartition("/")[2] for name in names if name.endswith(".toml")}
    assert recipes == {f"{recipe}.toml" for recipe in RECIPES}
    bundled = {name for name in names if name.startswith("resnest_cli/model/bundled/")}
    assert {name.rpartition("/")[2] for name in bundled} == {get_variant("demo").weights.name}
    for name in ("report/templates/page.html", "report/templates/page.js", "export/model_card.md",
                 "model/imagenet_wnids.txt"):  # fmt: skip
        assert f"resnest_cli/{name}" in names
    assert wheel.stat().st_size < 8_000_000
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"resnest_cli"}
    labels = zipfile.ZipFile(wheel).read("resnest_cli/imagenet_classes.txt")
    assert labels == (ROOT / "imagenet_classes.txt").read_bytes()


def test_wheel_installed_elsewhere_predicts(
    wheel: Path, tmp_path: Path, photo: Path, seeded_weights: bytes
) -> None:
    place = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", "--target", place, wheel, cwd=tmp_path)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(seeded_weights)
    # Inserted first, so that the checkout, installed or not, cannot be what is imported.
    code = (
        f"import sys; sys.path.insert(0, {str(place)!r})\n"
        "import resnest_cli; print(resnest_cli.__file__, file=sys.stderr)\n"
        f"assert resnest_cli.__file__.startswith({str(place)!r})\n"
        "from resnest_cli.app import main; main()"
    )
    out = run(
        sys.executable, "-c", code, "predict", photo, "--model", "resnest14d",
        "--weights", weights, "--format", "json", cwd=tmp_path,
    )  # fmt: skip
    predictions = json.loads(out)["predictions"]
    labels = (ROOT / "imagenet_classes.txt").read_text(encoding="utf-8").split("\n")
    assert len(predictions) == 5
    assert all(labels[p["index"]] == p["label"] for p in predictions)
