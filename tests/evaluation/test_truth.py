"""Folders named by id, name or index; what is ambiguous or unknown is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from resnest_cli.errors import UsageError
from resnest_cli.evaluation.truth import class_indices
from resnest_cli.model.labels import imagenet_ids, imagenet_labels
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
    found, unknown = class_indices(["n01", "dog", "7", "4", "Tabby_Cat"], PETS)
    assert found == {"n01": 0, "dog": 1, "7": 2, "4": 4, "Tabby_Cat": 0}
    assert unknown == []
    assert class_indices(["dog"], replace(PETS, noted_ids=None))[0] == {"dog": 1}


def test_imagenets_ids() -> None:
    ids = imagenet_ids()
    assert len(set(ids)) == 1000
    assert list(ids) == sorted(ids)
    found, _ = class_indices(["n02123045", "n01440764", "n15075141", "tench"], IMAGENET)
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
    found, unknown = class_indices(["dog", "doge", "9"], PETS, known_only=True)
    assert found == {"dog": 1}
    assert unknown == ["9", "doge"]
