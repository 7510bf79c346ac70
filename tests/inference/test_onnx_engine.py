"""The ONNX engine and its cache: whatever happens to the cache, the answer is right."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resnest_cli import files, paths
from resnest_cli.errors import CheckpointError, EngineError, UsageError
from resnest_cli.inference import engine, onnx_cache, onnx_engine
from resnest_cli.inference.engine import create_engine
from resnest_cli.model.checkpoint import save
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.loading import Model, find_model
from resnest_cli.model.resnest import build
from resnest_cli.model.variants import Preprocessing
from tests.networks import TINY, enliven

PHOTOS = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TORCH_HOME", "HF_HOME", "RESNEST_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setattr(engine, "_DRIVERS", ())
    return tmp_path / "resnest_home"


def write(path: Path, seed: int = 0) -> Path:
    network = enliven(build(TINY, num_classes=5), seed)
    size = Preprocessing(PHOTOS.shape[-1])
    info = CheckpointInfo(variant=replace(TINY, preprocessing=size), class_names=tuple("abcde"))
    save(path, network, info)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return find_model(str(write(tmp_path / "own.safetensors")))


def truth(model: Model) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model.network()(torch.from_numpy(PHOTOS)).numpy()


def right(model: Model) -> bool:
    """Whether a new engine for the model says what torch says."""
    found = onnx_engine.create(model).logits(PHOTOS)
    return bool(np.abs(found - truth(model)).max() < 1e-5)


def stored() -> list[Path]:
    return sorted(onnx_cache.folder().glob("*.ort"))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """What was built: the path, or None for a session in memory."""
    made: list[Path | None] = []
    real = onnx_engine.optimised

    def counting(graph, path=None, size=None):
        made.append(path)
        return real(graph, path, size)

    monkeypatch.setattr(onnx_engine, "optimised", counting)
    return made


def test_it_is_compiled_once(model: Model, builds: list) -> None:
    assert right(model)
    assert len(builds) == 1
    assert [path.suffix for path in sorted(onnx_cache.folder().iterdir())] == [".json", ".ort"]
    assert right(model)
    assert right(find_model(model.name))
    assert len(builds) == 1


def test_other_weights_under_the_same_name_are_compiled_anew(model: Model, builds: list) -> None:
    before = truth(model)
    assert right(model)
    write(model.path, seed=1)
    again = find_model(model.name)
    assert np.abs(truth(again) - before).max() > 0.01
    assert right(again)
    assert len(stored()) == 2
    os.utime(model.path)  # only touched: hashed again, not compiled
    assert right(again)
    assert len(builds) == 2


def test_what_decides_the_content_is_in_the_key(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(
        found: Model = model,
        outputs: tuple[str, ...] = ("logits",),
        runtime: str = "1",
        size: int | None = None,
    ) -> str:
        return onnx_cache.entry_for(found, outputs, runtime, size).path.stem

    other = replace(model, variant=TINY.overridden({"avd_first": not TINY.avd_first}))
    keys = {key(), key(other), key(outputs=("logits", "features")), key(runtime="2"), key(size=32)}
    for name, value in (
        ("__version__", "9"), ("GRAPH_VERSION", 99), ("cpu_features", lambda: "another")
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(onnx_cache, name, value)
            keys.add(key())
    assert len(keys) == 8
    assert key() in keys


def test_photos_of_other_sizes_share_a_second_compiled_model(model: Model, builds: list) -> None:
    found = onnx_engine.create(model)
    network = model.network()
    for shape in ((2, 3, 32, 32), (1, 3, 47, 47), (3, 3, 40, 65), (1, 3, 32, 31), (1, 3, 32, 32)):
        photos = np.random.default_rng(2).standard_normal(shape, np.float32)
        with torch.inference_mode():
            want = network(torch.from_numpy(photos)).numpy()
        assert np.abs(found.logits(photos) - want).max() < 1e-5
    assert len(builds) == len(stored()) == 2
    for name in ("features", "map2"):
        with torch.inference_mode():
            (want,) = network.forward_intermediates(torch.from_numpy(photos), [2])
        got = found.output(photos, name)
        assert name == "features" or np.abs(got - want.numpy()).max() < 1e-5
    assert len(builds) == 4


def test_classifiers_compile_for_the_size_that_they_use(model: Model, builds: list) -> None:
    from resnest_cli import Classifier

    photo = np.zeros((60, 60, 3), np.uint8)
    for size in (None, 32, 48):
        assert Classifier(model.name, img_size=size).logits(photo).shape == (1, 5)
    assert len(builds) == len(stored()) == 2


def test_two_variants_of_one_file_of_weights(model: Model) -> None:
    other = replace(model, variant=TINY.overridden({"avd_first": not TINY.avd_first}))
    first = onnx_engine.create(model).logits(PHOTOS)
    second = onnx_engine.create(other).logits(PHOTOS)
    assert np.abs(first - second).max() > 1e-3
    assert len(stored()) == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def garbage_with_its_hash(path: Path) -> None:
    """What only the runtime can tell."""
    path.write_bytes(b"garbage" * 1000)
    note = json.loads(path.with_suffix(".json").read_text())
    note["checksum"] = onnx_cache.checksum(path)
    path.with_suffix(".json").write_text(json.dumps(note))


def half_with_its_hash(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    whole = path.read_bytes()
    garbage_with_its_hash(path)
    path.write_bytes(whole)
    note = json.loads(path.with_suffix(".json").read_text())
    note["checksum"] = onnx_cache.checksum(path)
    path.with_suffix(".json").write_text(json.dumps(note))


def flip_in_silence(path: Path) -> None:
    """As bits rot: size, time and inode stay."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "a bit that rots": flip_in_silence,
    "open to others": lambda path: path.chmod(0o666),
    "its note open to others": lambda path: path.with_suffix(".json").chmod(0o622),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage" * 1000),
    "gone": lambda path: path.unlink(),
    "no note": lambda path: path.with_suffix(".json").unlink(),
    "note cut": lambda path: path.with_suffix(".json").write_text('{"origin": '),
    "note of another kind": lambda path: path.with_suffix(".json").write_text("[1]"),
    "garbage with its hash": garbage_with_its_hash,
    "half with its hash": half_with_its_hash,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_mended(model: Model, builds: list, damage: str) -> None:
    assert right(model)
    (path,) = stored()
    DAMAGE[damage](path)
    assert right(model)
    assert len(builds) == 2
    assert right(model)
    assert len(builds) == 2


