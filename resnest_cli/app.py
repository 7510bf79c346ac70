"""Table of contents of the command line, and its one error boundary."""

import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from resnest_cli import __version__, output
from resnest_cli.errors import ResnestError, limit_reached, reason, remedy
from resnest_cli.paths import local_arguments
from resnest_cli.text import printable_name

# Command -> its function in the module of `commands` that has the command's name.
COMMANDS = {
    "predict": "predict",
    "features": "features",
    "merge": "merge",
    "evaluate": "evaluate_command",
    "benchmark": "benchmark_command",
    "explain": "explain_command",
    "finetune": "finetune",
    "train": "train",
    "pack": "pack",
    "average": "average",
    "export": "export_command",
    "download": "download",
    "models": "app",
}

EPILOG = """Examples:

  resnest predict dog.jpg --model resnest101e --topk 5

  resnest features photos/ -o feats.npy

  resnest finetune data/ --classes 10

  resnest models

  resnest download resnest50d

Exit codes: 0 all done; 1 fatal; 2 usage; 3 finished, but some inputs failed; 130 Ctrl-C;
143 SIGTERM; 129 SIGHUP; 141 the reader of a pipe has gone."""


def command_line(wanted: str | None = None) -> typer.Typer:
    """The command line; with `wanted`, a command's name, no other is loaded: a quarter sooner."""
    app = typer.Typer(
        name="resnest",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=EPILOG,
    )
    app.callback()(resnest)
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        module = import_module(f"resnest_cli.commands.{name}")
        found = getattr(module, COMMANDS[name])
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name, cls=getattr(module, "CLASS", None), epilog=module.EPILOG)(found)
    return app


def _version(value: bool) -> None:
    if value:
        output.emit(f"resnest {__version__}\n")
        raise typer.Exit


def resnest(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Classify images with ResNeSt, the split-attention network."""


def main() -> NoReturn:
    """Runs the command line and exits; every error becomes a message and an exit code here."""
    try:
        sys.argv[1:] = local_arguments(sys.argv[1:])
        command_line(next(iter(sys.argv[1:]), None))(prog_name="resnest")
    except ResnestError as error:
        _fail(str(error), error, error.exit_code)
    except OSError as error:  # where nobody has said it better: the machine's fault, not ours
        if error.filename is None and (limit := limit_reached(error)) is not None:
            _fail(limit, error, 1)
        where = printable_name(str(error.filename or "a file or pipe"))
        text = f"{where}: cannot be read or written: {reason(error)}. {remedy(error)}".rstrip()
        _fail(f"{text} --debug shows at which step.", error, 1)
    except Exception as error:
        what = f"internal error: {type(error).__name__}: {error}"
        _fail(limit_reached(error) or f"{what}\nRun again with --debug and report it.", error, 1)
    sys.exit(0)


def _fail(text: str, error: Exception, code: int) -> NoReturn:
    if output.debug_wanted():
        import traceback

        traceback.print_exception(error)
    output.error(text)
    sys.exit(code)
