"""One table of options: what follows from a name, a type and a default."""

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer

from resnest_cli.commands.flags import Given, Without, command
from resnest_cli.options import (
    ModelOptions,
    Option,
    RayOptions,
    RunOptions,
    Setting,
    setting,
    settings_of,
)


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


def call(function: Any, *arguments: str) -> int:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(function)
    with pytest.raises(SystemExit) as end:
        app(list(arguments))
    return int(end.value.code or 0)


def test_a_command_receives_records(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, Any] = {}

    @command
    def work(
        *,
        known: Annotated[Known, Without("growth")],
        run: Annotated[RunOptions, Without("batch_size")],
        own: Annotated[int, Option("Own.", "[1, 3]")] = 2,
        flags: Annotated[dict[str, Any], Given(ModelOptions)],
    ) -> None:
        got.update(known=known, run=run, own=own, flags=flags)

    monkeypatch.setenv("RESNEST_DEVICE", "cpu")
    call(
        work, "a.jpg", "b.jpg", "--size", "8", "--no-exact", "--title", "t", "--no-exif", "-j", "3"
    )
    assert got["known"] == Known(size=8, exact=False, name="t")
    assert got["run"] == RunOptions(("a.jpg", "b.jpg"), workers=3)
    assert got["own"] == 2
    assert got["flags"] == {"exif": False, "device": "cpu"}
    for wrong in (("--own", "4"), ("--growth", "1"), ("--batch-size", "1"), ("--rate", "2")):
        assert call(work, *wrong) == 2


def test_shared_options_stand_in_one_order_around_a_commands_own() -> None:
    @command
    def work(
        *,
        ray: RayOptions,
        own: Annotated[bool, Option("Own.")] = False,
        late: Annotated[bool, Option("Late.", after="nothing exif")] = False,
        model: ModelOptions,
        run: RunOptions,
    ) -> None: ...

    names = list(inspect.signature(work).parameters)
    assert names[:4] == ["inputs", "model", "own", "weights"]
    assert names[names.index("exif") + 1] == "late"
    assert names[-4:] == ["mirror", "offline", "quiet", "debug"]
    assert names.index("gpu_decode") < names.index("isolate") < names.index("runner")
