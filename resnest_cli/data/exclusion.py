"""`--exclude FILE`: photos that a list of issues names are left out, as if they were not there.

The list is what `resnest check` writes, `issues.csv`, or a part of it: columns path, kind and
partner. All rows count, or those of `--exclude-kinds`; but those about whole classes. Of copies
one photo stays: of a group whose rows are `copy`, `near-copy` or `leak`, one that no row of
another kind names; of those one that trains, then the first. Photos whose copies lie in several
classes (`contradiction`) all go.

A path is a photo's name in the data, or a path that leads to it.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

from resnest_cli.data.issue_kinds import KINDS, Kind, kinds_of
from resnest_cli.data.labelled_photos import SIDES, LabelledData, LabelledPhoto, Reading
from resnest_cli.data.table_file import read_table_file, shown
from resnest_cli.errors import UsageError
from resnest_cli.files import reading as reading_file
from resnest_cli.model.labels import canonical
from resnest_cli.text import count, joined, printable_name, some

_ONE_STAYS = frozenset(("copy", "near-copy", "leak"))
_OF_CLASSES = "class"  # the kind whose rows name classes


class IssueRow(NamedTuple):
    """A row of the list: a photo, what is wrong with it, and the photo that it is like, or ""."""

    path: str
    kind: Kind
    partner: str


def leave_out(found: LabelledData, data: str, reading: Reading) -> None:
    """Takes away the photos that `reading.exclude` names, and keeps them in `found.excluded`.

    Raises:
        UsageError: the list cannot be read, or is of other data; a class would have no photo left.
    """
    if reading.exclude is None:
        if reading.exclude_kinds is not None:
            raise UsageError("--exclude-kinds goes with --exclude FILE.")
        return
    file, places = Path(reading.exclude), _Places(found.photos)
    rows = read_issues(file)
    chosen = _of_kinds(rows, reading.exclude_kinds, found.notes, file)
    placed, missing = _placed(chosen, places)
    _check_found(file, data, chosen, missing, found.notes)
    kinds, kept = _without_one_of_each(placed, found.photos)
    excluded = [
        replace(photo, error=kinds[place])
        for place, photo in enumerate(found.photos)
        if place in kinds
    ]
    left = [photo for place, photo in enumerate(found.photos) if place not in kinds]
    _check_classes(file, found, left)
    found.photos, found.excluded = left, excluded
    found.notes.append(_note(file, kinds, excluded, kept, rows=len(rows)))


def digest_of_list(path: str | None) -> str:
    """A hash of the list's bytes; "" of none, or of one that is not there any more."""
    if path is None or not Path(path).is_file():
        return ""
    with reading_file(f"--exclude {path}"):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_issues(file: Path) -> list[IssueRow]:
    """The rows of a list of issues."""
    if file.is_dir():
        raise UsageError(f"--exclude {file}: is a folder; name the list in it: {file}/issues.csv.")
    if not file.is_file():
        raise UsageError(
            f"--exclude {file}: there is no such file. `resnest check DATA -o DIR` writes one: "
            "DIR/issues.csv."
        )
    try:
        table = read_table_file(file)
    except UsageError as error:
        raise UsageError(f"--exclude {error}") from error
    names = [name.strip().casefold() for name in table.columns]
    if not table.named or not {"path", "kind"} <= set(names):
        raise UsageError(
            f"--exclude {file}: needs columns path and kind, as `resnest check` writes them; it "
            f"has {shown(table.columns)}."
        )
    path, kind = names.index("path"), names.index("kind")
    partner = names.index("partner") if "partner" in names else None
    rows = []
    for number, cells in table.rows:
        name = cells[kind].strip()
        if not cells[path].strip():
            raise UsageError(f"--exclude {file}: {table.unit} {number} has no path.")
        if name not in KINDS:
            raise UsageError(
                f"--exclude {file}: {table.unit} {number}: {name!r} is no kind of issue. There "
                f"are {', '.join(KINDS)}."
            )
        if name != _OF_CLASSES:
            other = "" if partner is None else cells[partner]
            rows.append(IssueRow(cells[path], cast("Kind", name), other))
    return rows


def _of_kinds(
    rows: Sequence[IssueRow], asked: str | None, notes: list[str], file: Path
) -> list[IssueRow]:
    """The rows of the kinds that are asked for; of all where none are."""
    if asked is None:
        return list(rows)
    kinds = kinds_of(asked, "--exclude-kinds") - {_OF_CLASSES}
    if not any(row.kind in kinds for row in rows):
        notes.append(f"{file}: has no issue of the kind {joined(sorted(kinds), 'or')}")
    return [row for row in rows if row.kind in kinds]


class _Places:
    """Finds photos by what a list calls them: their names in the data, or paths to them."""

    def __init__(self, photos: Sequence[LabelledPhoto]) -> None:
        self._names = {_key(photo.name): place for place, photo in enumerate(photos)}
        self._paths = {
            _key(os.path.abspath(photo.path)): place  # noqa: PTH100 - links stay links
            for place, photo in enumerate(photos)
        }

    def find(self, text: str) -> int | None:
        """The place of a photo; None where there is none of this name."""
        for spelling in _spellings(text):
            place = self._names.get(_key(spelling))
            if place is None:
                place = self._paths.get(_key(os.path.abspath(spelling)))  # noqa: PTH100
            if place is not None:
                return place
        return None


