"""The command line as a whole: help, version, completion, start-up imports, the error boundary."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import resnest_cli
from resnest_cli import app
from resnest_cli.commands.flags import load
from tests.conftest import Cli

COMMANDS = [["predict"], ["features"], ["benchmark"], ["explain"], ["evaluate"], ["export"],
            ["average"], ["merge"], ["download"], ["pack"],
            ["models"], ["models", "verify"], ["models", "clean"], ["models", "show"]]  # fmt: skip


# Sorting, keywords, frames and videos: parts of `predict` that are options.
UNASKED = {
    "resnest_cli.sorting.sort", "resnest_cli.report.sidecars", "resnest_cli.images.xmp",
    "resnest_cli.images.frames", "sqlite3", "av",
}  # fmt: skip


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["predict", "--help"], ["features", "--help"], ["explain", "--help"], ["models"]],
)
def test_help_and_lists_import_no_torch(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['resnest', *{arguments!r}]\n"
        "from resnest_cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print('IMPORTED', *sys.modules)"
    )
    imported = python(code).split("IMPORTED")[1].split()
    assert "resnest_cli.app" in imported
    assert not {"torch", "torchvision", "timm", "onnx", "onnxruntime"} & set(imported)
    if arguments != ["models"]:
        assert not {"pydantic", "rich", "jinja2"} & set(imported)
    loaded = {name for name in app.COMMANDS if f"resnest_cli.commands.{name}" in imported}
    assert loaded == {arguments[0]} - {"--help"}  # a command does not wait for the others


def test_module_script_and_version() -> None:
    command = [sys.executable, "-m", "resnest_cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"resnest {resnest_cli.__version__}\n"
    script = Path(sys.executable).with_name("resnest")
    if not script.exists():
        script = script.with_suffix(".exe")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"resnest {resnest_cli.__version__}\n"


def test_top_help_names_every_command_and_the_exit_codes(cli: Cli) -> None:
    result = cli("--help")
    assert result.code == 0
    for name in (
        *(f"\n  {name} " for name in app.COMMANDS),
        "Examples",
        "Exit codes",
        "completion",
    ):
        assert name in result.out
    assert "Usage: resnest " in result.out
    assert "python -m" not in result.out
    nothing = cli()
    assert nothing.code == 2
    assert nothing.err.strip() == result.out.strip()
    assert "Did you mean 'features'" in cli("feature").err


@pytest.mark.parametrize("name", app.COMMANDS)
def test_the_table_of_commands_has_the_first_line_of_each(name: str) -> None:
    assert load(name).get_short_help_str(1000) == app.COMMANDS[name]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_examples(cli: Cli, command: list[str]) -> None:
    result = cli(*command, "--help")
    assert result.code == 0
    examples = result.out.split("Examples:")[1]
    assert f"resnest {' '.join(command)}" in re.sub(r"\s+", " ", examples)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    environment = {
        "bash": {"COMP_WORDS": "resnest pre", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "resnest pre"},
        "fish": {"_TYPER_COMPLETE_ARGS": "resnest pre", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    code = (
        "import os, sys\n"
        f"os.environ.update({environment!r}, _RESNEST_COMPLETE='complete_{shell}')\n"
        "sys.argv = ['resnest']\n"
        "from resnest_cli.app import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert "predict" in done.stdout, done.stderr
    assert "download" not in done.stdout


def test_shell_completion_of_a_commands_options() -> None:
    environment = {"COMP_WORDS": "resnest predict --top", "COMP_CWORD": "2"}
    code = (
        "import os, sys\n"
        f"os.environ.update({environment!r}, _RESNEST_COMPLETE='complete_bash')\n"
        "sys.argv = ['resnest']\nfrom resnest_cli.app import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["--topk"], done.stderr


def test_unexpected_errors_are_one_message_and_exit_1(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, photo: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("sprockets")

    monkeypatch.setattr("resnest_cli.inference.classifier.find_model", broken)
    result = cli("predict", photo)
    assert result.code == 1
    assert "internal error: RuntimeError: sprockets" in result.err
    assert "Traceback" not in result.err
    assert "Traceback" in cli("predict", photo, "--debug").err


def test_interrupt_exits_130(cli: Cli, monkeypatch: pytest.MonkeyPatch, photo: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnest_cli.inference.classifier.find_model", interrupted)
    result = cli("predict", photo)
    assert result.code == 130
    assert "Traceback" not in result.err


def test_only_torch_modules_import_torch_and_nothing_is_posix_only() -> None:
    """Every module imports where torch and the POSIX-only modules do not exist."""
    needs_torch = {"resnest_cli.model.resnest", "resnest_cli.model.cost",
                   "resnest_cli.inference.torch_engine",
                   "resnest_cli.explanation.explainer", "resnest_cli.benchmark.measure",
                   "resnest_cli.benchmark.timing"}  # fmt: skip
    names = [
        module.name
        for module in pkgutil.walk_packages(resnest_cli.__path__, "resnest_cli.")
        if module.name not in needs_torch and not module.name.startswith("resnest_cli.training.")
    ]
    assert "resnest_cli.net.download" in names
    code = (
        "import sys, importlib\n"
        "import platformdirs, typer, rich.console, requests, PIL.Image, numpy\n"
        "import safetensors\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios', 'torch', 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {names!r}:\n"
        "    if not name.endswith('__main__'): importlib.import_module(name)\n"
        "print('done')"
    )
    assert python(code) == "done\n"


def test_main_ends_with_the_commands_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnest_cli.__main__ import main

    monkeypatch.setattr(sys, "argv", ["resnest", "models", "show", "gone.pth"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2


def test_predict_gets_ready_while_its_command_line_is_parsed(
    tiny_checkpoint: Path, photo: Path
) -> None:
    """One decoder, which has been started before Typer is imported; a usage error ends it, too.

    What was not asked for is not loaded.
    """
    code = (
        "import atexit, sys\nfrom resnest_cli.__main__ import main\n"
        "from resnest_cli.images import pool\n"
        "atexit.register(lambda: print('LOADED', *sys.modules, flush=True))\n"
        "class Worker(pool._Worker):\n"
        "    def __init__(self):\n"
        "        print('STARTED', 'typer' in sys.modules)\n"
        "        super().__init__()\n"
        "pool._Worker = Worker\n"
        f"sys.argv = ['resnest', 'predict', {str(photo)!r}, '-m', {str(tiny_checkpoint)!r}]\n"
        "main()"
    )
    out, _, loaded = python(code).partition("LOADED")
    assert "Rank" in out
    assert "resnest_cli.commands.predict" in loaded.split()
    assert UNASKED & set(loaded.split()) == set()
    assert out.count("STARTED") == out.count("STARTED False") == 1
    done = subprocess.run(
        [sys.executable, "-m", "resnest_cli", "predict", "x.jpg", "--topk", "0"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "topk" in done.stderr
