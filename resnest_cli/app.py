"""Table of contents of the command line, and its one error boundary."""

import sys
from typing import Annotated, NoReturn

import typer

from resnest_cli import __version__, output
from resnest_cli.commands import (
    average,
    download,
    evaluate,
    features,
    finetune,
    merge,
    models,
    predict,
    train,
)
from resnest_cli.commands.training import GroupedCommand
from resnest_cli.errors import ResnestError

EPILOG = """Examples:

  resnest predict dog.jpg --model resnest101e --topk 5

  resnest features photos/ -o feats.npy

  resnest finetune data/ --classes 10

  resnest models

  resnest download resnest50d

Exit codes: 0 all done; 1 fatal; 2 usage; 3 finished, but some inputs failed; 130 Ctrl-C;
143 SIGTERM; 141 the reader of a pipe has gone."""

app = typer.Typer(
    name="resnest",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def _version(value: bool) -> None:
    if value:
        output.emit(f"resnest {__version__}\n")
        raise typer.Exit


@app.callback()
def resnest(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Classify images with ResNeSt, the split-attention network."""


app.command(epilog=predict.EPILOG)(predict.predict)
app.command(epilog=features.EPILOG)(features.features)
app.command(epilog=merge.EPILOG)(merge.merge)
app.command("evaluate", epilog=evaluate.EPILOG)(evaluate.evaluate_command)
app.command(epilog=finetune.EPILOG, cls=GroupedCommand)(finetune.finetune)
app.command(epilog=train.EPILOG, cls=GroupedCommand)(train.train)
app.command(epilog=average.EPILOG)(average.average)
app.command(epilog=download.EPILOG)(download.download)
app.add_typer(models.app, name="models")


def main() -> NoReturn:
    """Runs the command line and exits; every error becomes a message and an exit code here."""
    try:
        app(prog_name="resnest")
    except ResnestError as error:
        _fail(str(error), error, error.exit_code)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        _fail(f"internal error: {what}\nRun again with --debug and report it.", error, 1)
    sys.exit(0)


def _fail(text: str, error: Exception, code: int) -> NoReturn:
    if output.debug_wanted():
        import traceback

        traceback.print_exception(error)
    output.error(text)
    sys.exit(code)
