"""`resnest merge`: the outputs of all shards -> one."""

from pathlib import Path
from typing import Annotated

import typer

from resnest_cli import output
from resnest_cli.commands import typer_options as options
from resnest_cli.errors import UsageError

EPILOG = """Examples:

  resnest merge feats-*.npy -o feats.npy

  resnest merge part1.npz part2.npz -o feats.parquet --overwrite"""


def merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART...", help="Finished outputs of all shards.")
    ],
    output_: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The joined matrix: .npy, .npz, .csv or .parquet. Required.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there under this name.")
    ] = False,
    quiet: options.Quiet = False,  # noqa: ARG001 (its callback acts)
    debug: options.Debug = False,  # noqa: ARG001 (its callback acts)
) -> None:
    """Join what `resnest features --shard I/N` wrote, in the order of the inputs.

    Checks that all shards are there, each once, of the same inputs, model and options. The result
    is what one run over all inputs would have written, byte for byte; the parts are left as they
    are.
    """
    from resnest_cli.jobs.assemble import merge as join
    from resnest_cli.jobs.formats import matrix_of
    from resnest_cli.jobs.parts import check_name, held

    if output_ is None:
        raise UsageError("name the file to write with -o: feats.npy, .npz, .csv or .parquet.")
    check_name(output_)
    with held(output_):
        info = join(parts, output_, overwrite=overwrite)
    matrix = matrix_of(info)
    output.message(
        f"{output_}: {matrix.dtype} {matrix.shape} of {matrix.inputs:,} inputs in "
        f"{len(parts)} shards."
    )
