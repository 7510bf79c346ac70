"""The sections of `tests.benchmarks.gpu`, each a function that says what it measures."""

import copy
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import ResNet
from torch import Tensor, nn

from resnest_cli import Classifier
from resnest_cli.benchmark.timing import synchronise
from resnest_cli.cpu import usable_cores
from resnest_cli.images.gpu import DevicePreparation
from resnest_cli.images.pool import Decoders
from resnest_cli.inference.photos import as_sources
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model import checkpoint
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.model.variants import Preprocessing, get_variant
from resnest_cli.training import state
from resnest_cli.training.loader import Batch
from resnest_cli.training.settings import Config
from resnest_cli.training.step import Stepper
from tests.benchmarks.gpu import ROOT, Bench, jpegs, machine, scratch
from tests.gpu.parity import NAMES, differences
from tests.networks import TINY, lively

Run = Callable[[Tensor], Any]

LAYOUTS = {False: torch.contiguous_format, True: torch.channels_last}
HALF = "bfloat16"
_CLASSES = 1000


def both(bench: Bench) -> tuple[ResNeSt, nn.Module]:
    """Ours and timm's with the same weights."""
    if not bench.tiny:
        ours = lively("resnest50d").eval()
        theirs = timm.create_model("resnest50d")
    else:
        ours = lively(TINY, num_classes=_CLASSES).eval()
        theirs = ResNet(
            ResNestBottleneck, list(TINY.blocks), num_classes=_CLASSES, stem_type="deep",
            stem_width=8, avg_down=True, base_width=32, cardinality=2, channels=TINY.widths,
            block_args={"radix": 2, "avd": True, "avd_first": True},
        )  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.eval()


def noise(bench: Bench, count: int, *, last: bool = True, dtype: Any = torch.float32) -> Tensor:
    """Photos on the device."""
    photos = torch.randn(count, 3, bench.size, bench.size, device=bench.device, dtype=dtype)
    return photos.contiguous(memory_format=LAYOUTS[last])