def _key(name: str) -> str:
    return canonical(os.path.normpath(name))


def _spellings(text: str) -> Iterator[str]:
    """As it stands; without spaces; without the apostrophe of `text.csv_row`; with slashes."""
    yield text
    stripped = text.strip()
    yield stripped
    yield stripped.removeprefix("'")
    yield stripped.replace("\\", "/")


def _placed(
    rows: Iterable[IssueRow], places: _Places
) -> tuple[list[tuple[int, Kind, int | None]], list[str]]:
    """The place of each row's photo with its kind and its partner's; and paths without a photo."""
    placed, missing = list[tuple[int, Kind, int | None]](), dict[str, None]()
    for row in rows:
        place = places.find(row.path)
        if place is None:
            missing[row.path] = None
        else:
            placed.append((place, row.kind, places.find(row.partner) if row.partner else None))
    return placed, list(missing)


def _check_found(
    file: Path, data: str, rows: Sequence[IssueRow], missing: Sequence[str], notes: list[str]
) -> None:
    """Raises UsageError where more than half of the photos are not in the data; else notes them."""
    if not missing:
        return
    total = len({row.path for row in rows})
    text = (
        f"{file}: {len(missing):,} of {count(total, 'photo')} that it lists are not in {data}: "
        f"{some(map(printable_name, missing), 3)}"
    )
    if 2 * len(missing) > total:
        raise UsageError(
            f"--exclude {text}. Is it a list of other data? Its paths are names in the data, such "
            "as cat/1.jpg, or paths from the working folder; `resnest check` writes them."
        )
    notes.append(f"{text} (were they removed?)")


def _without_one_of_each(
    placed: Sequence[tuple[int, Kind, int | None]], photos: Sequence[LabelledPhoto]
) -> tuple[dict[int, Kind], int]:
    """The photos that go, each with its first kind; and how many stay, one of a group of copies."""
    kinds: dict[int, Kind] = {}
    others = {place for place, kind, _ in placed if kind not in _ONE_STAYS}
    parent: dict[int, int] = {}

    def root(place: int) -> int:
        while parent.setdefault(place, place) != place:
            place = parent[place]
        return place

    for place, kind, partner in placed:
        kinds.setdefault(place, kind)
        if kind in _ONE_STAYS:
            first, second = root(place), root(place if partner is None else partner)
            parent[max(first, second)] = min(first, second)
    groups: dict[int, list[int]] = defaultdict(list)
    for place in parent:
        groups[root(place)].append(place)
    kept = 0
    for group in groups.values():
        if all(place in kinds for place in group):
            may_stay = [place for place in group if place not in others]
            if len(group) > 1 and may_stay:
                del kinds[min(may_stay, key=lambda place: (photos[place].side != "train", place))]
                kept += 1
    return kinds, kept


def _check_classes(file: Path, found: LabelledData, after: Sequence[LabelledPhoto]) -> None:
    """Raises UsageError for a class that loses all of its photos, or all that would train."""
    trains = any(photo.side in {None, "train"} for photo in found.photos)

    def counts(photos: Iterable[LabelledPhoto]) -> Counter[str]:
        counted = (p for p in photos if not trains or p.side in {None, "train"})
        return Counter(label for photo in counted for label in found.labels_of(photo))

    left = counts(after)
    emptied = {label: n for label, n in counts(found.photos).items() if not left[label]}
    if not emptied:
        return
    label, number = min(emptied.items())
    more = f" (and {len(emptied) - 1:,} more such classes)" if len(emptied) > 1 else ""
    raise UsageError(
        f"--exclude {file}: leaves the class {label!r} without any of its "
        f"{count(number, 'photo')}{' to train on' if trains else ''}{more}. Take rows of that "
        "class out of the list, choose kinds with --exclude-kinds, or take the class out of the "
        "data."
    )


def _note(
    file: Path, kinds: Mapping[int, Kind], excluded: Sequence[LabelledPhoto], kept: int, rows: int
) -> str:
    """Such as: issues.csv: 120 photos left out: 80 label, 40 copy."""
    if not kinds:
        why = "it lists none" if not rows else "no row asks for one"
        return f"{file}: no photo left out: {why}"
    number = Counter(kinds.values())
    by_kind = ", ".join(f"{number[kind]:,} {kind}" for kind in KINDS if number[kind])
    text = f"{file}: {count(len(kinds), 'photo')} left out: {by_kind}"
    if kept:
        text += f"; of {count(kept, 'group')} of copies one photo stays"
    sides = Counter(photo.side for photo in excluded)
    if any(sides[side] for side in SIDES):
        text += f" ({', '.join(f'{sides[side]:,} of {side}' for side in SIDES if sides[side])})"
    return text
