"""How many workers fit on a cluster, and what Ray's errors are wrapped in."""

import pytest

from resnest_cli.errors import CheckpointError, ResnestError, UnknownModelError, UsageError
from resnest_cli.jobs.ray_cluster import Pool, ours, pool_for

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
    text = "The actor died\n  File x\nresnest_cli.errors.CheckpointError: x.pth: is damaged.\n"
    found = ours(RuntimeError(text))
    assert isinstance(found, CheckpointError)
    assert str(found) == "x.pth: is damaged."
    assert str(ours(ValueError("many lines\n\nthe gist"))) == "Ray: the gist"