def rate(bench: Bench, run: Run, photos: list[Tensor]) -> dict[str, Any]:
    """Photos a second of `run`, which need not wait for the device, and its memory."""
    count, places = len(photos[0]), cycle(photos)
    if bench.on_card:
        torch.cuda.reset_peak_memory_stats()

    def block(runs: int) -> float:
        synchronise(bench.device)
        begin = time.perf_counter()
        for _ in range(runs):
            run(next(places))
        synchronise(bench.device)
        return time.perf_counter() - begin

    block(3)
    runs = max(1, round((0.02 if bench.tiny else 0.3) / max(1e-6, block(3) / 3)))
    found = median(block(runs) for _ in range(3))
    values: dict[str, Any] = {"batch": count, "photos_per_second": runs * count / found}
    if bench.on_card:
        values["memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return values


# The network


def parity(bench: Bench) -> None:
    """Largest differences of logits from the CPU's in float32, as shares of the largest logit."""
    bench.say("machine", **machine(bench.device))
    for name in NAMES:
        bench.run(name, 15, lambda name=name: differences(name, bench.device))


def plain(bench: Bench, network: nn.Module, *, last: bool, amp: str = "off") -> Run:
    """The network as it is, under torch's autocast."""
    moved = copy.deepcopy(network).to(bench.device, memory_format=LAYOUTS[last])
    return _under(bench, moved, amp)


def _under(bench: Bench, run: Run, amp: str) -> Run:
    dtype = torch.bfloat16 if amp == "off" else getattr(torch, amp)

    def under(photos: Tensor) -> None:
        with torch.inference_mode(), torch.autocast(bench.device, dtype, enabled=amp != "off"):
            run(photos)

    return under


def of_engine(engine: TorchEngine) -> Run:
    """What an engine runs for photos that are on the device, in its precision and layout."""
    network, fixed = engine._runner("logits"), engine._fixed

    def run(photos: Tensor) -> None:
        with torch.inference_mode(), engine.autocast():
            network(photos) if fixed is None else fixed("logits", network, photos)

    return run


def compiled_timm(bench: Bench, network: nn.Module, amp: str) -> Run:
    """As timm's own benchmark does with --torchcompile inductor --amp --channels-last."""
    moved = copy.deepcopy(network).to(bench.device, memory_format=torch.channels_last)
    return _under(bench, torch.compile(moved, dynamic=False), amp)


def network(bench: Bench) -> None:
    """Everything but what has to be compiled, for all batches; then that, for the largest."""
    ours, theirs = both(bench)
    half = torch.bfloat16
    cases: list[tuple[str, Callable[[], Run], bool, torch.dtype]] = [
        ("timm eager", lambda: plain(bench, theirs, last=False), False, torch.float32),
        ("ours eager", lambda: plain(bench, ours, last=False), False, torch.float32),
        ("ours channels last", lambda: plain(bench, ours, last=True), True, torch.float32),
        ("ours folded", lambda: of_engine(TorchEngine(ours, bench.device)), True, torch.float32),
        ("timm bfloat16, channels last", lambda: plain(bench, theirs, last=True, amp=HALF), True,
         torch.float32),
        ("ours bfloat16", lambda: of_engine(TorchEngine(ours, bench.device, amp=HALF)), True, half),
    ]  # fmt: skip
    for name, make, last, dtype in cases:
        run = make()
        for batch in bench.batches:
            photos = [noise(bench, batch, last=last, dtype=dtype) for _ in range(2)]
            bench.run(name, 5, partial(rate, bench, run, photos))
    if bench.on_card:
        for amp, dtype in (("off", torch.float32), (HALF, half)):
            for batch in bench.batches:
                measure = partial(_graphs, bench, ours, amp, batch, dtype)
                bench.run(f"ours graphs, {_said(amp)}", 5, measure)
    for amp in (HALF, "off"):
        _compiled_pair(bench, ours, theirs, bench.batches[-1], amp)


def _said(amp: str) -> str:
    return "float32" if amp == "off" else amp


def _graphs(bench: Bench, ours: ResNeSt, amp: Any, batch: int, dtype: Any) -> dict[str, Any]:
    engine = TorchEngine(ours, bench.device, amp=amp, graphs=True)
    return rate(bench, of_engine(engine), [noise(bench, batch, dtype=dtype) for _ in range(2)])


def _compiled_pair(bench: Bench, ours: ResNeSt, theirs: nn.Module, batch: int, amp: Any) -> None:
    """Compiled, timm's and ours; the first is what ours has to beat."""
    dtype = torch.float32 if amp == "off" else torch.bfloat16

    def mine() -> dict[str, Any]:
        engine = TorchEngine(ours, bench.device, amp=amp, compiled=True)
        return rate(bench, of_engine(engine), [noise(bench, batch, dtype=dtype) for _ in range(2)])

    def timms() -> dict[str, Any]:
        run = compiled_timm(bench, theirs, amp)
        return rate(bench, run, [noise(bench, batch) for _ in range(2)])

    bench.run(f"timm compiled, {_said(amp)}", 30, timms)
    bench.run(f"ours compiled, {_said(amp)}", 30, mine)
    torch.compiler.reset()


def more(bench: Bench) -> None:
    """What is worth knowing when all else is known."""
    for channels, side in ((16, 8),) if bench.tiny else ((64, 56), (128, 28), (256, 14), (512, 7)):
        case = f"two groups, {channels} channels, {side} x {side}"
        bench.run(case, 3, partial(_grouped, bench, channels, side))
    ours, theirs = both(bench)
    largest, *others = reversed(bench.batches)
    for batch in others[:1] if bench.tiny else others:
        _compiled_pair(bench, ours, theirs, batch, HALF)
    torch.backends.cudnn.benchmark = True
    if bench.on_card:
        for batch in (1, largest):
            name = "ours graphs, bfloat16, cuDNN search"
            bench.run(name, 10, partial(_graphs, bench, ours, HALF, batch, torch.bfloat16))
    run = plain(bench, theirs, last=True, amp=HALF)
    photos = [noise(bench, largest) for _ in range(2)]
    bench.run("timm bfloat16, channels last, cuDNN search", 10, partial(rate, bench, run, photos))
    if bench.on_card:
        bench.run(
            "ours compiled, bfloat16, max-autotune", 90, partial(_tuned, bench, ours, largest)
        )


def _grouped(bench: Bench, channels: int, side: int) -> dict[str, Any]:
    """The 3x3 convolution of a split attention as one of two groups, in both layouts, and as two.

    Photos a second of that layer alone, in half precision: whether splitting it would pay.
    """
    count, how = bench.batches[-1], {"device": bench.device, "dtype": torch.bfloat16}
    x, weight = (
        torch.randn(shape, **how)
        for shape in ((count, channels, side, side), (2 * channels, channels // 2, 3, 3))
    )

    def grouped(last: bool) -> float:
        maps, kernel = (t.contiguous(memory_format=LAYOUTS[last]) for t in (x, weight))
        run = partial(F.conv2d, weight=kernel, padding=1, groups=2)
        return float(rate(bench, run, [maps])["photos_per_second"])

    halves = [
        tuple(half.contiguous(memory_format=torch.channels_last) for half in t)
        for t in zip(x.chunk(2, dim=1), weight.chunk(2), strict=True)
    ]

    def apart(_: Tensor) -> None:
        for maps, kernel in halves:
            F.conv2d(maps, kernel, padding=1)

    return {
        "nchw": grouped(False),
        "channels_last": grouped(True),
        "two": float(rate(bench, apart, [x])["photos_per_second"]),
    }


def _tuned(bench: Bench, ours: ResNeSt, batch: int) -> dict[str, Any]:
    """With kernels that the compiler generates for convolutions as well, and picks by trying."""
    engine = TorchEngine(ours, bench.device, amp=HALF)
    run = torch.compile(engine.network, dynamic=False, mode="max-autotune")
    photos = [noise(bench, batch, dtype=torch.bfloat16) for _ in range(2)]
    return rate(bench, _under(bench, run, HALF), photos)


# Files


def files(bench: Bench) -> None:
    """JPEGs to records, as `predict` makes them, in batches of the largest size."""
    counts = (8, 4, 16) if bench.tiny else (384, 128, 2048)
    with scratch() as folder:
        work, (ours, _) = Path(folder), both(bench)
        model = work / "model.safetensors"
        variant = ours.variant if not bench.tiny else replace(TINY, preprocessing=Preprocessing(64))
        checkpoint.save(model, ours, CheckpointInfo(variant=variant))
        kinds = {
            "500 x 375": jpegs(work / "small", counts[0], 500, 375),
            "2000 x 1500": jpegs(work / "large", counts[1], 2000, 1500),
        }
        amp = HALF if bench.on_card else "off"
        for kind, paths in kinds.items():
            total = counts[2] if kind == "500 x 375" else 2 * len(paths)
            names = list(map(str, islice(cycle(paths), total)))
            for way in ({}, {"fast_decode": True}, {"gpu_decode": True}):
                title = f"{kind}, decoded by {next(iter(way), 'the CPU')}"
                bench.run(title, 20, partial(_records, bench, model, names, way, amp))
        command = [sys.executable, "-m", "resnest_cli", "features", str(work / "small"), "-q"]
        command += ["-m", str(model), "--device", bench.device, "-b", str(bench.batches[-1])]
        bench.run(
            "resnest features, whole process", 25, partial(_process, command, work, counts[0])
        )


def _records(
    bench: Bench, model: Path, names: list[str], way: dict[str, bool], amp: Any
) -> dict[str, Any]:
    """Photos a second, and as a share of the network's alone."""
    on_card = bench.on_card
    given = way if on_card or "gpu_decode" not in way else {}
    classifier = Classifier(
        str(model), device=bench.device, engine="torch", amp=amp, graphs=on_card, **given
    )
    if given != way:  # the CPU stands for the GPU
        classifier.preparation = DevicePreparation(classifier.preprocessing, device="cpu")
    batch, cores = bench.batches[-1], usable_cores()
    engine = classifier.engine
    assert isinstance(engine, TorchEngine)
    photos = [noise(bench, batch, dtype=engine._dtype) for _ in range(2)]
    alone = rate(bench, of_engine(engine), photos)["photos_per_second"]
    with ExitStack() as stack:
        decoders = None if "gpu_decode" in way else stack.enter_context(Decoders(cores))
        how: dict[str, Any] = {"batch_size": batch, "workers": cores, "decoders": decoders}

        def seconds(paths: list[str]) -> float:
            begin = time.perf_counter()
            failed = sum(r.error is not None for r in classifier.records(as_sources(paths), **how))
            assert not failed
            return time.perf_counter() - begin

        seconds(names[: 2 * batch])  # starts the decoders
        found = len(names) / seconds(names)
    return {"photos_per_second": found, "network": alone, "of_network": found / alone}


def _process(command: list[str], work: Path, count: int) -> dict[str, Any]:
    begin = time.perf_counter()
    subprocess.run([*command, "-o", str(work / "f.npy")], cwd=ROOT, check=True)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "photos": count}


# Training


def step(bench: Bench) -> None:
    """A step from photos in pinned memory; ours waits for its loss, as `resnest train` does."""
    ours, theirs = both(bench)
    count = 4 if bench.tiny else 128
    photos = torch.randn(count, 3, bench.size, bench.size)
    labels = torch.arange(count) % _CLASSES
    if bench.on_card:
        photos, labels = photos.pin_memory(), labels.pin_memory()
    ways = [("off", False), ("off", True), (HALF, True)]
    ways += [("float16", True)] if bench.on_card else []
    for amp, last in ways:
        name = f"{_said(amp)}, {'channels last' if last else 'NCHW'}"
        for side, make in (("timm", _timm_step), ("ours", _our_step)):
            network = theirs if side == "timm" else ours
            measure = partial(_steps, bench, make, network, amp, last, photos, labels)
            bench.run(f"{side} {name}", 7, measure)


def _steps(bench: Bench, make: Any, network: nn.Module, *how: Any) -> dict[str, Any]:
    *_, photos, _ = how
    return rate(bench, make(bench, copy.deepcopy(network).train(), *how), [photos])


def _our_step(
    bench: Bench, network: ResNeSt, amp: Any, last: bool, photos: Tensor, labels: Tensor
) -> Run:
    config = Config(
        command="train", data="data", model="resnest50d", recipe="quick", img_size=bench.size,
        epochs=1, batch_size=len(photos), opt="sgd", lr=1e-3, smoothing=0.1, mixup=0.0, cutmix=0.0,
        freeze="none", device=bench.device, channels_last=last, amp=amp, seed=0, clip_grad=0.0,
    )  # fmt: skip
    stepper = Stepper(config, network, _CLASSES)
    batch = Batch(photos, labels, list(range(len(photos))))

    def run(_: Tensor) -> None:
        stepper.add_gradient(batch, 0, 0, last=True)
        stepper.step(1e-3)

    return run


def _timm_step(
    bench: Bench, network: nn.Module, amp: str, last: bool, photos: Tensor, labels: Tensor
) -> Run:
    device = bench.device
    network = network.to(device, memory_format=LAYOUTS[last])
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, nesterov=True)
    scaler = torch.amp.GradScaler(device, enabled=amp == "float16")
    half = torch.bfloat16 if amp == "off" else getattr(torch, amp)

    def run(_: Tensor) -> None:
        moved = photos.to(device, non_blocking=True).contiguous(memory_format=LAYOUTS[last])
        wanted = labels.to(device, non_blocking=True)
        with torch.autocast(device, half) if amp != "off" else nullcontext():
            loss = F.cross_entropy(network(moved), wanted, label_smoothing=0.1)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return run


def run(bench: Bench) -> None:
    """`resnest finetune` undisturbed, then killed at half and resumed: seconds, and the bytes."""
    with scratch() as folder:
        work = Path(folder)
        ours, _ = both(bench)
        variant = TINY if bench.tiny else get_variant("resnest50d")
        sized = replace(variant, preprocessing=Preprocessing(48 if bench.tiny else 128))
        checkpoint.save(work / "model.safetensors", ours, CheckpointInfo(variant=sized))
        for number in range(4):
            count = 6 if bench.tiny else 256
            jpegs(work / "data" / f"class{number}", count, 200, 150, first=count * number)
        bench.run("killed and resumed", 60, partial(_killed, bench, work))


def _killed(bench: Bench, work: Path) -> dict[str, Any]:
    def command(name: str) -> list[str]:
        return [
            sys.executable, "-m", "resnest_cli", "finetune", str(work / "data"), "-q", "--model",
            str(work / "model.safetensors"), "--freeze", "none", "--device", bench.device,
            "--epochs", "2" if bench.tiny else "8", "-b", "8" if bench.tiny else "64",
            "--amp", HALF if bench.on_card else "off", "--save-every", "0.5", "-j",
            "1" if bench.tiny else "8", "--output", str(work / "runs"), "--run", name,
            "--mixup", "0.2",
        ]  # fmt: skip

    def timed(arguments: list[str]) -> float:
        begin = time.perf_counter()
        subprocess.run(arguments, cwd=ROOT, check=True)
        return time.perf_counter() - begin

    undisturbed = timed(command("quiet"))
    folder = work / "runs" / "finetune" / "killed"
    with _started(command("killed")) as process:
        begin = time.perf_counter()
        while process.poll() is None:
            there = state.states(folder / "resume")
            if there and time.perf_counter() - begin > undisturbed / 2:
                break
            time.sleep(0.02)
    resumed = timed([*command("killed"), "--resume"])
    files = [
        {path.name: path.read_bytes() for path in (at / "weights").iterdir()}
        for at in (folder, folder.with_name("quiet"))
    ]
    with (folder.with_name("quiet") / "results.csv").open(encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    return {
        "killed": process.returncode == -signal.SIGKILL,
        "same_bytes": files[0] == files[1],
        "undisturbed_s": undisturbed,
        "resumed_s": resumed,
        "photos_per_second": float(last["photos_per_second"]),
    }


@contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at the end, with all of its own."""
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
