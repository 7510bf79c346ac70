"""Folders named by id, name or index; what is ambiguous or unknown is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli.data.labelled_photos import LabelledData, LabelledPhoto
from resnest_cli.errors import UsageError
from resnest_cli.evaluation.evaluate import class_indices, folder_names
from resnest_cli.model.labels import imagenet_ids, imagenet_labels, labels_for
from resnest_cli.model.loading import Model
from resnest_cli.model.variants import VARIANTS


def unused() -> None:
    raise AssertionError


PETS = Model(
    name="pets.safetensors",
    variant=VARIANTS["resnest14d"],
    preprocessing=VARIANTS["resnest14d"].preprocessing,
    class_names=("tabby cat", "dog", "7", "crane", "crane"),
    in_channels=3,
    path=Path("pets.safetensors"),
    load=unused,  # type: ignore[arg-type]
    noted_ids=("n01", "n02", "n03", "n04", "n05"),
)
IMAGENET = replace(PETS, name="resnest50d", class_names=imagenet_labels(), imagenet=True)


def test_by_id_by_name_and_by_index() -> None:
    found, unknown, notes = class_indices(["n01", "dog", "7", "4", "Tabby_Cat"], PETS)
    assert notes == []
    assert found == {"n01": 0, "dog": 1, "7": 2, "4": 4, "Tabby_Cat": 0}
    assert unknown == []
    assert class_indices(["dog"], replace(PETS, noted_ids=None))[0] == {"dog": 1}


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("caf\u00e9", 0),
        ("cafe\u0301", 1),  # a name as it stands comes first
        ("the\u0301", 3),  # then Unicode's other form
        ("th\u00e9", 3),
        ("THE\u0301", 2),
        ("o\u0301le_OLE\u0301", 4),  # then case and underscores, too
    ],
)
def test_forms_of_unicode(label: str, index: int) -> None:
    names = ("caf\u00e9", "cafe\u0301", "TH\u00c9", "th\u00e9", "\u00d3le Ol\u00e9")
    for model in (
        replace(PETS, class_names=names, noted_ids=None),
        replace(PETS, noted_ids=names),
    ):
        assert class_indices([label], model)[0] == {label: index}


def test_imagenets_ids() -> None:
    ids = imagenet_ids()
    assert len(set(ids)) == 1000
    assert list(ids) == sorted(ids)
    found, _, _ = class_indices(["n02123045", "n01440764", "n15075141", "tench"], IMAGENET)
    assert found == {"n02123045": 281, "n01440764": 0, "n15075141": 999, "tench": 0}
    assert imagenet_labels()[281] == "tabby"


def test_timm_has_the_same_ids() -> None:
    from timm.data import ImageNetInfo

    assert ImageNetInfo().label_names() == list(imagenet_ids())


def test_an_ambiguous_name_lists_all_that_have_it() -> None:
    with pytest.raises(UsageError, match=r"'crane' .*3 \(n04\) and 4 \(n05\)"):
        class_indices(["crane"], PETS)
    for name, both in {"crane": (134, 517), "maillot": (638, 639)}.items():
        with pytest.raises(
            UsageError, match=rf"{both[0]} \({imagenet_ids()[both[0]]}\) and"
        ) as told:
            class_indices([name], IMAGENET)
        assert str(both[1]) in str(told.value)


def test_unknown_classes() -> None:
    with pytest.raises(UsageError, match=r"no class 'doge' \(and 1 more\)\. Did you mean dog"):
        class_indices(["dog", "doge", "zebra"], PETS)
    found, unknown, _ = class_indices(["dog", "doge", "9"], PETS, known_only=True)
    assert found == {"dog": 1}
    assert unknown == ["9", "doge"]


def nameless(classes: int) -> Model:
    """A model whose file names no classes."""
    return replace(PETS, name="bare.pth", class_names=labels_for(classes), noted_ids=None)


def numbers(first: int, end: int, width: int = 0) -> list[str]:
    return [f"{number:0{width}}" for number in range(first, end)]


TWELVE = nameless(12)
SORTED = {name: index for index, name in enumerate(sorted(numbers(0, 12)))}
INDEX = {name: int(name) for name in numbers(0, 12)}
OWN = replace(TWELVE, class_names=tuple(sorted(numbers(0, 12))))  # trained by us on such folders
NAMED = replace(TWELVE, class_names=tuple("abcdefghijkl"))
NOTED = replace(NAMED, noted_ids=tuple(sorted(numbers(0, 12))))  # by us, with --class-names
THOUSAND = replace(IMAGENET, class_names=imagenet_labels())


def test_sorted_order_is_torchvisions(tmp_path: Path) -> None:
    from torchvision.datasets.folder import find_classes

    for name in SORTED:
        (tmp_path / name).mkdir()
    assert find_classes(tmp_path)[1] == SORTED
    assert SORTED["10"] == 2


@pytest.mark.parametrize(
    ("model", "folders", "expected", "told"),
    [
        (TWELVE, numbers(0, 12), SORTED, True),
        (TWELVE, ["0", "3", "10"], SORTED, True),  # some of the same folders
        (TWELVE, numbers(0, 12, width=2), None, False),  # both orders are one
        (nameless(10), numbers(0, 10), INDEX, False),
        (nameless(11), numbers(0, 11), {"0": 0, "1": 1, "10": 2, "2": 3}, True),
        (OWN, numbers(0, 12), SORTED, False),  # by their names
        (NOTED, numbers(0, 12), SORTED, False),  # by their ids
        (NAMED, numbers(0, 12), INDEX, False),  # names are known: numbers are none of them
        (THOUSAND, numbers(0, 1000), {"10": 10, "999": 999}, False),
        (THOUSAND, ["5", "10", "100"], {"10": 10, "100": 100}, False),
    ],
)
def test_folders_named_by_numbers(
    model: Model, folders: list[str], expected: dict[str, int] | None, told: bool
) -> None:
    found = class_indices(folders, model, folders=folders)
    expected = expected or {name: int(name) for name in folders}
    assert {name: found.indices[name] for name in expected if name in folders} == {
        name: index for name, index in expected.items() if name in folders
    }
    assert len(found.indices) == len(folders)
    assert bool(found.notes) == told
    if told:
        assert "sorted order (0, 1, 10, " in found.notes[0]
        assert "--folder-numbers index" in found.notes[0]


def test_classes_without_photos_on_this_side_count_in_the_order() -> None:
    found = class_indices(["10", "2"], TWELVE, folders=numbers(0, 12))
    assert found.indices == {"10": 2, "2": 4}


def test_labels_in_a_table_are_indices() -> None:
    assert class_indices(numbers(0, 12), TWELVE) == (INDEX, [], [])


@pytest.mark.parametrize("model", [TWELVE, OWN, NAMED, NOTED])
def test_a_flag_overrules(model: Model) -> None:
    folders = numbers(0, 12)
    for asked, expected in (("index", INDEX), ("sorted", SORTED)):
        found = class_indices(folders, model, folders=folders, numbers=asked)  # type: ignore[arg-type]
        assert found == (expected, [], [])
    one = class_indices(["10"], model, numbers="sorted")
    assert one.indices == {"10": 2}


def test_counted_from_one() -> None:
    folders = numbers(1, 13)
    with pytest.raises(UsageError, match=r"no class '12'.*--folder-numbers sorted takes"):
        class_indices(folders, TWELVE, folders=folders)
    found = class_indices(folders, TWELVE, folders=folders, numbers="sorted")
    assert found.indices == {name: index for index, name in enumerate(sorted(folders))}
    with pytest.raises(UsageError, match="neither as many nor all named by numbers below 12"):
        class_indices(folders[5:], TWELVE, folders=folders[5:], numbers="sorted")


def test_the_folders_of_data(tmp_path: Path) -> None:
    photos = [LabelledPhoto("p", "p", label, None) for label in "abb"]
    listing = LabelledData(photos, own_split=False, empty=["train/c", "d"])
    assert folder_names(str(tmp_path), listing) == {"a", "b", "c", "d"}
    assert folder_names(str(tmp_path / "photos.csv"), listing) == set()
