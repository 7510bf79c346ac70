"""`resnest benchmark`: consistent figures, options that act, bad input. No speed is asserted."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.benchmark import BenchmarkJob, measure, timing
from resnest_cli.errors import EngineError
from resnest_cli.model.cost import STAGES, multiply_adds
from resnest_cli.model.variants import VARIANTS
from tests.conftest import Cli, make_photo
from tests.networks import TINY
from tests.processes import wait_for

QUICK = ("--min-time", "0", "--batch-size", "2")


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(timing._SIDE, "cpu", 8)


def figures(cli: Cli, *arguments: object) -> dict[str, Any]:
    result = cli("benchmark", *arguments, "--format", "json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_figures_are_consistent(cli: Cli, tiny_checkpoint: Path) -> None:
    found = figures(
        cli, "-m", tiny_checkpoint, "--min-time", "0", "-b", "1,3", "-b", "3", "-b", "2"
    )
    assert [(one["engine"], one["batch_size"]) for one in found["runs"]] == [
        (engine, size) for engine in ("onnx", "torch") for size in (1, 2, 3)
    ]
    macs = multiply_adds(TINY, 48, num_classes=5)
    total = sum(macs.values())
    assert found["model"]["multiply_adds"] == total
    assert found["model"]["multiply_add_shares"] == pytest.approx(
        {stage: value / total for stage, value in macs.items()}
    )
    products = {one["threads"]: one for one in found["matmul"]}  # each engine has its own
    for one in found["runs"]:
        ms = one["ms"]
        assert 0 < ms["min"] <= ms["p25"] <= ms["median"] <= ms["p75"] <= ms["max"]
        assert one["repeats"] == 5
        assert one["photos_per_second"] == pytest.approx(1e3 * one["batch_size"] / ms["median"])
        assert one["gmacs_per_second"] == pytest.approx(one["photos_per_second"] * total / 1e9)
        product = products[one["threads"]]
        assert one["matmul_share"] == pytest.approx(
            one["gmacs_per_second"] / product["gmacs_per_second"]
        )
    assert found["stages"]["batch_size"] == 3  # the nearest to 8
    for one in found["stages"]["engines"]:
        assert list(one["shares"]) == list(STAGES)
        assert sum(one["shares"].values()) == pytest.approx(1)
    assert found["pipeline"] is None
    machine = found["machine"]
    assert machine["cores"] >= 1
    assert set(machine["versions"]) >= {"torch", "onnxruntime", "python"}


def test_table_of_the_bundled_model_in_80_columns(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "photos").mkdir()
    make_photo(tmp_path / "photos" / "1.png")
    monkeypatch.chdir(tmp_path)
    result = cli("benchmark", "-m", "demo", *QUICK, "--photos", "photos")
    assert result.code == 0, result.err
    assert max(map(len, result.out.splitlines())) <= 80
    assert "resnest23t: 0.19 GMACs for a photo of 128 x 128, 1000 classes" in result.out
    assert re.search(r"^onnx +2 .*%$", result.out, re.MULTILINE)
    assert re.search(r"^torch +2 .*%$", result.out, re.MULTILINE)
    assert "of the time in convolutions" in result.out
    assert "everything, onnx, batch of 2" in result.out
    assert result.err.count("small bundled model") == 1


def test_a_disturbed_machine_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    from resnest_cli.output.results import show_runs

    ms = {"median": 2.0, "min": 1.0, "p25": 2.0, "p75": 2.4, "max": 9.0}
    run = {"engine": "onnx", "device": "cpu", "batch_size": 1, "ms": ms, "photos_per_second": 500,
           "gmacs_per_second": 100, "matmul_share": 0.5}  # fmt: skip
    show_runs({"runs": [run]})
    assert capfd.readouterr().err == ""
    show_runs({"runs": [run, run | {"ms": ms | {"p75": 2.6}}]})
    assert "something else is running" in capfd.readouterr().err


def test_options_act(cli: Cli, tiny_checkpoint: Path) -> None:
    found = figures(
        cli, "-m", tiny_checkpoint, *QUICK, "--engine", "torch", "--device", "cpu", "--img-size",
        "64", "--repeats", "6",
    )  # fmt: skip
    (run,) = found["runs"]
    assert (run["engine"], run["device"], run["repeats"]) == ("torch", "cpu", 6)
    assert found["model"]["img_size"] == 64
    assert found["model"]["multiply_adds"] == sum(multiply_adds(TINY, 64, num_classes=5).values())
    assert run["runs_per_repeat"] == 1
    longer = figures(
        cli, "-m", tiny_checkpoint, "-b", "1", "--min-time", "0.05", "--engine", "onnx"
    )
    (run,) = longer["runs"]
    assert run["engine"] == "onnx"
    assert run["runs_per_repeat"] > 1
    (auto,) = figures(cli, "-m", tiny_checkpoint, *QUICK, "--engine", "auto")["runs"]
    assert auto["engine"] in {"onnx", "torch"}


def test_random_weights_leave_nothing_behind(cli: Cli, homes: Path) -> None:
    result = cli("benchmark", "-m", "resnest14d", *QUICK, "--img-size", "32", "--format", "json")
    assert result.code == 0, result.err
    assert "The weights of resnest14d are not on this machine" in result.err
    found = json.loads(result.out)
    assert found["model"]["weights"] == "random"
    assert len(found["runs"]) == 2
    assert found["model"]["multiply_adds"] == sum(
        multiply_adds(VARIANTS["resnest14d"], 32).values()
    )
    left = [path for path in homes.rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    assert left == []
    assert os.environ["RESNEST_HOME"] == str(homes / "resnest_home")
    quiet = cli("benchmark", "-m", "resnest14d", *QUICK, "--img-size", "32", "--quiet",
                "--engine", "torch")  # fmt: skip
    assert quiet.err == ""


def test_both_engines_compute_the_same_network(cli: Cli, tmp_path: Path) -> None:
    """What is timed is the same work: the drawn weights reach both engines."""
    job = BenchmarkJob("resnest14d", img_size=64)
    with measure.engines(job, tmp_path, lambda _: None) as (classifiers, drawn):
        assert drawn
        batch = measure.noise(measure.np.random.default_rng(0), classifiers[0], 2)
        one, two = (classifier.engine.logits(batch) for classifier in classifiers)
    assert one.std() > 0.01
    assert abs(one - two).max() < 1e-4 * abs(one).max()


def test_pipeline(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for seed in range(3):
        make_photo(folder / f"{seed}.png", seed=seed)
    (folder / "bad.jpg").write_bytes(b"no photo")
    found = figures(cli, "-m", tiny_checkpoint, "--min-time", "0", "-b", "1,8", "--photos", folder)
    pipeline = found["pipeline"]
    assert (pipeline["photos"], pipeline["unreadable"]) == (3, 1)
    for one in pipeline["engines"]:
        of_engine = [run for run in found["runs"] if run["engine"] == one["engine"]]
        best = max(of_engine, key=lambda run: run["photos_per_second"])
        assert one["batch_size"] == best["batch_size"]
        assert one["network_photos_per_second"] == best["photos_per_second"]
        rates = pipeline["photos_per_second"] | {"network": best["photos_per_second"]}
        assert rates[one["slowest"]] == min(rates.values())
        assert one["photos_per_second"] > 0
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = cli("benchmark", "-m", tiny_checkpoint, *QUICK, "--photos", empty)
    assert refused.code == 1
    assert f"{empty}: has no photo that can be read" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "resnest50x"], "Did you mean resnest50"),
        (["-m", "none.safetensors"], "there is no such checkpoint file"),
        (["-m", "demo", "-b", "8,0"], "--batch-size 0: give numbers from 1 to 4096"),
        (["-m", "demo", "-b", "1,,2"], "--batch-size nothing: give"),
        (["-m", "demo", "-b", "x"], "--batch-size x: give"),
        (["-m", "demo", "--repeats", "4"], "--repeats: 4 is not a whole number from 5 to 1000"),
        (["-m", "demo", "--device", "tpu"], "unknown device 'tpu'"),
        (["-m", "demo", "--device", "cuda:9"], "device cuda:9 is not available"),
        (["-m", "demo", "--engine", "onnx", "--device", "cuda"], "the onnx engine runs on the CPU"),
    ],
)
def test_bad_options(cli: Cli, arguments: list[str], message: str) -> None:
    result = cli("benchmark", *arguments, "--min-time", "0")
    assert result.code == 2
    assert message in result.err
    assert result.out == ""


def test_without_onnx_runtime_torch_is_left(
    cli: Cli, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise EngineError("ONNX Runtime cannot be loaded: sprockets.")

    monkeypatch.setattr("resnest_cli.inference.engine._onnx", broken)
    result = cli("benchmark", "-m", tiny_checkpoint, *QUICK, "--format", "json")
    assert result.code == 0, result.err
    assert "The onnx engine is left out." in result.err
    assert [one["engine"] for one in json.loads(result.out)["runs"]] == ["torch"]
    alone = cli("benchmark", "-m", tiny_checkpoint, *QUICK, "--engine", "onnx")
    assert alone.code == 1
    assert "sprockets" in alone.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_signals_end_it_at_once(tmp_path: Path, number: int, code: int) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "resnest_cli", "benchmark", "-m", "resnest14d"]
    command += ["--batch-size", "1", "--min-time", "600"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip
    wait_for(lambda: list(temporary.glob("resnest-*/*.safetensors")))
    time.sleep(1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)  # not the ten minutes that a repeat would take
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert list(temporary.iterdir()) == []
