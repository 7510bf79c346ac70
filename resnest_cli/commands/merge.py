"""`resnest merge`: the outputs of all shards -> one."""

from pathlib import Path
from typing import Annotated

from resnest_cli import output
from resnest_cli.commands.flags import command
from resnest_cli.errors import UsageError
from resnest_cli.options import Option

EXAMPLES = """
resnest merge feats-*.npy -o feats.npy
resnest merge part1.npz part2.npz -o feats.parquet --overwrite
"""


@command
def merge(
    *,
    parts: Annotated[
        list[Path], Option("Finished outputs of all shards.", "PART...", argument=True)
    ],
    output_: Annotated[
        Path | None,
        Option("The joined matrix: .npy, .npz, .csv or .parquet. Required.", "-o FILE"),
    ] = None,
    overwrite: Annotated[bool, Option("Replace what is there under this name.")] = False,
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
