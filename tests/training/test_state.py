"""Training states: whole or absent, two kept, a damaged one gives way to the one before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from resnest_cli.errors import ResnestError
from resnest_cli.evaluation.scores import Meter
from resnest_cli.training import state
from resnest_cli.training.lost_photos import LostPhoto
from resnest_cli.training.state import BestAnswers, RunRecord
from tests.report.rows import ROW

LOST = LostPhoto("val", "cats/\udce9.jpg", 2, 1, "does not exist")


def save(folder: Path, epoch: int, position: int = 0, value: float = 1.0) -> Path:
    progress = RunRecord(
        epoch=epoch, position=position, step=epoch * 3, rows=[ROW], origin="abc", lost=[LOST]
    )
    tensors = {
        "a": torch.full((2, 3), value),
        "n": torch.tensor(7),
        "w": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    }
    parts = {"model": tensors, "ema": tensors}
    return state.save_state(folder, state.State(progress, parts, {"scale": 2.0}))


def silent(_: str) -> None:
    raise AssertionError("nothing is wrong here")


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(tmp_path, 1)
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 2, 2)
    found = state.load_state(tmp_path, silent)
    assert found is not None
    assert found.record == RunRecord(epoch=1, step=3, rows=[ROW], origin="abc", lost=[LOST])
    assert found.scaler == {"scale": 2.0}
    assert set(found.tensors) == {"model", "ema"}
    assert torch.equal(found.tensors["model"]["w"], weight)
    assert found.tensors["ema"]["n"].shape == ()
    assert state.read_record(state.states(tmp_path)[0]) == found.record


def test_nothing_there(tmp_path: Path) -> None:
    assert state.load_state(tmp_path, silent) is None
    assert state.load_state(tmp_path / "none", silent) is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for epoch, position in [(1, 0), (1, 5), (1, 12), (2, 0)]:
        save(tmp_path, epoch, position)
    assert [path.name for path in state.states(tmp_path)] == [
        "state-00002-00000000.safetensors",
        "state-00001-00000012.safetensors",
    ]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign", "header", "nested"])
def test_a_damaged_one_gives_way(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1, value=1.0)
    newest = save(tmp_path, 2, value=2.0)
    data = bytearray(newest.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[-3] ^= 1
    elif damage == "empty":
        data = bytearray()
    elif damage == "foreign":
        data = bytearray(b"not a state" * 50)
    elif damage == "nested":
        deep = "[" * 100_000 + "]" * 100_000
        save_file({}, newest, {"format": state.FORMAT, "progress": deep})
        data = bytearray(newest.read_bytes())
    else:
        data = bytearray(bytes(data).replace(b'\\"epoch\\"', b'\\"epocx\\"'))
    newest.write_bytes(data)
    told: list[str] = []
    found = state.load_state(tmp_path, told.append)
    assert found is not None
    assert found.record.epoch == 1
    assert len(told) == 1
    assert "is damaged" in told[0]
    assert newest.name in told[0]


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, 1).write_bytes(b"")
    with pytest.raises(ResnestError, match="every saved state is damaged"):
        state.load_state(tmp_path, lambda _: None)


def test_a_full_disk_keeps_the_states_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResnestError, match="No space left") as error:
        save(tmp_path, 2)
    assert "--resume" in str(error.value)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    assert state.load_state(tmp_path, silent) is not None


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_optimisers_go_on_as_before(kind: str) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
        network = network.to(memory_format=torch.channels_last)
        if kind == "sgd":
            return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        return network, torch.optim.AdamW(network.parameters(), lr=0.1)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        optimizer.zero_grad()
        network(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()

    straight, optimizer = make()
    for seed in range(4):
        step(straight, optimizer, seed)
    first, optimizer = make()
    for seed in range(2):
        step(first, optimizer, seed)
    saved = {
        k: v.clone().contiguous() for k, v in state.optimizer_tensors(optimizer, first).items()
    }
    assert saved
    second, optimizer = make()
    second.load_state_dict(first.state_dict())
    state.restore_optimizer(optimizer, second, saved)
    for seed in range(2, 4):
        step(second, optimizer, seed)
    for one, two in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)


def test_what_a_state_keeps_is_small_and_gives_all_of_it_back() -> None:
    empty = BestAnswers.none(1000)
    assert empty.tensors()["cells"].shape == (0, 3)
    again = BestAnswers.restored(empty.tensors(), 1000)
    np.testing.assert_array_equal(again.confusion, empty.confusion)
    meter = Meter(1000)
    logits = torch.zeros(3, 1000)
    logits[[0, 1, 2], [7, 7, 0]] = 9
    meter.update(logits, torch.tensor([3, 3, 999]))
    result = meter.result()
    found = BestAnswers(result.scores.confusion, result.predicted, result.confidence)
    assert found.tensors()["cells"].tolist() == [[3, 7, 2], [999, 0, 1]]
    again = BestAnswers.restored(found.tensors(), 1000)
    np.testing.assert_array_equal(again.confusion, found.confusion)
    assert again.predicted.tolist() == [7, 7, 0]
    np.testing.assert_allclose(again.confidence, float(logits[0].softmax(0).max()), rtol=1e-5)
