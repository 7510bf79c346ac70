"""What people call the sides of a split: train, Training, seg_train, train-set, TEST, dev, ...

Names are compared without regard to case and to Unicode's form. A name is one of the words below,
perhaps with decorations: words that say nothing (`set`, `data`, `images`, ...), or a word that all
sides share (`seg_train`, `seg_test`).
"""

import re
from collections.abc import Iterable, Mapping

from resnest_cli.data.listing import SIDES, Side
from resnest_cli.errors import UsageError
from resnest_cli.model.class_names import canonical

WORDS: Mapping[Side, tuple[str, ...]] = {
    "train": ("train", "training", "trainval", "trn"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_SIDES: Mapping[str, Side] = {word: side for side, words in WORDS.items() for word in words}
_DECORATIONS = frozenset(
    [
        *("set", "sets", "data", "dataset", "datasets", "split", "images", "image", "imgs", "img"),
        *("photos", "photo", "pictures", "pics", "files", "folder"),
    ]
)


def side_of(name: str) -> Side | None:
    """The side that a name means by itself; None where it means none."""
    side, rest = _parsed(name)
    return side if not rest else None


def sides_of(names: Iterable[str]) -> dict[str, Side]:
    """The side of each of these names that means one, by itself or beside the others.

    `seg_train` and `seg_test` are sides beside each other; `speed_test` alone is none.
    """
    parsed = {name: _parsed(name) for name in names}
    found = {name: side for name, (side, rest) in parsed.items() if side and not rest}
    by_rest: dict[tuple[str, ...], dict[str, Side]] = {}
    for name, (side, rest) in parsed.items():
        if side and rest:
            by_rest.setdefault(rest, {})[name] = side
    for group in by_rest.values():
        if "train" in group.values() and len(group) > 1:
            found |= group
    return found


def mentioned_side(name: str) -> Side | None:
    """The side that one word of a name means, whatever the others say."""
    return _parsed(name)[0]


def is_decoration(name: str) -> bool:
    """Whether a name says nothing of what a folder holds: images, data, ..."""
    words = _words(name)
    return bool(words) and all(word in _DECORATIONS for word in words)


def _parsed(name: str) -> tuple[Side | None, tuple[str, ...]]:
    """The side that a name's one such word means, and its other words that say something."""
    words = _words(name)
    sides = [side for word in words if (side := _side_of_word(word))]
    if len(sides) != 1:
        return None, ()
    rest = tuple(w for w in words if not _side_of_word(w) and w not in _DECORATIONS)
    return sides[0], rest


def _words(name: str) -> list[str]:
    """Its words, in lower case: train2017, TrainSet and train-set have two each."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", canonical(name))
    return re.findall(r"[^\W\d_]+|\d+", apart.casefold())


def _side_of_word(word: str) -> Side | None:
    if word in _SIDES:
        return _SIDES[word]
    # As in trainset, testimages and imagestrain.
    for more in _DECORATIONS:
        if word.endswith(more) and (side := _SIDES.get(word.removesuffix(more))):
            return side
        if word.startswith(more) and (side := _SIDES.get(word.removeprefix(more))):
            return side
    return None


def named_sides(text: str) -> dict[str, Side]:
    """The sides of `--split-names`: the data's names of train, val and test, in this order.

    Raises:
        UsageError: fewer than one name or more than three, or one that stands twice.
    """
    names = [name.strip() for name in text.split(",")]
    given = [name for name in names if name]
    if not 1 <= len(names) <= 3 or not names[0] or len(set(given)) < len(given):
        raise UsageError(
            f"--split-names {text}: give the data's names of train, val and test, such as "
            "Fold1,Fold2 or Fold1,Fold2,Fold3; a side that is not there stays empty: Fold1,,Fold3."
        )
    return {name: side for name, side in zip(names, SIDES, strict=False) if name}
