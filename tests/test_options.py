"""One table of options: what follows from a name, a type and a default."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from resnest_cli.options import Setting, setting, settings_of


@dataclass(frozen=True)
class Known:
    """A record with one option of each kind, and a field without a flag."""

    size: int | None = setting(None, "Side.", "[8, 64]")
    rate: float = setting(0.5, "Rate.", "-r SHARE [0.1, 1]")
    growth: float = setting(1.0, "Growth.", "(0, inf)")
    steps: int = setting(1, "Steps.", "[0, inf)")
    kind: Literal["a", "b"] = setting("a", "Kind.")
    fast: bool = setting(False, "Fast.")
    exact: bool = setting(True, "Exact.")
    name: str = setting("x", "Name.", "--title NAME", check=(str.islower, "in small letters"))
    inside: float = 3.0


@pytest.mark.parametrize(
    ("name", "right", "wrong", "words"),
    [
        ("size", [8, 64], [7, 65, 8.0, True, "8", None], "a whole number from 8 to 64"),
        ("rate", [0.1, 1, 1.0], [0, 1.01, float("nan"), "1", True], "a number in [0.1, 1]"),
        ("growth", [1e300], [0.0, float("inf"), -1], "a number above 0"),
        ("steps", [0, 10**9], [-1, 10**9 + 1, 0.5], "a whole number from 0"),
        ("kind", ["a", "b"], ["c", 1, None], "one of a, b"),
        ("fast", [True, False], [0, 1, "true"], "true or false"),
        ("name", ["abc"], ["Abc", "", 3], "in small letters"),
    ],
)
def test_what_a_value_may_be(name: str, right: list[Any], wrong: list[Any], words: str) -> None:
    known = settings_of(Known)[name]
    assert [value for value in right if known.refused(value) is not None] == []
    assert {known.refused(value) for value in wrong} == {words}


def test_flags_follow_from_names_and_types() -> None:
    flags = {name: one.flags for name, one in settings_of(Known).items()}
    assert flags["rate"] == ["--rate", "-r"]
    assert flags["fast"] == ["--fast"]
    assert flags["exact"] == ["--exact/--no-exact"]
    assert flags["name"] == ["--title"]
    assert Setting("grad_accum_steps_", int, 1).flags == ["--grad-accum-steps"]
