"""Table of contents of the command line, and its one error boundary."""

import sys
from typing import Annotated, Any, NoReturn

import typer

from resnest_cli import __version__, output
from resnest_cli.commands.flags import LazyGroup
from resnest_cli.errors import PACKAGES, ResnestError, limit_reached, missing, reason, remedy
from resnest_cli.paths import local_arguments
from resnest_cli.text import printable_name

# Command -> the first line of its help. It is loaded when it is named; see `flags.load`.
COMMANDS = {
    "predict": "Say what is in photos: ranked classes with their probabilities.",
    "features": "Turn photos into features: a matrix with a row for each, in the order of the "
    "inputs.",
    "merge": "Join finished outputs of `resnest features`: all shards of a list, or any others.",
    "search": "Find the nearest photos, or groups of alike ones, by what `resnest features` wrote.",
    "evaluate": "Say how good a model is on labelled photos, and where it fails.",
    "check": "Look over labelled photos: bad files, copies, wrong labels, leaks, odd ones.",
    "benchmark": "Say how fast a network is on this machine, and where its time goes.",
    "explain": "Show where in photos the network looked for a class (Grad-CAM).",
    "finetune": "Teach learned weights your own classes.",
    "train": "Train a network on your own classes, from nothing.",
    "pack": "Pack photos into tar shards, from which `resnest train` reads in order.",
    "average": "Average the weights of checkpoints (stochastic weight averaging).",
    "export": "Write a network as a file for other programs, and check that it says the same.",
    "download": "Fetch and verify weights, so that the first run needs no network.",
    "models": "List the variants; verify, clean or look into files of weights.",
    "guide": "Show a page of the manual, or the list of its pages.",
}

EXAMPLES = """
resnest predict dog.jpg --model resnest101e --topk 5
resnest features photos/ -o feats.npy
resnest finetune data/ --classes 10
resnest models
resnest download resnest50d
"""
EXIT_CODES = """Exit codes: 0 all done; 1 fatal; 2 usage; 3 finished, but some inputs failed; 130
Ctrl-C; 143 SIGTERM; 129 SIGHUP; 141 the reader of a pipe has gone."""


class Commands(LazyGroup):
    """All commands."""

    lines = COMMANDS

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the exit codes, too."""
        super().format_help(ctx, formatter)
        formatter.write_text(EXIT_CODES)


def command_line() -> Any:
    """The command line as a whole."""
    app = typer.Typer(
        name="resnest",
        cls=Commands,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=EXAMPLES,
    )
    app.callback()(resnest)
    return typer.main.get_command(app)


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
        command_line()(prog_name="resnest")
    except ResnestError as error:
        _fail(str(error), error, error.exit_code)
    except OSError as error:  # where nobody has said it better: the machine's fault, not ours
        if error.filename is None and (limit := limit_reached(error)) is not None:
            _fail(limit, error, 1)
        where = printable_name(str(error.filename or "a file or pipe"))
        text = f"{where}: cannot be read or written: {reason(error)}. {remedy(error)}".rstrip()
        _fail(f"{text} --debug shows at which step.", error, 1)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES:
            command = next((word for word in sys.argv[1:] if not word.startswith("-")), "this")
            _fail(missing(error.name, command), error, 1)
        what = f"internal error: {type(error).__name__}: {error}"
        _fail(limit_reached(error) or f"{what}\nRun again with --debug and report it.", error, 1)
    sys.exit(0)


def _fail(text: str, error: Exception, code: int) -> NoReturn:
    if output.debug_wanted():
        import traceback

        traceback.print_exception(error)
    output.error(text)
    sys.exit(code)
