"""Two processes on the CPU compute what one does; the pieces that keep them together."""

import os
import socket
import subprocess
import sys
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.evaluation.label_scores import LabelEvaluation
from resnest_cli.signals import StopRequest
from resnest_cli.training.distributed import (
    World,
    _exit_code,
    interleaved,
    is_follower,
    is_worker,
)
from resnest_cli.training.order import Draw, batch_bounds
from resnest_cli.training.settings import Config
from tests.training import ranks

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks.make_photos(folder)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.ranks", str(folder)], cwd=ROOT,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        assert [process.wait(240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    return [*found, {"folder": folder}]


def furthest(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@lru_cache
def worked_alone(folder: Path, name: str) -> dict[str, Any]:
    return ranks.work(folder, World(), ranks.CASES[name])


@pytest.mark.parametrize("name", ranks.CASES)
def test_two_processes_are_one_that_accumulates(both: list[dict[str, Any]], name: str) -> None:
    """In float64: the gradient of the first step, and the weights after two epochs."""
    first, second = both[0][name], both[1][name]
    alone = worked_alone(both[2]["folder"], name)

    assert furthest(first["gradients"], alone["gradients"]) < 1e-9
    assert furthest(first["weights"], alone["weights"]) < 1e-9
    assert furthest(first["ema"], alone["ema"]) < 1e-9
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-9)
    assert first["loss"] == pytest.approx(alone["loss"], abs=1e-9)
    for what in ("gradients", "weights", "ema"):  # and both have the very same
        assert furthest(first[what], second[what]) == 0
    assert first["rows"] == second["rows"]

    # The same photos in the same order, varied in the same way, dealt out in turn.
    assert interleaved([first["batches"], second["batches"]]) == alone["batches"]

    # Validation before any step, when running statistics are the same: each photo once, in order.
    expected = alone["evaluation"]
    for found in (first["evaluation"], second["evaluation"]):
        assert found.scores.photos == ranks.CASES[name].val
        assert found.scores.loss == pytest.approx(expected.scores.loss, abs=1e-12)
        if isinstance(found, LabelEvaluation):
            assert replace(found.scores, loss=0.0) == replace(expected.scores, loss=0.0)
            assert found.truth.tolist() == expected.truth.tolist()
            assert found.probabilities.tolist() == expected.probabilities.tolist()
            continue
        assert found.predicted.tolist() == expected.predicted.tolist()
        assert found.scores.confusion.tolist() == expected.scores.confusion.tolist()


# What no two processes need for it to act, since it is decided before they part or by one of them.
APART = {
    "command", "data", "val_data", "model", "weights", "recipe", "classes", "class_names",
    "val_split", "img_size", "interpolation", "epochs", "batch_size", "lr_base", "device", "amp",
    "workers", "cache", "channels_last", "save_every", "keep_epochs", "time_budget", "tensorboard",
    "patience", "sync_bn", "split_names", "path_column", "label_column", "split_column",
    "base_folder", "extension", "exclude", "exclude_kinds", "teacher_labels", "teacher_size",
    "teacher_mean", "teacher_std", "teacher_classes", "unlabelled", "trust_onnx",
    "min_precision", "group_column", "folds",
}  # fmt: skip


def test_every_setting_of_training_is_in_a_case() -> None:
    """So that a new one is not forgotten: those of all processes are compared above."""
    plain = set(asdict(ranks.CONFIG) | {"devices": 2, "grad_accum_steps": 2})
    changed = {
        name
        for case in ranks.CASES.values()
        for name in plain
        if case.changes.get(name, getattr(ranks.CONFIG, name))
        != {f.name: f.default for f in fields(Config)}[name]
    }
    changed |= {"devices", "grad_accum_steps", "class_weights"}  # of the cases themselves
    assert changed | APART == plain | APART


def test_statistics_are_those_of_the_first_process(both: list[dict[str, Any]]) -> None:
    """Each process sees its own batches; before a validation the first one's go to all."""
    first, second = both[0]["plain"], both[1]["plain"]
    alone = worked_alone(both[2]["folder"], "plain")
    names = [name for name in first["buffers"] if name.endswith(("running_mean", "running_var"))]
    assert names
    for name in names:
        start, one, two = (
            found["buffers"][name] for found in (alone | {"buffers": alone["start"]}, first, second)
        )
        assert not torch.equal(one, two)
        # One process takes in both batches, with momentum 0.1, one after the other.
        expected = 0.9 * one + (two - 0.9 * start)
        torch.testing.assert_close(alone["buffers"][name], expected, rtol=0, atol=1e-9)
    assert furthest(first["end_buffers"], second["end_buffers"]) == 0


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_batches_of_each_device(size: int, accumulated: int) -> None:
    for batch in (2, 3, 4, 7):
        for photos in range(2 * size, 200):
            bounds = Draw(batch, 0, ranks=size, accumulated=accumulated).bounds(photos)
            assert [a for a, _ in bounds] == [0, *(b for _, b in bounds[:-1])]
            assert bounds[-1][1] == photos
            assert len(bounds) % size == 0
            sizes = [b - a for a, b in bounds]
            assert min(sizes) >= 2
            assert max(sizes) <= batch + 2
            whole = photos // (size * accumulated * batch) - 1  # steps that are surely whole
            assert set(sizes[: max(0, whole) * size * accumulated]) <= {batch}
    assert Draw(4, 0, ranks=1).bounds(37) == batch_bounds(37, 4)


def test_a_whole_number_of_steps_is_cut_as_for_one_device() -> None:
    assert Draw(4, 0, ranks=2, accumulated=3).bounds(48) == batch_bounds(48, 4)


def test_alone_nothing_is_exchanged() -> None:
    world, stop = World(), StopRequest()
    assert world.main
    assert world.exchange([1.0, 2.0]) == [[1.0, 2.0]]
    assert world.gathered("a") == ["a"]
    assert world.share(3) == 3
    assert world.decide(stop, True, False) == [True, False]
    assert world.device("cuda:1") == "cuda:1"
    world.meet()
    world.begin(None)
    world.dismiss(1)
    world.close()


def test_rows() -> None:
    assert interleaved([[1, 3, 5], [2, 4]]) == [1, 2, 3, 4, 5]


def test_devices_of_each_process() -> None:
    world = World(rank=1, size=2, local_rank=1, local_size=2)
    assert world.device("cpu") == "cpu"
    for name in ("cuda:1", "mps"):
        with pytest.raises(UsageError, match="cuda, of which every process"):
            world.device(name)
    if not torch.cuda.is_available():
        assert world.device("auto") == "cpu"
        with pytest.raises(UsageError, match="sees 0 here"):
            world.device("cuda")


def test_who_started_this_process() -> None:
    given = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    assert not is_worker(given)
    given |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert is_worker(given)
    assert is_follower(given)
    assert not is_follower(given | {"RANK": "0"})


class Failure:
    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode


def test_the_exit_code_is_that_of_the_process_that_failed() -> None:
    assert _exit_code({1: Failure(1), 0: Failure(2)}) == 2
    assert _exit_code({1: Failure(-15)}) == 1
    with pytest.raises(ResnestError, match="process 1 was killed by SIGKILL"):
        _exit_code({0: Failure(1), 1: Failure(-9)})
