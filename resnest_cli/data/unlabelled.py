"""Photos without labels, from which a network learns what a teacher says of them (`--unlabelled`).

Every one is decoded and hashed before anything else begins, as labelled photos are. Whatever lies
in the folder, or below it, is taken. A photo that the labelled data have, too, is left out: it has
its label there, or it validates.
"""

from dataclasses import replace
from pathlib import Path

from resnest_cli.data.dataset import UNLABELLED, DataSet, Sample, check_photos
from resnest_cli.data.labelled_photos import LabelledPhoto
from resnest_cli.data.seeds import drawn
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.images import folders
from resnest_cli.images.sources import is_photo
from resnest_cli.model.training_photos import DIGEST_BYTES
from resnest_cli.progress import Progress, silent
from resnest_cli.text import count

MOST_VALIDATING = 5_000  # tell a share within 1.4 points


def with_unlabelled(
    dataset: DataSet, folder: str, *, workers: int = 2, progress: Progress = silent
) -> DataSet:
    """The data set with the photos of a folder, which train without a label.

    Raises:
        UsageError: no such folder, or no photo in it that can be read.
        ResnestError: a folder cannot be read.
    """
    found = _listed(folder)
    good, bad = check_photos(found, folder, workers, progress)
    known = {one.digest for one in (*dataset.train, *dataset.val)}
    samples = [
        Sample(photo.path, photo.name, UNLABELLED, digest)
        for photo in good
        if (digest := photo.digest[:DIGEST_BYTES]) not in known
    ]
    notes = list(dataset.notes)
    if twins := len(good) - len(samples):
        notes.append(
            f"{folder}: {count(twins, 'photo')} left out, which are among the labelled ones"
        )
    if not samples:
        raise UsageError(f"--unlabelled {folder}: all of its photos are among the labelled ones.")
    return replace(
        dataset,
        unlabelled=tuple(samples),
        bad=(*dataset.bad, *(replace(p, name=p.path) for p in bad)),
        notes=tuple(notes),
    )


def only_unlabelled(
    folder: str, *, val_split: float, seed: int, workers: int = 2, progress: Progress = silent
) -> DataSet:
    """A data set without any label: a share of a folder's photos validates.

    It is `val_split`, but no more than `MOST_VALIDATING` photos, drawn from the seed and their
    names; the same photo is never on both sides. Its classes are for the teacher to say.
    """
    found = with_unlabelled(DataSet((), (), (), ()), folder, workers=workers, progress=progress)
    same: dict[bytes, list[Sample]] = {}
    for sample in found.unlabelled:
        same.setdefault(sample.digest, []).append(sample)
    if len(same) < 2:
        raise UsageError(
            f"--unlabelled {folder}: one photo is too few, since one has to validate. Add photos."
        )
    groups = sorted(same.values(), key=lambda group: drawn(seed, "split", group[0].name))
    wanted = min(MOST_VALIDATING, max(1, round(val_split * len(groups))), len(groups) - 1)
    val = {sample.name for group in groups[:wanted] for sample in group}
    return replace(
        found,
        val=tuple(sample for sample in found.unlabelled if sample.name in val),
        unlabelled=tuple(sample for sample in found.unlabelled if sample.name not in val),
    )


def _listed(folder: str) -> list[LabelledPhoto]:
    if not Path(folder).is_dir():
        raise UsageError(f"--unlabelled {folder}: there is no such folder.")
    photos = []
    for entry in folders.walk(folder):
        if entry.error:
            raise ResnestError(f"{entry.path} {entry.error}.")
        if is_photo(entry.name):
            name = str(Path(entry.path).relative_to(folder))
            photos.append(LabelledPhoto(entry.path, name, "", None))
    if not photos:
        raise UsageError(f"--unlabelled {folder}: there is no photo in it.")
    return photos