def test_compiled_models_are_private(
    model: Model, builds: list[Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert right(model)
    assert onnx_cache.folder().stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in onnx_cache.folder().iterdir()} == {0o600}
    onnx_cache.folder().chmod(0o775)  # as the umask had it in earlier versions
    assert right(model)
    assert len(builds) == 1
    assert onnx_cache.folder().stat().st_mode & 0o777 == 0o700
    (path,) = stored()
    moved = path.with_name("elsewhere")
    path.rename(moved)
    path.symlink_to(moved)
    assert right(model)
    assert not path.is_symlink()
    made = len(builds)
    monkeypatch.setattr(files, "distrust", lambda _: "belongs to another user")
    monkeypatch.setattr(paths, "distrust", lambda _: "belongs to another user")
    assert right(model)
    assert builds[made:] == [None]  # from memory


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 10_000])
def test_checksums_see_every_bit(tmp_path: Path, size: int) -> None:
    path, content = tmp_path / "x", np.random.default_rng(0).bytes(size)
    path.write_bytes(content)
    seen = {onnx_cache.checksum(path)}
    for place in range(0, size, 997):
        path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
        seen.add(onnx_cache.checksum(path))
    path.write_bytes(content + b"\0")
    seen.add(onnx_cache.checksum(path))
    path.write_bytes(content[4096:8192] + content[:4096] + content[8192:])  # pages that swap
    seen.add(onnx_cache.checksum(path))
    assert len(seen) == len(range(0, size, 997)) + 2 + (size > 4096)


def test_another_model_under_the_key(tmp_path: Path, model: Model, builds: list) -> None:
    other = find_model(str(write(tmp_path / "other.safetensors", seed=1)))
    assert right(model)
    (path,) = stored()
    assert right(other)
    (foreign,) = set(stored()) - {path}
    path.write_bytes(foreign.read_bytes())
    assert right(model)
    path.write_bytes(foreign.read_bytes())
    path.with_suffix(".json").write_bytes(foreign.with_suffix(".json").read_bytes())
    assert right(model)
    assert len(builds) == 4


def test_where_nothing_can_be_stored_it_runs_from_memory(
    home: Path, model: Model, builds: list
) -> None:
    home.mkdir(exist_ok=True)
    (home / "compiled").write_text("in the way")
    assert right(model)
    assert builds == [None]
    assert not onnx_engine.compile_model(model)


LIMITED = """
import resource, sys
import numpy as np
from resnest_cli.inference import onnx_engine
from resnest_cli.model.loading import find_model
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a disk that fills up
model = find_model(sys.argv[1])
np.save(sys.stdout.buffer, onnx_engine.create(model).logits(np.load(sys.argv[2])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind")
def test_a_full_disk(tmp_path: Path, model: Model) -> None:
    np.save(tmp_path / "photos.npy", PHOTOS)
    command = [sys.executable, "-c", LIMITED, model.name, str(tmp_path / "photos.npy")]
    done = subprocess.run(command, capture_output=True, check=True)
    (tmp_path / "logits.npy").write_bytes(done.stdout)
    assert np.abs(np.load(tmp_path / "logits.npy") - truth(model)).max() < 1e-5
    assert not stored()
    assert not list(onnx_cache.folder().glob("*.tmp"))


def test_weights_replaced_while_they_are_compiled_are_not_stored(
    model: Model, builds: list
) -> None:
    entry = onnx_cache.entry_for(model, ("logits",), "x")
    compilation = onnx_engine._Compilation(model, "logits")
    compilation.entry = entry
    write(model.path, seed=1)
    assert not onnx_cache.obtain(entry, compilation.write)
    assert not stored()
    assert builds == []


def test_memory_and_file_give_the_same_bits_whatever_the_threads(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the threads see `Fingerprint`; a network of full width, as small ones are not split."""
    network = enliven(build("resnest14d"))
    path = model.path.with_name("14.safetensors")
    info = CheckpointInfo(variant=replace(network.variant, preprocessing=Preprocessing(96)))
    save(path, network, info)
    large = find_model(str(path))
    photos = np.random.default_rng(1).standard_normal((2, 3, 96, 96), np.float32)
    want = onnx_engine.create(large).logits(photos)
    for threads in (1, 2, 3):
        monkeypatch.setattr(onnx_engine, "usable_cores", lambda threads=threads: threads)
        assert (onnx_engine.create(large).logits(photos) == want).all()
        compilation = onnx_engine._Compilation(large, "logits")
        assert (compilation.in_memory().logits(photos) == want).all()


