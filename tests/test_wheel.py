"""The wheel and the sdist: what is in them, and the wheel installed elsewhere and used."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | variables,
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_and_the_labels_only(wheel: Path) -> None:
    package = [path for path in (ROOT / "resnest_cli").rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in package if path.suffix != ".pyc"}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        labels = archive.read("resnest_cli/imagenet_classes.txt")
    assert names == wanted | {"resnest_cli/imagenet_classes.txt"}
    assert {f"resnest_cli/guides/{page}.md" for page in ("predict", "train", "models")} < names
    assert labels == (ROOT / "imagenet_classes.txt").read_bytes()
    assert wheel.stat().st_size < 10_500_000


def test_the_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(name).decode()
        assert archive.read(name.replace("METADATA", "licenses/LICENSE"))
    found = message_from_string(text)
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert all("https://" in url for url in found.get_all("Project-URL", []))
    assert len(found.get_all("Project-URL", [])) == 3


def test_the_sdist_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert {path.name for path in source.iterdir()} == {
        ".gitignore", "LICENSE", "PKG-INFO", "README.md", "imagenet_classes.txt", "pyproject.toml",
        "resnest_cli", "tests",
    }  # fmt: skip
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist")
    run(*command, cwd=source, PYTHONPATH="")
    assert (tmp_path / "dist" / wheel.name).read_bytes() == wheel.read_bytes()


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
