"""Runs on two nodes that lose workers, a node or the driver: each input once, nothing twice."""

import json
import signal
from pathlib import Path

import pytest

from tests.jobs.nodes import (
    Nodes,
    ended,
    kill,
    largest_difference,
    local_rows,
    parts,
    rows,
    wait_for,
)
from tests.planted_photos import KINDS, partly_broken, planted_photos, program

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COUNT = 256  # 8 parts
SLOW = 0.02


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory):
    with Nodes(tmp_path_factory.mktemp("home"), slow=SLOW) as running:
        yield running


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return partly_broken(tmp_path_factory.mktemp("photos"), COUNT)


@pytest.fixture(scope="module")
def local(nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path_factory):
    """Rows of the local runner, by input."""
    target = tmp_path_factory.mktemp("local") / "feats.parquet"
    return local_rows(photos, tiny_checkpoint, target, nodes.env)


def check(output: Path, local: dict) -> None:
    """All inputs, once, with the numbers and errors of the local runner."""
    assert largest_difference(rows(output), local) <= 1e-5
    counts = json.loads((output / "_summary.json").read_text())["counts"]
    assert counts == {"inputs": COUNT, "rows": COUNT - 5, "failed": 5}


def test_the_rows_are_those_of_the_local_runner(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path, local: dict
) -> None:
    said = nodes.run("features", photos, "-m", tiny_checkpoint, "-o", tmp_path / "out", code=3)
    assert "5 of 256 inputs could not be read (5 truncated)" in said
    assert len(parts(tmp_path / "out")) == 8
    check(tmp_path / "out", local)


@pytest.mark.parametrize("trial", [1, 2])
@pytest.mark.parametrize("kind", ["actor", "reader"])
def test_a_killed_worker_is_replaced(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path, local: dict, trial: int,
    kind: str,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    process = nodes.start("features", photos, "-m", tiny_checkpoint, "-o", out)
    wait_for(lambda: len(parts(out)) >= trial, process)
    victims = wait_for(nodes.workers if kind == "actor" else nodes.readers, process)
    kill(victims[0])
    ended(process, 3)
    check(out, local)


@pytest.mark.parametrize("trial", [1, 2])
def test_a_killed_driver_loses_no_part(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path, local: dict, trial: int
) -> None:
    out = tmp_path / "out"
    arguments = ("features", photos, "-m", tiny_checkpoint, "-o", out)
    process = nodes.start(*arguments)
    wait_for(lambda: len(parts(out)) >= 2 * trial, process)
    process.kill()
    process.communicate()
    wait_for(lambda: not nodes.workers())
    before = {path: path.stat().st_mtime_ns for path in parts(out)}
    assert 2 * trial <= len(before) < 8
    assert not (out / "_summary.json").exists()
    assert "--resume goes on with it" in nodes.run(*arguments, code=2)
    said = nodes.run(*arguments, "--resume", code=3)
    assert f"in 8 parts, {len(before)} of them found" in said
    assert {path: path.stat().st_mtime_ns for path in before} == before
    check(out, local)
    assert "All was finished already" in nodes.run(*arguments, "--resume")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_the_command_to_go_on(
    nodes: Nodes, photos: Path, tiny_checkpoint: Path, tmp_path: Path, local: dict,
    number: signal.Signals, code: int,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    process = nodes.start("features", photos, "-m", tiny_checkpoint, "-o", out)
    wait_for(lambda: len(parts(out)) >= 1, process)
    process.send_signal(number)
    said = ended(process, code)
    assert f"interrupted by {number.name}: what is done is kept. Go on with:" in said
    assert "Traceback" not in said
    nodes.run("features", photos, "-m", tiny_checkpoint, "-o", out, "--resume", code=3)
    check(out, local)


@pytest.mark.parametrize("command", ["features", "predict"])
def test_planted_photos_become_rows(
    nodes: Nodes, tiny_checkpoint: Path, tmp_path: Path, command: str
) -> None:
    planted = planted_photos(tmp_path / "photos", 61)
    words = nodes.words(command, tmp_path / "photos", "-m", tiny_checkpoint, "-o", tmp_path / "out")
    said = ended(nodes.popen(program(*words)), 3)
    assert all(f"1 {kind}" in said for kind in KINDS.values()), said
    found = rows(tmp_path / "out")
    assert len(found) == 64
    assert {Path(name).name: row["error"] for name, row in found.items() if row["error"]} == planted


@pytest.mark.parametrize("trial", [1, 2])
def test_a_node_that_is_gone_is_done_without(
    photos: Path, tiny_checkpoint: Path, tmp_path: Path, local: dict, trial: int
) -> None:
    out = tmp_path / "out"
    with Nodes(tmp_path / "home", slow=SLOW) as own:
        process = own.start("features", photos, "-m", tiny_checkpoint, "-o", out)
        wait_for(lambda: len(parts(out)) >= trial and len(own.workers()) == 2, process)
        own.remove_node()
        ended(process, 3)  # perhaps before anybody knows
    check(out, local)
