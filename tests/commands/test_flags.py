"""Commands made of signatures: records, options, and what all commands share."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.core import TyperCommand

from resnest_cli.app import COMMANDS
from resnest_cli.commands.flags import Command, Given, Without, command, load
from resnest_cli.errors import UsageError
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
        with pytest.raises(UsageError):
            call(work, *wrong)


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
    with pytest.raises(UsageError, match="no such option --quiet"):
        call(command(lambda: None, common=False), "--quiet")


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
    arguments: list[str],
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

    said = None
    try:
        ours = call(work, *arguments)
    except UsageError as error:
        ours, said = error.exit_code, str(error)
    assert said is None or re.fullmatch(r"--[\w-]+: .* is (not|none of) .*\.", said)
    assert not re.search("Value error|Input should|Invalid", said or "")
    assert ours == call(work, *arguments, cls=TyperCommand)
    assert len(got) == (0 if ours else 2)
    assert repr(got[:1]) == repr(got[1:])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evaluate", "name the DATA. `resnest evaluate --help` shows what there is."),
        ("merge -o y.npy", "name the PART. `resnest merge --help` shows what there is."),
        ("average", "name the CHECKPOINT. `resnest average --help` shows what there is."),
        ("models show", "name the MODEL. `resnest models show --help` shows what there is."),
        ("predict x --format xml", "--format: xml is none of table, json, jsonl, csv, parquet."),
        ("predict x -k many", "--topk: many is not a whole number from 1."),
        ("predict x --threshold 2", "--threshold: 2 is not a number in [0, 1]."),
        ("predict x --formt csv", "no such option --formt. Did you mean --format or --frames?"),
        ("predict --help-al", "no such option --help-al. Did you mean --help-all or --help?"),
        ("predict x -o x.xlsx", "x.xlsx: the extension says the format: use .csv, .json, .jsonl, "),
        ("search x y -o y.xlsx", "y.xlsx: the extension says the format: use .csv, .json, .jsonl"),
        ("predict x --labels", "--labels requires an argument."),
        ("predict x --tta=3", "--tta does not take a value."),
        ("predct", "no such command 'predct'. Did you mean 'predict'?"),
        ("models foo", "no such command 'foo'. `resnest models --help` shows what there is."),
        ("guide a b", "got unexpected extra argument(s) (b). `resnest guide --help` shows what "),
    ],
)
def test_a_wrong_command_line_is_said_in_one_voice(cli: Cli, line: str, said: str) -> None:
    result = cli(*line.split())
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {said}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_help_all_has_every_option_under_a_heading(cli: Cli, name: str) -> None:
    short, whole = cli(name, "--help").out, cli(name, "--help-all")
    assert short.index("Examples:") < short.index("Options:")
    assert len(short.splitlines()) <= 60
    assert max(map(len, short.splitlines())) <= 80
    made = load(name)
    if not made.first:
        assert whole.code == 2
        return
    flags = {flag for one in made.params for flag in one.opts if flag.startswith("--")}
    shown = {word.strip(",") for word in whole.out.split()}
    assert flags <= shown
    assert len(made.first) <= 13
    assert set(made.first) <= {one.name for one in made.params}
    (hidden,) = re.findall(r"--help-all +Show all options, (\d+) more", short)
    options = sum(one.param_type_name == "option" for one in made.params)
    assert int(hidden) + len(made.first) == options + 1  # --help itself
    for heading in ("Options:", "Messages:"):
        assert f"\n{heading}\n" in whole.out


def test_arguments_are_called_one_way(cli: Cli) -> None:
    shown = cli("search", "--help").out
    assert shown.startswith("Usage: resnest search [OPTIONS] FEATURES [PHOTO...]\n")
    assert "\n  FEATURES  What" in shown
    assert "\n  PHOTO...  Files" in shown


def test_in_a_narrow_terminal_help_has_room_for_text(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    page = cli("predict", "--help").out
    options = page[page.index("Options:") :]
    assert max(map(len, options.splitlines())) <= 50
    assert "address\n" in options  # of the help of --model: a line of more than 20 letters
    assert max(map(len, cli("--help").out.split("Exit codes")[1].splitlines())) <= 50


def test_after_two_dashes_help_all_is_a_photo(cli: Cli) -> None:
    result = cli("predict", "--model", "demo", "--", "--help-all")
    assert (result.code, "--help-all" in result.out + result.err) == (3, True)
    assert "Usage" not in result.out


def test_the_list_of_commands_is_not_cut(cli: Cli) -> None:
    shown = " ".join(cli("--help").out.split())
    for line in COMMANDS.values():
        assert line in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("predict --model resnest14", {"resnest14d", "resnest14t"}),
        ("predict --model de", {"demo"}),
        ("predict --model fold", {"folder/"}),
        ("predict --model folder/", {"folder/a.safetensors"}),
        ("finetune --recipe finetune-", {"finetune-small", "finetune-middle", "finetune-large"}),
        ("predict --device cu", {"cuda", "cuda:1"}),
        ("predict --format j", {"json", "jsonl"}),
        ("explain --model demo --class goldfi", {"goldfinch", "goldfish"}),
        ("explain --model none.pth --class goldf", set()),
        ("guide fin", {"finetune"}),
        ("eval", {"evaluate"}),
    ],
)
def test_the_shell_completes(
    words: str, expected: set[str], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.safetensors", "b.txt"):
        (tmp_path / "folder" / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_RESNEST_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"resnest {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    assert set(cli().out.split()) == expected
