"""`--batch-size auto`: by doubling, as far as memory and gain go."""

import pytest

from resnest_cli import Classifier
from resnest_cli.errors import EngineError, UsageError
from resnest_cli.inference import batch_size
from resnest_cli.inference.batch_size import batch_size_for, best, measured_rates
from resnest_cli.net import Access
from resnest_cli.options import AUTO


class Device:
    """Runs batches in a time of its own, as far as its memory goes."""

    def __init__(self, room: int, seconds: dict[int, float], monkeypatch: pytest.MonkeyPatch):
        self.room, self.seconds, self.now = room, seconds, 0.0
        self.ran: list[int] = []
        monkeypatch.setattr(batch_size.time, "perf_counter", lambda: self.now)

    def run(self, count: int) -> None:
        if count > self.room:
            raise EngineError(f"{count} photos do not fit")
        self.ran.append(count)
        self.now += self.seconds.get(count, 1.0)


def test_sizes_double_until_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(100, {8: 0.1, 16: 0.1, 32: 0.16, 64: 0.318}, monkeypatch)
    rates = measured_rates(device.run, most=1024)
    assert rates == pytest.approx({8: 80, 16: 160, 32: 200, 64: 64 / 0.318})
    assert best(rates) == 32  # 64 would be 0.6 percent quicker


def test_sizes_end_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(10_000, {}, monkeypatch)
    rates = measured_rates(device.run, most=64)
    assert list(rates) == [8, 16, 32, 64]
    assert best(rates) == 64


@pytest.mark.parametrize(("room", "size"), [(5, 4), (3, 2), (1, 1)])
def test_less_than_eight_are_tried_downwards(
    monkeypatch: pytest.MonkeyPatch, room: int, size: int
) -> None:
    assert list(measured_rates(Device(room, {}, monkeypatch).run, most=64)) == [size]


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="1 photos do not fit"):
        measured_rates(Device(0, {}, monkeypatch).run, most=64)


def test_on_this_machine(tiny_checkpoint: str) -> None:
    told: list[str] = []
    access = Access(notify=told.append)
    classifier = Classifier(str(tiny_checkpoint), device="cpu", access=access)
    size = batch_size_for(classifier, "logits", AUTO)
    assert size in {8, 16, 32}
    assert told[-1].startswith(f"Batches of {size}; photos/s by size of batch: 8: ")
    assert batch_size_for(classifier, "logits", 5) == 5
    classifier.compiled = True
    with pytest.raises(UsageError, match="name a size"):
        batch_size_for(classifier, "logits", AUTO)