TWO = """
import sys
import numpy as np
from resnest_cli.inference import onnx_engine
from resnest_cli.model.loading import find_model
logits = onnx_engine.create(find_model(sys.argv[1])).logits(np.load(sys.argv[2]))
np.save(sys.stdout.buffer, logits)
"""


def test_several_processes_at_once(tmp_path: Path, model: Model) -> None:
    np.save(tmp_path / "photos.npy", PHOTOS)
    command = [sys.executable, "-c", TWO, model.name, str(tmp_path / "photos.npy")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    answers = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(set(answers)) == 1
    assert len(stored()) == 1
    assert onnx_cache.is_good(onnx_engine._Compilation(model, "logits").entry)


def test_the_least_recently_used_goes_when_they_grow_too_large(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert right(model)
    (first,) = stored()
    monkeypatch.setattr(onnx_cache, "LIMIT", int(2.5 * first.stat().st_size))
    others = [find_model(str(write(tmp_path / f"{n}.safetensors", n))) for n in (1, 2)]
    assert right(others[0])
    (second,) = set(stored()) - {first}
    os.utime(first.with_suffix(".json"), (0, 0))
    assert right(model)  # used: it counts as new again
    os.utime(second.with_suffix(".json"), (1e9, 1e9))
    assert right(others[1])
    assert first in stored()
    assert second not in stored()
    assert len(stored()) == 2


def test_unusable_weights_are_told_as_torch_tells_them(model: Model) -> None:
    network = enliven(build(TINY, num_classes=5))
    tensors = {n: t for n, t in network.state_dict().items() if n != "layer2.1.bn3.weight"}
    import safetensors.torch

    path = model.path.with_name("short.safetensors")
    safetensors.torch.save_file(tensors, path)
    from resnest_cli.model import checkpoint

    short = replace(model, path=path, load=lambda: checkpoint.load(path, variant=TINY))
    with pytest.raises(CheckpointError, match=r"lacks layer2\.1\.bn3\.weight"):
        onnx_engine.create(short)
    assert not list(onnx_cache.folder().glob("*.tmp"))


# The choice between the engines


def test_auto_is_onnx_on_a_cpu_and_torch_where_torch_has_an_accelerator(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert create_engine(model).name == "onnx"
    assert create_engine(model, "cpu").name == "onnx"
    assert create_engine(model, "cpu", "torch").name == "torch"
    assert create_engine(model, "auto", "onnx").name == "onnx"
    monkeypatch.setattr(engine, "_DRIVERS", ("/",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert create_engine(model).name == "onnx"  # a driver, but torch sees nothing
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert engine.accelerator_likely() == (sys.platform != "win32")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert engine.accelerator_likely() == (sys.platform == "darwin")


def test_onnx_on_a_gpu_is_a_usage_error() -> None:
    for device in ("cuda", "cuda:1", "mps"):
        with pytest.raises(UsageError, match="runs on the CPU"):
            engine.check_engine_name("onnx", device)
    with pytest.raises(UsageError, match="unknown engine"):
        engine.check_engine_name("tensorrt", "cpu")


@pytest.mark.parametrize("missing", ["onnxruntime", "onnx"])
def test_torch_serves_where_a_library_is_missing(
    model: Model, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [name for name in sys.modules if "inference.onnx_" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("resnest_cli.inference.onnx_engine", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    said: list[str] = []
    found = create_engine(model, notify=said.append)
    assert found.name == "torch"
    assert np.abs(found.logits(PHOTOS) - truth(model)).max() < 1e-6
    assert f"pip install {missing}" in said[0]
    with pytest.raises(EngineError, match=f"pip install {missing}"):
        create_engine(model, "cpu", "onnx")


def test_a_compiled_model_needs_no_onnx(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert right(model)
    for name in [name for name in sys.modules if "inference.onnx_graph" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert right(model)


def test_fingerprints(model: Model) -> None:
    ours, theirs = create_engine(model), create_engine(model, "cpu", "torch")
    assert ours.fingerprint(8) == create_engine(model).fingerprint(8)
    assert len({e.fingerprint(n) for e in (ours, theirs) for n in (1, 8)}) == 4
    assert ours.fingerprint(8).precision == theirs.fingerprint(8).precision == "float32"
