"""The index: read back as it was written, and damage that is told."""

import json

import pytest

from resnest_cli.errors import ResnestError
from resnest_cli.shards.index import Index, Shard, class_counts, from_text, to_text

TRAIN = (Shard("train-0.tar", 3, 1000, "ab", ((0, 1), (1, 2))), Shard("a b.tar", 1, 5))
INDEX = Index(
    ("ä", "b\u2028"), ("Ä", "b"), TRAIN, (Shard("val-0.tar", 1, 9, "", ((1, 1),)),), (2, 2), (0, 1),
    left_out=(("x.jpg", "ä", "is empty"),), made={"seed": 3},
)  # fmt: skip


def test_it_is_read_back() -> None:
    assert from_text(to_text(INDEX), "index.json") == INDEX
    assert to_text(INDEX).isascii()
    assert json.loads(to_text(INDEX))["seed"] == 3
    assert class_counts(TRAIN, 3) == (1, 2, 0)


def test_another_kind_of_index_is_none_of_ours() -> None:
    assert from_text('{"shardlist": []}', "index.json") is None
    assert from_text("[1]", "index.json") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "resnest-shards-9"}, "has the format resnest-shards-9"),
        ({"train_counts": [2, 3]}, "do not add up"),
        ({"class_names": ["one"]}, "as many names"),
        ({"train": [], "train_counts": [0, 0]}, "no shard to train on"),
        ({"val": None}, "is damaged"),
    ],
)
def test_damage_is_told(change: dict[str, object], words: str) -> None:
    text = json.dumps(json.loads(to_text(INDEX)) | change)
    with pytest.raises(ResnestError, match=words):
        from_text(text, "there/index.json")
    with pytest.raises(ResnestError, match=r"^there/index\.json: is damaged"):
        from_text(to_text(INDEX)[:50], "there/index.json")
