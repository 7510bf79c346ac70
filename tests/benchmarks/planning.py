"""Measured rates -> hours and cost for a million photos and more; the table of the README.

    python -m tests.benchmarks.planning [--model resnest50d] [--photos DIR] [--gpu-rate 3000]
        [--read-rate 1250] [--prices 0.10 4.00]

Measures on this machine, each apart: the network (`resnest benchmark`, ONNX Runtime, batches of
8), decoding and resizing on one core, reading photos from disk (not from the page cache), writing
rows of features as Parquet. Prints, for this machine and for a machine with a GPU, which step is
the bottleneck, and hours and cost. What is assumed and not measured carries an asterisk: the rate
of the network on the GPU, that of the storage, prices.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from resnest_cli.images.batches import Preparation
from resnest_cli.model.variants import get_variant
from tests.benchmarks.features import photos_in

COUNTS = {"1 M": 10**6, "100 M": 10**8, "5 G": 5 * 10**9}
_ROW_GROUP = 1024  # rows of features written at a time, as a part of `--runner ray`
_ROUNDS = 5


@dataclass(frozen=True)
class Machine:
    """Photos a second of each step. `shared`: network and decoding use the same cores."""

    name: str
    network: float
    decode: float
    read: float
    write: float
    price: float
    shared: bool

    @property
    def rates(self) -> dict[str, float]:
        """Of the steps that go on at the same time."""
        if not self.shared:
            return {"network": self.network, "decode": self.decode, "read": self.read,
                    "write": self.write}  # fmt: skip
        cores = 1 / (1 / self.network + 1 / self.decode)
        return {"network and decode": cores, "read": self.read, "write": self.write}

    @property
    def bottleneck(self) -> str:
        """The slowest step."""
        return min(self.rates, key=self.rates.__getitem__)

    @property
    def rate(self) -> float:
        """Photos a second of the whole."""
        return self.rates[self.bottleneck]


def network_rate(model: str) -> float:
    """Photos/s of the network alone on all cores."""
    command = [sys.executable, "-m", "resnest_cli", "benchmark", "-m", model, "--engine", "onnx",
               "-b", "8", "--format", "json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["runs"][0]["photos_per_second"])


def decode_rate(model: str, photos: list[Path]) -> float:
    """Photos/s of one core, from bytes to the network's input."""
    preparation = Preparation(get_variant(model).preprocessing)
    data = [path.read_bytes() for path in photos]
    seconds = []
    for _ in range(_ROUNDS):
        begin = time.process_time()
        for item in data:
            preparation(item)
        seconds.append(time.process_time() - begin)
    return len(data) / median(seconds)


def read_rate(photos: list[Path]) -> tuple[float, float]:
    """Photos/s and MB/s of reading whole files that are on the disk and not in memory."""
    seconds = []
    for _ in range(_ROUNDS):
        for path in photos:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begin = time.perf_counter()
        for path in photos:
            path.read_bytes()
        seconds.append(time.perf_counter() - begin)
    size = sum(path.stat().st_size for path in photos)
    return len(photos) / median(seconds), size / median(seconds) / 1e6


def write_rate(features: int, folder: Path) -> float:
    """Rows/s of float32 features to a synced Parquet file, as a worker writes a part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = np.random.default_rng(0).standard_normal((_ROW_GROUP, features), np.float32)
    names = [f"photos/{index:08}.jpg" for index in range(_ROW_GROUP)]
    seconds = []
    for number in range(_ROUNDS):
        begin = time.perf_counter()
        flat = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), features)
        path = folder / f"{number}.parquet"
        pq.write_table(pa.table({"input": names, "feature": flat}), path, compression=None)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        seconds.append(time.perf_counter() - begin)
    return _ROW_GROUP / median(seconds)


def show(machine: Machine) -> None:
    """Rates, the bottleneck, and what photos without end would take."""
    steps = ", ".join(f"{name} {rate:,.0f}" for name, rate in machine.rates.items())
    print(f"\n{machine.name}: photos/s {steps}; so {machine.rate:,.0f}, by {machine.bottleneck}")
    for name, count in COUNTS.items():
        hours = count / machine.rate / 3600
        for_a_day = -(-count // int(machine.rate * 86_400))
        print(f"  {name:>6}: {hours:>12,.1f} machine hours, {hours * machine.price:>12,.0f} $*, "
              f"{for_a_day:>5,} machine(s) for a day")  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnest50d")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--gpu-rate", type=float, default=3000, help="assumed, photos/s")
    parser.add_argument("--gpu-cores", type=int, default=16)
    parser.add_argument("--read-rate", type=float, default=1250, help="assumed, MB/s of a network")
    parser.add_argument("--prices", type=float, nargs=2, default=[0.10, 4.00], help="$ an hour")
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = sorted(options.photos.iterdir()) if options.photos else photos_in(folder)
        size = sum(path.stat().st_size for path in found) / len(found) / 1e6
        network = network_rate(options.model)
        decode = decode_rate(options.model, found)
        copies = [folder / f"copy{index}{path.suffix}" for index, path in enumerate(found)]
        for path, copy in zip(found, copies, strict=True):
            copy.write_bytes(path.read_bytes())
        read, megabytes = read_rate(copies)
        features = get_variant(options.model).num_features
        write = write_rate(features, folder)
    print(f"{options.model}, {cores} core(s), photos of {1000 * size:.0f} kB, measured here:")
    print(f"  network {network:,.1f} photos/s on all cores")
    print(f"  decode  {decode:,.0f} photos/s on one core")
    print(f"  read    {read:,.0f} photos/s ({megabytes:,.0f} MB/s) from the disk, one reader")
    print(f"  write   {write:,.0f} rows/s of {features} float32, synced, one writer")
    stored = options.read_rate / size
    show(
        Machine(f"this machine, {cores} cores", network, cores * decode, read, write,
                options.prices[0], shared=True)
    )  # fmt: skip
    gpu = Machine(
        f"a GPU* and {options.gpu_cores} cores", options.gpu_rate, options.gpu_cores * decode,
        stored, options.gpu_cores * write, options.prices[1], shared=False,
    )  # fmt: skip
    show(gpu)
    print(f"\nbalance: {options.gpu_rate / decode:.0f} cores decode what the GPU* computes; "
          f"storage of {options.read_rate:,.0f} MB/s* feeds {stored / gpu.rate:.1f} of these "
          "machines")  # fmt: skip


if __name__ == "__main__":
    main()
