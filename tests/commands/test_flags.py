"""Commands made of signatures: records, options, and what all commands share."""

import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer

from resnest_cli.commands.flags import Given, Without, command
from resnest_cli.net import Access
from resnest_cli.options import ModelOptions, Option, RayOptions, RunOptions, setting


@dataclass(frozen=True)
class Known:
    """A record of options."""

    size: int | None = setting(None, "Side.", "[8, 64]")
    rate: float = setting(0.5, "Rate.", "-r SHARE [0.1, 1]")
    growth: float = setting(1.0, "Growth.", "(0, inf)")
    exact: bool = setting(True, "Exact.")
    name: str = setting("x", "Name.", "--title NAME")


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
    assert names.index("gpu_decode") < names.index("runner")


def test_access_stands_for_mirror_and_offline() -> None:
    got: list[Access] = []

    @command
    def work(*, access: Access) -> None:
        got.append(access)

    assert list(inspect.signature(work).parameters) == ["mirror", "offline", "quiet", "debug"]
    assert call(work, "--mirror", "folder", "--offline") == 0
    assert (got[0].mirror, got[0].offline) == ("folder", True)
    assert call(command(lambda: None, common=False), "--quiet") == 2
