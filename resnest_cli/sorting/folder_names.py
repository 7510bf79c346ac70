"""Class names -> names of folders that every system takes, no two of them the same anywhere.

Windows has the strictest rules (Microsoft, "Naming Files, Paths, and Namespaces"); macOS compares
without case and composition of letters. A folder that `images.folders` passes over as hidden would
be lost to `resnest finetune`, which reads what was sorted.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from resnest_cli.images.folders import is_hidden

UNSURE = "unsure"
NO_LABEL = "no label"

_MOST = 120  # bytes; Windows' limit of 260 characters is that of a whole path
_FORBIDDEN = re.compile('[<>:"/\\\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_DEVICE = re.compile(r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.I)


def folder_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The folder of each class, by index.

    Classes whose names would be the same, such as both cranes of ImageNet, get their index, too.
    """
    safe = [safe_name(name) for name in class_names]
    number = Counter(map(alike, (*safe, UNSURE, NO_LABEL)))
    taken = {name for name, times in number.items()}
    found = list[str]()
    for index, name in enumerate(safe):
        if number[alike(name)] > 1:
            name += f"-{index}"  # noqa: PLW2901
            while alike(name) in taken:
                name += "_"  # noqa: PLW2901
            taken.add(alike(name))
        found.append(name)
    return tuple(found)


def safe_name(name: str) -> str:
    """A name, or the nearest to it, that a folder may have on Windows, macOS and Linux."""
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", name)).strip()
    name = name.encode()[:_MOST].decode(errors="ignore").rstrip(". ")
    return f"_{name}" if not name or is_hidden(name) or _DEVICE.fullmatch(name) else name


def alike(name: str) -> str:
    """The same text for names that are the same file to Windows or macOS."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
