"""Whether pictures can go where they are to go, checked before anything slow begins."""

from collections.abc import Iterable
from pathlib import Path

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.explanation.explain import Target
from resnest_cli.images import folders
from resnest_cli.paths import check_not_read, check_place, is_http, local_path

_PICTURES = (".png", ".jpg", ".jpeg")


def target(
    path: Path | None, option: str, read: Iterable[str | None], *, one: bool
) -> Target | None:
    """Where the pictures of `option` go: of `one` photo a file, of several a folder.

    A folder that exists serves for one photo, too; for several it is made. `read` are the inputs
    and files that the command reads.

    Raises:
        UsageError: another kind of file, a file for several photos, one that is read, or a folder
            inside of one that is read.
        ResnestError: the folder that it would lie in does not exist.
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
