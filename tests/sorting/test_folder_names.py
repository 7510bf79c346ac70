"""Names of folders that every system takes."""

import pytest

from resnest_cli.images.folders import is_hidden
from resnest_cli.model.labels import imagenet_labels
from resnest_cli.sorting.folder_names import alike, folder_names, safe_name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("red fox", "red fox"),
        ("a/b\\c:d", "a_b_c_d"),
        ("..", "_"),
        ("", "_"),
        ("what?", "what_"),
        ("ends.. ", "ends"),
        (".hidden", "_.hidden"),
        ("lost+found", "_lost+found"),
        ("con", "_con"),
        ("NUL.tar", "_NUL.tar"),
        ("com¹", "_com¹"),
        ("LPT1 .x", "_LPT1 .x"),
        ("console", "console"),
        ("tab\there\x7f", "tab_here_"),
        ("\udce9", "_"),
        ("cafe\u0301", "caf\xe9"),
        ("猫", "猫"),
        ("猫" * 99, "猫" * 40),
        ("x" * 119 + ". y", "x" * 119),
    ],
)
def test_safe_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert safe_name(safe) == safe or safe == "_"
    assert not is_hidden(safe)


def test_no_two_folders_are_the_same_to_any_system() -> None:
    names = (
        "Cat",
        "cat",
        "unsure",
        "No Label",
        "a:b",
        "a?b",
        "a_b-4",
        "caf\xe9",
        "CAFE\u0301",
        "ok",
    )
    found = folder_names(names)
    assert len({alike(one) for one in (*found, "unsure", "no label")}) == len(names) + 2
    assert found == (
        "Cat-0", "cat-1", "unsure-2", "No Label-3", "a_b-4_", "a_b-5", "a_b-4", "caf\xe9-7",
        "CAF\xc9-8", "ok",
    )  # fmt: skip


def test_classes_of_one_name_are_told_apart_by_their_index() -> None:
    found = folder_names(imagenet_labels())
    assert len(set(map(alike, found))) == 1000
    assert (found[134], found[517]) == ("crane-134", "crane-517")
    assert found[0] == "tench"
