"""What `resnest explain` does: photos -> explanations, with their pictures.

One photo after the other is decoded, explained and drawn, so that memory stays flat.
"""

import gc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from resnest_cli.errors import ImageError, ResnestError, UsageError
from resnest_cli.explanation import Explained, ExplainJob, Target
from resnest_cli.images import NO_MEMORY, folders, take_note
from resnest_cli.images.inputs import listed
from resnest_cli.images.pool import Decoders
from resnest_cli.images.sources import Source, SourceStats, with_bytes
from resnest_cli.inference.ranking import Record
from resnest_cli.options import ModelOptions
from resnest_cli.paths import check_not_read, check_place, is_http, local_path

if TYPE_CHECKING:
    from resnest_cli.inference.classifier import Classifier

_PICTURES = (".png", ".jpg", ".jpeg")

# Photos after which figures, which hold each other in circles, are swept up: Python itself would
# wait until there are hundreds of MB of them. It takes a tenth of a second.
_SWEEP = 10

Make = Callable[[ModelOptions], "Classifier"]


def explain(job: ExplainJob, make: Make, stats: SourceStats) -> Iterator[Explained]:
    """An explanation for each input, in order; counts the other files that were passed over.

    `make` gives a classifier with the torch engine.

    Raises:
        UsageError: a class that the model does not know, or that several of its classes are called.
        ResnestError: the model cannot be had, or a picture cannot be written.
    """
    from resnest_cli.explanation.explainer import Explainer
    from resnest_cli.explanation.photo_view import Look

    classifier = make(job.model)
    explainer, look = Explainer(job, classifier), Look(classifier.preparation)
    with Decoders.of(job.options, job.model) as decoders:
        for index, source in enumerate(with_bytes(listed(job.options, stats))):
            error = source.error or _ours(source, job)
            if error is None:
                try:
                    photo = classifier.read(source)
                    assert isinstance(photo, str | bytes)
                    view = decoders.run(look, photo)
                except ImageError as wrong:
                    error = str(wrong)
                except MemoryError:
                    error = NO_MEMORY
                else:
                    classifier.note(source, take_note())
                    yield explainer.explained(index, source.name, view)
                    if index % _SWEEP == 0:
                        gc.collect()
                    continue
            yield Explained(Record(source.name, classifier.model.name, error=error))


def _ours(source: Source, job: ExplainJob) -> str | None:
    """What is wrong with a photo in a folder that is being written to: there would be no end."""
    targets = [target for target in (job.heat, job.attention) if target and target.folder]
    folders = {target.path.resolve() for target in targets}
    if source.path is not None and Path(source.path).resolve().parent in folders:
        return "lies in the folder that pictures are written to"
    return None


def target(
    path: Path | None, option: str, read: Iterable[str | None], *, one: bool
) -> Target | None:
    """Where the pictures of `option` go: of `one` photo a file, of several a folder.

    A folder that exists serves for one photo, too; for several it is made. `read` are the inputs
    and files that the command reads, none of which is written to.
    """
    if path is None:
        return None
    if one and not path.is_dir():
        if path.suffix.lower() not in _PICTURES:
            raise UsageError(f"{option} {path}: pictures are .png or .jpg files.")
        check_place(path)
        check_not_read(path, read, option)
        return Target(path, folder=False)
    if path.suffix.lower() in _PICTURES and not path.is_dir():
        raise UsageError(
            f"{option} {path}: there may be several photos, with a picture each; give {option} a "
            "folder."
        )
    if path.exists() and not path.is_dir():
        raise ResnestError(f"{path}: cannot be written: is a file. Give {option} a folder.")
    if not path.is_dir():
        check_place(path)
    for name in filter(None, read):
        if path.resolve().is_relative_to(_folder_of(name) or path.resolve() / "none"):
            raise UsageError(
                f"{option} {path}: lies in {name}, which is read: the pictures would be taken for "
                f"photos. Give {option} another folder."
            )
    return Target(path, folder=True)


def _folder_of(name: str) -> Path | None:
    """The folder that an input is, or that a glob begins in."""
    if is_http(name) or name == "-":
        return None
    path = Path(local_path(name))
    while folders.is_glob(str(path)) and path != path.parent:
        path = path.parent
    return path.resolve() if folders.is_folder(str(path)) else None
