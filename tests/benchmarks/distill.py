"""What a teacher is worth: classes of Tiny ImageNet, learned with it and without, at equal budgets.

    python -m tests.benchmarks.distill TINY-IMAGENET [--teacher MODEL] [--classes 20]
        [--photos 500] [--seeds 0 1 2] [--epochs 20] [--teacher-epochs 30] [--weight 0.5]
        [--temperature 4] [--work DIR]

TINY-IMAGENET has train/ and val/ with a folder for each class. Every so many classes, sorted by id,
are taken, so many training photos of each, and all of their validation photos. A resnest14t learns
them with the recipe `quick`; for each seed (which chooses the photos, too) top-1 without a teacher,
with one, and with one that also labels the other training photos of these classes, where some are
left. Settings, photos and epochs are the same; the third sees more photos in an epoch and has
as many epochs fewer, so that it takes as many steps. Without --teacher the teacher is a resnest14d,
which this script trains first, on the very photos of the student, without mixing or other help.
With --work that is kept, and used again.
"""

import argparse
import math
import random
import shutil
import tempfile
from pathlib import Path
from statistics import mean, stdev

from tests.benchmarks.runs import best_top1
from tests.benchmarks.transfer import few, photos_of, write_manifest

COMMON = ["--recipe", "quick", "--img-size", "64", "--train-size", "48", "--crop-pct", "1",
          "--scale", "0.35", "--cache", "-b", "64"]  # fmt: skip
TITLES = ("without", "with", "unlabelled")


def main() -> None:
    """Measures and prints everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--teacher")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--teacher-epochs", type=int, default=30)
    parser.add_argument("--weight", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(options, (options.work or Path(name)).resolve())


def measure(options: argparse.Namespace, work: Path) -> None:
    """A row for each seed, and their mean."""
    work.mkdir(parents=True, exist_ok=True)
    data, columns = options.data.resolve(), list[list[float]]()
    every = sorted(path.name for path in (data / "train").iterdir())
    names = every[:: max(1, len(every) // options.classes)][: options.classes]
    print(f"{'top-1':<12}" + "".join(f"{title:>12}" for title in ("teacher", *TITLES)))
    for seed in options.seeds:
        rows = few(data, names, options.photos, seed)
        manifest = write_manifest(work / f"{seed}.csv", rows)
        teacher, known = options.teacher, float("nan")
        if teacher is None:
            teacher, known = taught(work, manifest, options.teacher_epochs, seed)
        loose = others(work / f"others-{seed}", data, names, rows)
        found, seconds = zip(*students(work, manifest, teacher, loose, seed, options), strict=True)
        columns.append([known, *found])
        times = " / ".join(f"{taken:.0f}" for taken in seconds)
        print(_row(f"seed {seed}", columns[-1]) + f"   {times} s", flush=True)
    means = [mean(column) for column in zip(*columns, strict=True)]
    print(_row("mean", means))
    if len(columns) > 1:
        gains = [row[2] - row[1] for row in columns]
        print(f"gain {mean(gains):+.2%}, standard deviation over seeds {stdev(gains):.2%}")


def taught(work: Path, manifest: Path, epochs: int, seed: int) -> tuple[Path, float]:
    """A larger network's weights, and its top-1."""
    name = f"teacher-{manifest.stem}-{epochs}"
    weights, note = (work / f"{name}.{kind}" for kind in ("safetensors", "txt"))
    if not note.exists():
        how = [*COMMON, "--epochs", str(epochs), "--seed", str(seed), "--model", "resnest14d"]
        top1, _ = best_top1(work, "train", name, manifest, *how)
        best = work / "train" / name / "weights" / "best.safetensors"
        weights.write_bytes(best.read_bytes())
        note.write_text(str(top1), encoding="utf-8")
    return weights, float(note.read_text(encoding="utf-8"))


def others(
    folder: Path, data: Path, names: list[str], rows: list[tuple[Path, str, str]]
) -> Path | None:
    """Links to as many other training photos of the classes as these have, if there are any."""
    used = {photo for photo, _, _ in rows}
    left = [photo for name in names for photo in photos_of(data, "train", name)
            if photo not in used]  # fmt: skip
    if not left:
        return None
    folder.mkdir(exist_ok=True)
    random.Random(0).shuffle(left)
    for photo in left[: sum(side == "train" for _, _, side in rows)]:
        link = folder / f"{photo.parent.parent.name}-{photo.name}"
        if not link.exists():
            link.symlink_to(photo)
    return folder


def students(
    work: Path,
    manifest: Path,
    teacher: str | Path,
    loose: Path | None,
    seed: int,
    options: argparse.Namespace,
) -> list[tuple[float, float]]:
    """Top-1 and seconds of each way to learn."""
    how: list[str | Path] = [manifest, *COMMON, "--seed", str(seed), "--model", "resnest14t"]
    wise: list[str | Path] = ["--teacher", teacher, "--teacher-weight", str(options.weight),
                              "--teacher-temperature", str(options.temperature)]  # fmt: skip
    whole = ["--epochs", str(options.epochs)]
    ways: list[list[str | Path]] = [[*how, *whole], [*how, *whole, *wise]]
    if loose is not None:
        added = sum(1 for _ in loose.iterdir())
        photos = sum(line.endswith(",train") for line in manifest.read_text().splitlines())
        fewer = max(2, round(options.epochs * photos / (photos + added)))
        ways.append([*how, *wise, "--epochs", str(fewer), "--unlabelled", loose])
    found = []
    for title, way in zip(TITLES, ways, strict=False):
        name = f"{title}-{manifest.stem}"
        shutil.rmtree(work / "train" / name, ignore_errors=True)  # of a run before
        found.append(best_top1(work, "train", name, *way))
    return found


def _row(title: str, values: list[float]) -> str:
    shown = ["-" if math.isnan(value) else f"{value:.2%}" for value in values]
    return f"{title:<12}" + "".join(f"{value:>12}" for value in shown)


if __name__ == "__main__":
    main()
