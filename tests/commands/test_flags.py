"""Commands made of signatures: records, options, and what all commands share."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.core import TyperCommand

from resnest_cli.commands.flags import Command, Given, Without, command
from resnest_cli.net import Access
from resnest_cli.options import (
    ModelOptions,
    Option,
    RayOptions,
    RunOptions,
    batch_size_or_auto,
    setting,
)
from tests.conftest import Cli


@dataclass(frozen=True)
class Known:
    """A record of options."""

    size: int | None = setting(None, "Side.", "[8, 64]")
    rate: float = setting(0.5, "Rate.", "-r SHARE [0.1, 1]")
    growth: float = setting(1.0, "Growth.", "(0, inf)")
    exact: bool = setting(True, "Exact.")
    name: str = setting("x", "Name.", "--title NAME")


def call(function: Any, *arguments: str, cls: type[TyperCommand] = Command) -> int:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command(cls=cls)(function)
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


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--number", "7"], ["--number", "-3"], ["--number", "x"], ["--number", "4.0"],
        ["--number", "2"], ["--number", "99"], ["--number", "1_0"], ["--number", " 8"],
        ["--share", "0.5"], ["--share", "1"], ["--share", "1.5"], ["--share", "nan"],
        ["--share", ".5e0"], ["--free", "inf"], ["--way", "left"], ["--way", "Left"],
        ["--path", "a/../b"], ["--path", ""], ["--path", "/"], ["--several", "a", "--several", "b"],
        ["--text", ""], ["--no-switch"], ["--plain"], ["--batch-size", "auto"],
        ["--batch-size", "12"], ["--number", "\u0667"],
    ],
)  # fmt: skip
def test_values_are_converted_as_typer_converts_them(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    got: list[tuple[Any, ...]] = []

    @command
    def work(
        *,
        number: Annotated[int | None, Option("Number.", "[3, 20]")] = None,
        share: Annotated[float, Option("Share.", "[0, 1]")] = 0.25,
        free: Annotated[float | None, Option("Free.")] = None,
        way: Annotated[Literal["left", "right"] | None, Option("Way.")] = None,
        path: Annotated[Path | None, Option("Path.")] = None,
        several: Annotated[list[str] | None, Option("Several.")] = None,
        text: Annotated[str, Option("Text.")] = "none",
        switch: Annotated[bool, Option("Switch.")] = True,
        plain: Annotated[bool, Option("Plain.")] = False,
        batch_size: Annotated[int, Option("Batch.", parser=batch_size_or_auto)] = 8,
    ) -> None:
        got.append((number, share, free, way, path, several, text, switch, plain, batch_size))

    ours = call(work, *arguments), capfd.readouterr()
    theirs = call(work, *arguments, cls=TyperCommand), capfd.readouterr()
    assert ours == theirs
    assert len(got) == (0 if ours[0] else 2)
    assert repr(got[:1]) == repr(got[1:])


@pytest.mark.parametrize("line", ["evaluate", "merge -o y.npy", "average", "models show", "pack"])
def test_a_missing_argument_is_named(cli: Cli, line: str) -> None:
    result = cli(*line.split())
    assert result.code == 2
    assert "Missing argument" in result.err
