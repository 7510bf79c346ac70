"""The table of variants: names, records, and the values that checkpoints may bring."""

import re
from dataclasses import replace

import pytest

from resnest_cli.errors import UnknownModelError
from resnest_cli.model.variants import (
    BUNDLED_MODEL,
    RECOMMENDED,
    VARIANTS,
    Preprocessing,
    get_variant,
    preprocessing_from_dict,
    preprocessing_to_dict,
)


def test_every_variant_but_one_has_weights_with_a_hash_and_a_host() -> None:
    for variant in VARIANTS.values():
        if variant.id == "resnest14t":  # once bundled: checkpoints of it are still understood
            assert (variant.weights, variant.top1) == (None, None)
            continue
        assert variant.weights is not None
        assert re.fullmatch(r"[0-9a-f]{8}", variant.weights.hash_prefix)
        assert all(url.startswith("https://") for url in variant.weights.urls)
        assert all(url.endswith("/" + variant.weights.name) for url in variant.weights.urls)
        assert variant.bundled == (not variant.weights.urls) == (variant.id == "resnest23t")
    assert len({v.weights.name for v in VARIANTS.values() if v.weights}) == 14
    assert get_variant(BUNDLED_MODEL).bundled
    assert set(RECOMMENDED) <= set(VARIANTS)


def test_names_are_unique_and_case_does_not_matter() -> None:
    names = [name for v in VARIANTS.values() for name in (v.id, *v.aliases)]
    assert len(names) == len(set(names)) == 27
    for variant in VARIANTS.values():
        for name in (variant.id, *variant.aliases):
            assert get_variant(name.upper()) is variant


def test_misspelt_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownModelError, match=r"Did you mean resnest101"):
        get_variant("resnet101e")
    with pytest.raises(UnknownModelError, match=r"`resnest models` lists them"):
        get_variant("vgg")


def test_overrides() -> None:
    base = VARIANTS["resnest50d"]
    assert base.overridden({}) is base
    small = base.overridden({"widths": [8, 8, 8, 16], "avd_first": True})
    assert small.widths == (8, 8, 8, 16)
    assert small.num_features == 64
    assert small.avd_first
    assert (small.parameters, small.top1, small.weights) == (None, None, None)
    assert small.architecture == base.architecture | {"widths": [8, 8, 8, 16], "avd_first": True}


@pytest.mark.parametrize(
    "overrides",
    [{"colour": 1}, {"blocks": [1, 1, 1]}, {"blocks": 3}, {"blocks": [1, 1, 1, 0]}, {"radix": 0},
     {"radix": 2.0}, {"radix": True}, {"stem_width": 10**9}, {"avd_first": 1},
     {"widths": ["8", 8, 8, 8]}],
)  # fmt: skip
def test_bad_overrides(overrides: dict) -> None:
    with pytest.raises(ValueError, match=r"must be|unknown"):
        VARIANTS["resnest50d"].overridden(overrides)


def test_preprocessing_records_survive_a_round_trip() -> None:
    for variant in VARIANTS.values():
        record = preprocessing_to_dict(variant.preprocessing)
        assert preprocessing_from_dict(record) == variant.preprocessing


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"size": 2.5}, {"size": 10**6}, {"size": True}, {"crop_pct": 0},
     {"crop_pct": 1.5}, {"crop_pct": "1"}, {"crop_pct": float("nan")}, {"interpolation": "nearest"},
     {"mean": [0, 0]}, {"mean": "abc"}, {"std": [1, 1, 0]}, {"std": [1, float("inf"), 1]},
     {"extra": 1}],
)  # fmt: skip
def test_bad_preprocessing_records(change: dict) -> None:
    record = preprocessing_to_dict(Preprocessing()) | change
    with pytest.raises(ValueError, match=r"preprocessing|interpolation"):
        preprocessing_from_dict(record)


def test_records_are_frozen() -> None:
    variant = VARIANTS["resnest50d"]
    with pytest.raises(AttributeError):
        variant.radix = 3
    assert replace(variant, radix=3).radix == 3
