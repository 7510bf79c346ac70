"""How many workers fit on a cluster, who gets which part, and what Ray's errors are wrapped in."""

from collections import Counter
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from resnest_cli.errors import ResnestError, UnknownModelError, UsageError
from resnest_cli.inference.extraction import Extraction
from resnest_cli.jobs import ray as runner
from resnest_cli.jobs.job import Job
from resnest_cli.jobs.parts import PartInfo
from resnest_cli.jobs.ray import Actors, NodesLostError
from resnest_cli.jobs.ray_cluster import Pool, ours, pool_for
from resnest_cli.options import ModelOptions

TWO, BIG = {"CPU": 2.0}, {"CPU": 64.0}
GPUS = {"CPU": 32.0, "GPU": 4.0}


def pool(*nodes, gpus=None, concurrency=None, cpu_only=False) -> Pool:
    return pool_for(list(nodes), gpus=gpus, concurrency=concurrency, cpu_only=cpu_only)


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        ((TWO,), {}, Pool(1, 2, 0)),
        ((TWO, TWO), {}, Pool(2, 2, 0)),
        ((TWO, BIG), {}, Pool(33, 2, 0)),
        ((BIG,), {"concurrency": 4}, Pool(4, 16, 0)),
        ((TWO, BIG), {"concurrency": 2}, Pool(2, 32, 0)),
        ((GPUS, GPUS), {}, Pool(8, 8, 1)),
        ((GPUS, TWO), {"gpus": 2.0}, Pool(2, 16, 2)),
        ((GPUS,), {"gpus": 0.5}, Pool(8, 4, 0.5)),
        ((GPUS,), {"cpu_only": True}, Pool(1, 32, 0)),
        ((GPUS,), {"gpus": 0.0}, Pool(1, 32, 0)),
        ((GPUS,), {"concurrency": 2}, Pool(2, 16, 1)),
    ],
)
def test_workers_for_a_cluster(nodes, options, expected) -> None:
    assert pool(*nodes, **options) == expected
    assert expected.room(nodes) >= expected.size


def test_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match="--gpus-per-worker 1: no node"):
        pool(BIG, gpus=1.0)
    with pytest.raises(UsageError, match=r"--concurrency 5: the cluster has room for 4 worker"):
        pool(TWO, TWO, concurrency=5)
    with pytest.raises(ResnestError, match="no node of the cluster has a CPU"):
        pool({"memory": 1.0})


def test_a_worker_and_its_readers_fit_into_its_cores() -> None:
    found = pool(TWO)
    assert 0 < found.cpus < found.threads


def test_our_own_errors_are_found_in_rays() -> None:
    inner = UnknownModelError("no model")
    outer = RuntimeError("wrapped by Ray")
    outer.__cause__ = inner
    assert ours(outer) is inner
    assert str(ours(ValueError("many lines\n\nthe gist"))) == "Ray: the gist"


class FakeRay:
    """Workers that compute a part as soon as the driver waits, or die of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: int) -> None:
        import ray

        self.nodes = {str(number): TWO for number in range(nodes)}
        self.actors: list[FakeActor] = []
        self.deadly: Counter[int] = Counter()  # how many actors a part will still kill
        self.most = 0  # parts that one actor had at once
        self.after = lambda part: None
        monkeypatch.setattr(ray, "remote", self.remote)
        monkeypatch.setattr(ray, "kill", lambda actor: setattr(actor, "alive", False))
        monkeypatch.setattr(runner, "nodes", lambda: dict(self.nodes))
        monkeypatch.setattr(runner, "wait", self.wait)

    def remote(self, **_):
        def made(what):
            if isinstance(what, type):
                return SimpleNamespace(remote=lambda *_: FakeActor(self))
            return SimpleNamespace(remote=lambda _, part, **__: part)

        return made

    def wait(self, _, **__):
        for actor in self.actors:
            if actor.alive and actor.calls:
                self.most = max(self.most, len(actor.calls))
                return actor.step(), None
        return set(), None


class FakeActor:
    def __init__(self, ray: FakeRay) -> None:
        self.ray, self.alive, self.calls = ray, True, []
        self.load = SimpleNamespace(remote=lambda: None)
        self.compute = SimpleNamespace(remote=self.begin)
        ray.actors.append(self)

    def begin(self, part: int, _photos: object):
        self.calls.append((part, Future()))
        return SimpleNamespace(future=lambda: self.calls[-1][1])

    def die(self) -> set[Future]:
        from ray.exceptions import ActorDiedError

        self.alive = False
        for _, future in self.calls:
            future.set_exception(ActorDiedError())
        return {future for _, future in self.calls}

    def step(self) -> set[Future]:
        part = self.calls[0][0]
        if self.ray.deadly[part]:
            self.ray.deadly[part] -= 1
            return self.die()
        future = self.calls.pop(0)[1]
        future.set_result(PartInfo(part, 1))
        self.ray.after(part)
        return {future}


def workers(count: int, parts: int) -> Actors:
    model = ModelOptions(
        "m", None, None, "cpu", "auto", None, None, None, "center", True, None, True
    )
    job = Job("out", None, model, Extraction())
    return Actors(job, "/out", None, Pool(count, 2, 0), range(parts))


def numbers(found) -> list[int]:
    return sorted(info.part for info in found)


def test_a_part_whose_worker_dies_is_given_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(monkeypatch, 2)
    fake.deadly[3] = 7
    assert numbers(workers(2, 9).computed()) == list(range(9))
    assert len(fake.actors) == 2 + 7
    assert not any(actor.alive for actor in fake.actors)
    assert fake.most == 2


def test_a_part_that_kills_worker_after_worker_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeRay(monkeypatch, 2)
    fake.deadly[3] = 8
    with pytest.raises(ResnestError, match=r"/out/part-00003\.parquet: 8 workers have died"):
        list(workers(2, 9).computed())
    assert not any(actor.alive for actor in fake.actors)


def test_a_lost_node_is_done_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRay(monkeypatch, 2)

    done = []

    def lose(part: int) -> None:
        done.append(part)
        if len(done) == 3:
            fake.deadly[next(n for n in range(9) if n not in done)] = 1  # it takes its actor along
        if len(done) == 5:  # by now it is known why
            fake.nodes.popitem()

    fake.after = lose
    assert numbers(workers(2, 9).computed()) == list(range(9))
    assert len(fake.actors) == 3
    assert [actor.alive for actor in fake.actors].count(True) == 0
    assert "A node is gone: going on without it." in capsys.readouterr().err


def test_where_no_worker_has_room_the_round_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(monkeypatch, 1)
    fake.after = lambda _: fake.nodes.update({"0": {"CPU": 1.0}})
    with pytest.raises(NodesLostError):
        list(workers(1, 2).computed())
