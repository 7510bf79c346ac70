"""What is timed: a network with weights, on each engine that was asked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.benchmark.benchmark import BenchmarkJob
from resnest_cli.cpu import usable_cores
from resnest_cli.errors import EngineError, OfflineError, UsageError
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.engine import check_device_name, check_engine_name
from resnest_cli.model.loading import find_model
from resnest_cli.model.names import find_named
from resnest_cli.model.variants import Variant
from resnest_cli.model.weights import Access
from resnest_cli.progress import Notify

if TYPE_CHECKING:
    from resnest_cli.options import EngineName

_SEED = 0


@contextmanager
def engines(
    job: BenchmarkJob, folder: Path, notify: Notify
) -> Iterator[tuple[list[Classifier], bool]]:
    """A classifier for each engine, and whether its weights are drawn, not learned.

    Published weights that are not on this machine are not fetched: a network with others takes as
    long. Drawn ones, and what is compiled of them, lie in `folder` and nowhere else.
    """
    check_device_name(job.device)
    if job.engine != "all":
        check_engine_name(job.engine, job.device)
    said: set[str] = set()

    def once(message: str) -> None:
        """Several classifiers say the same."""
        if message not in said:
            said.add(message)
            notify(message)

    try:
        model = find_model(job.model, access=Access(offline=True, notify=once))
        model.need_classifier()
    except OfflineError as error:
        variant = find_named(job.model)
        if variant is None:
            raise UsageError(
                f"{job.model} is not on this machine, and is not fetched to be timed. Run first: "
                f"resnest download {job.model}"
            ) from error
        once(
            f"The weights of {variant.id} are not on this machine: it is timed with random ones, "
            "which take as long."
        )
        with _home(folder):
            yield _engines(job, str(_drawn(variant, folder)), once), True
    else:
        if model.exported:
            raise UsageError(
                f"{model.name} is an exported network, whose stages cannot be timed. Give the "
                "checkpoint that it was exported from."
            )
        yield _engines(job, job.model, once), False


def threads(classifier: Classifier) -> int | None:
    """Threads of the CPU that its engine computes with; None on an accelerator."""
    if classifier.engine.name == "onnx":
        return usable_cores()
    if classifier.engine.device != "cpu":
        return None
    import torch

    return torch.get_num_threads()


def _engines(job: BenchmarkJob, model: str, notify: Notify) -> list[Classifier]:
    wanted: list[tuple[EngineName, str]] = [("torch", job.device)]
    if job.engine != "all":
        wanted = [(job.engine, job.device)]
    elif job.device in {"auto", "cpu"}:
        wanted = [("onnx", "cpu"), *wanted]
    found, access = [], Access(offline=True, notify=notify)
    for engine, device in wanted:
        try:
            made = Classifier(
                model, engine=engine, device=device, img_size=job.img_size, access=access
            )
            found.append(made)
        except EngineError as error:
            if job.engine != "all":
                raise
            notify(f"{error}\nThe onnx engine is left out.")
    return found


def _drawn(variant: Variant, folder: Path) -> Path:
    """A checkpoint of this variant with weights drawn from a fixed seed.

    As `model.resnest.init_weights` draws them, but for the last gamma of each block: it would be 0,
    and a processor may spend less on products with nothing but zeros.
    """
    import torch

    from resnest_cli.model import checkpoint
    from resnest_cli.model.resnest import Bottleneck, build

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_SEED)
        network = build(variant, num_classes=variant.num_classes)
        for module in network.modules():
            if isinstance(module, Bottleneck):
                module.bn3.weight.fill_(0.2)
    path = folder / f"{variant.id}.safetensors"
    checkpoint.save(path, network, checkpoint.CheckpointInfo(variant=variant))
    return path


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """Caches lie in `folder` meanwhile."""
    before = os.environ.get("RESNEST_HOME")
    os.environ["RESNEST_HOME"] = str(folder / "home")
    try:
        yield
    finally:
        if before is None:
            del os.environ["RESNEST_HOME"]
        else:
            os.environ["RESNEST_HOME"] = before
