"""Answers on a GPU: near the CPU's, whichever way they are computed and photos are decoded."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnest_cli import Classifier
from resnest_cli.images import gpu
from resnest_cli.images.batches import Preparation
from resnest_cli.images.gpu import DevicePreparation
from resnest_cli.inference.torch_engine import BatchTooLargeError, TorchEngine
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.model.variants import Preprocessing
from tests.conftest import Cli
from tests.gpu.parity import NAMES, TOLERANCES, allow_tf32, differences, photos_of
from tests.networks import TINY, lively

CAT = Path(__file__).parents[1] / "data" / "cat.jpg"
SMALL = Preprocessing(64, 0.875, "bilinear")


@pytest.fixture(scope="module")
def network() -> ResNeSt:
    return lively(TINY, num_classes=5).eval()


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_the_cpus(name: str, device: str) -> None:
    found = differences(name, device)
    print(json.dumps({name: found}))
    for way, difference in found.items():
        assert difference <= TOLERANCES[way], found


def test_every_output_is_the_cpus(network: ResNeSt, device: str) -> None:
    allow_tf32(False)
    photos = photos_of(TINY, 3, 64)
    there, here = TorchEngine(network, device), TorchEngine(network, "cpu")
    for name in ("map0", "map1", "map2", "map3", "map4", "features", "features+logits"):
        wanted = here.output(photos, name)
        assert np.abs(there.output(photos, name) - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_the_same_photos_give_the_same_bytes(network: ResNeSt, device: str) -> None:
    photos = photos_of(TINY, 5, 64)
    engines = [TorchEngine(network, device, amp="bfloat16") for _ in range(2)]
    one, two, again = (engine.logits(photos) for engine in (*engines, engines[0]))
    assert one.tobytes() == two.tobytes() == again.tobytes()
    stacked = engines[0].stacked(list(photos))
    assert engines[0].logits(stacked).tobytes() == one.tobytes()


@pytest.mark.parametrize(
    ("way", "amp"), [("graphs", "off"), ("graphs", "bfloat16"), ("compiled", "bfloat16")]
)
def test_recorded_and_compiled(network: ResNeSt, card: str, way: str, amp: str) -> None:
    """In a thread of its own, as the commands run an engine."""
    told: list[str] = []
    plain = TorchEngine(network, card, amp=amp)
    quick = TorchEngine(network, card, amp=amp, notify=told.append, **{way: True})
    photos = photos_of(TINY, 8, 64)
    with ThreadPoolExecutor(1) as thread:
        for batch in (photos, photos[:3], photos[::-1].copy()):
            found = thread.submit(quick.logits, batch).result()
            wanted = plain.logits(batch)
            assert np.abs(found - wanted).max() <= 5e-2 * np.abs(wanted).max()
        features = thread.submit(quick.output, photos, "features").result()
    wanted = plain.output(photos, "features")
    assert np.abs(features - wanted).max() <= 5e-2 * np.abs(wanted).max()
    assert len(told) == (2 if way == "compiled" else 0)


def test_recorded_while_another_thread_uses_the_device(network: ResNeSt, card: str) -> None:
    """As photos are decoded there while the first batch is recorded."""
    busy = True

    def decode() -> int:
        count, stream = 0, torch.cuda.Stream()
        with torch.cuda.stream(stream):
            while busy:
                torch.full((3, 500 + count % 50, 400), 2.0, device=card).sum().item()
                count += 1
        return count

    photos = photos_of(TINY, 8, 64)
    wanted = TorchEngine(network, card).logits(photos)
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(decode)
        try:
            for _ in range(3):
                found = threads.submit(TorchEngine(network, card, graphs=True).logits, photos)
                np.testing.assert_allclose(found.result(), wanted, rtol=1e-2, atol=1e-2)
        finally:
            busy = False
        assert other.result() > 0


def test_a_batch_beyond_memory(network: ResNeSt, card: str) -> None:
    engine = TorchEngine(network, card)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.002)
    try:
        with pytest.raises(BatchTooLargeError, match="lower --batch-size"):
            engine.logits(photos_of(TINY, 512, 224))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.logits(photos_of(TINY, 2, 64)).shape == (2, 5)


# Photos


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    with Image.open(CAT) as image:
        image.convert(mode).resize((300, 200)).save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["RGB", "L", "turned", "bicubic", "progressive"])
def test_photos_decoded_there_are_nearly_the_same(device: str, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"turned": {"exif": exif}, "progressive": {"progressive": True}}.get(kind, {})
    config = Preprocessing(64, 0.875, "bicubic" if kind == "bicubic" else "bilinear")
    data = jpeg("L" if kind == "L" else "RGB", **more)
    preparation = DevicePreparation(config, device=device)
    (found,) = preparation.batch([(data, 6 if kind == "turned" else 1)])
    assert found is not None, "the device refused it"
    std = np.asarray(config.std, np.float32)[:, None, None]
    apart = np.abs(found - Preparation(config)(data)) * std * 255
    print(kind, float(apart.mean()), float(apart.max()))
    # Another decoder enlarges the colours of 2 x 2 pixels in another way.
    assert apart.mean() < 3
    assert np.percentile(apart, 99) < 24


def test_threads_decode_together(device: str) -> None:
    preparation = DevicePreparation(SMALL, device=device)
    preparation.check()
    photos = [jpeg(), jpeg("L"), jpeg()[:2000] + b"\xff\xd9", jpeg("CMYK")] * 8
    alone = [preparation.batch([(photos[place], 1)])[0] for place in (0, 1)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda data: gpu._batcher(preparation)((data, 1)), photos))
    for place, one in enumerate(found):
        if place % 4 < 2:
            assert one is not None
            assert np.abs(one - alone[place % 4]).max() < 0.1


def test_commands(cli: Cli, tiny_checkpoint: Path, tmp_path: Path, device: str) -> None:
    """Every option of the engine, on the command line; all name the same best class."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(11):
        (folder / f"{number}.jpg").write_bytes(jpeg(exif=Image.Exif()))
    (folder / "bad.jpg").write_bytes(b"no photo")
    ways = [[], ["--amp", "bfloat16"], ["--batch-size", "auto"], ["--engine", "torch", "-j", "4"]]
    if device != "cpu":
        ways += [
            ["--amp", "float16"], ["--cuda-graphs"], ["--gpu-decode", "-j", "4"], ["--compile"],
            ["--cuda-graphs", "--batch-size", "auto"], ["--gpu-decode", "--cuda-graphs"],
        ]  # fmt: skip
    wanted = None
    for way in ways:
        done = cli(
            "predict", folder, "--model", tiny_checkpoint, "--device", device, "--format", "jsonl",
            "-b", "4", *way,
        )  # fmt: skip
        assert done.code == 3, (way, done.err)
        records = [json.loads(line) for line in done.out.splitlines()]
        best = [one["predictions"][0]["label"] if one["status"] == "ok" else "" for one in records]
        assert len(best) == 12
        assert best.count("") == 1
        wanted = wanted or best
        assert best == wanted, way
    for command in (["features", "-o", tmp_path / "f.npy"], ["explain", "-o", tmp_path / "maps"]):
        done = cli(command[0], folder, "--model", tiny_checkpoint, "--device", device, *command[1:])
        assert done.code == 3, done.err


def test_the_library_keeps_the_order_of_photos(tiny_checkpoint: Path, device: str) -> None:
    classifier = Classifier(str(tiny_checkpoint), device=device, engine="torch")
    photos = [np.full((60, 60, 3), 20 * number, np.uint8) for number in range(11)]
    together = classifier.logits(photos)
    alone = np.concatenate([classifier.logits(photo) for photo in photos])
    np.testing.assert_allclose(together, alone, rtol=1e-2, atol=1e-2 * np.abs(alone).max())
