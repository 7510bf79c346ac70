"""What all tests share: empty caches, a tiny network, photos, a local server, the command."""

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_cli.model import variants
from resnest_cli.model.variants import Variant
from tests.hub_server import HubServer
from tests.server import File, Server

# Before any test imports torch: tests side by side, and the commands that they start, would wait
# for each other's threads, which spin. With one thread each, two on two cores take half the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before any test imports ONNX Runtime, whose wheels send telemetry unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Whoever starts the tests in the background, or with nohup, has these ignored: so would commands.
for _number in (getattr(signal, name, None) for name in ("SIGINT", "SIGHUP")):
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        default = signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, default)

CLASSES = ("cat", "dog", "red fox", "teapot", "[bold]bracket")


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches below `tmp_path`; no settings and no proxy of this machine."""
    for name in ("TORCH_HOME", "HF_HOME", "RESNEST_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("MODEL", "DEVICE", "ENGINE", "MIRROR", "OFFLINE", "DEBUG"):
        monkeypatch.delenv(f"RESNEST_{name}", raising=False)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN",
                 "NO_COLOR", "COLUMNS"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # but for the tests of the hub: see `hub`
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub on this machine, which HF_ENDPOINT names; nobody is logged in."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    with HubServer() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url().rstrip("/"))
        yield running
    close_session()


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs `resnest ARGUMENTS...` in this process, through its error boundary."""
    from resnest_cli.app import main

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["resnest", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        printed = capfd.readouterr()
        code = end.value.code
        return Result(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without its pictures and report, which take as long as a few tiny epochs."""
    monkeypatch.setattr("resnest_cli.training.report._drawn", lambda *_: None)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of our format: five classes, lively weights, 48-pixel input."""
    from resnest_cli.model import checkpoint
    from resnest_cli.model.resnest import build
    from resnest_cli.model.variants import Preprocessing
    from tests.networks import TINY, enliven

    path = tmp_path_factory.mktemp("tiny") / "best.safetensors"
    variant = replace(TINY, preprocessing=Preprocessing(48, 0.9, "bicubic"))
    info = checkpoint.CheckpointInfo(
        variant=variant,
        class_names=CLASSES,
        metrics={"top1": 0.5},
    )
    checkpoint.save(path, enliven(build(variant, num_classes=5)), info)
    return path


@dataclass(frozen=True)
class Published:
    """A published variant whose weights are a seeded network of ours, on a local server."""

    variant: Variant
    data: bytes
    server: Server

    @property
    def path(self) -> str:
        assert self.variant.weights is not None
        return f"/{self.variant.weights.name}"

    def serve(self) -> None:
        self.server.files[self.path] = File(self.data)


@pytest.fixture(scope="session")
def seeded_weights() -> bytes:
    """What torch.save makes of a lively resnest14d: 43 MB."""
    import io

    import torch

    from tests.networks import lively

    buffer = io.BytesIO()
    torch.save(lively("resnest14d").state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture
def published(seeded_weights: bytes, server: Server, monkeypatch: pytest.MonkeyPatch) -> Published:
    """resnest14d, with its table entry turned to a file that the local server can serve."""
    digest = hashlib.sha256(seeded_weights).hexdigest()
    weights = variants.WeightsFile(f"gluon_resnest14-{digest[:8]}.pth", (server.url(),))
    hub = variants.HubModel("timm/resnest14d.gluon_in1k")  # whose real hash is not this one's
    variant = replace(variants.VARIANTS["resnest14d"], weights=weights, hub=hub)
    monkeypatch.setitem(variants.VARIANTS, variant.id, variant)
    for name in (variant.id, hub.name):
        monkeypatch.setitem(variants._BY_NAME, name, variant)
    monkeypatch.setattr("resnest_cli.model.weights.LABELS_URL", server.url("/labels.txt"))
    return Published(variant, seeded_weights, server)


def make_photo(path: Path, size: tuple[int, int] = (90, 60), seed: int = 0) -> Path:
    """A photo of smooth colours; another seed, another photo."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return make_photo(tmp_path / "photo.png")
