"""`resnest merge`: the outputs of all shards -> one."""

from pathlib import Path
from typing import Annotated

from resnest_cli import output
from resnest_cli.commands.flags import command
from resnest_cli.errors import UsageError
from resnest_cli.options import Option
from resnest_cli.text import count

PAGE = "features"
EXAMPLES = """
resnest merge feats-*.npy -o feats.npy
resnest merge part1.npz part2.npz -o feats.parquet --overwrite
resnest merge cats.npy dogs.npy -o animals.npy
"""


@command
def merge(
    *,
    parts: Annotated[list[Path], Option("Finished outputs.", "PART...", argument=True)],
    output_: Annotated[
        Path | None,
        Option("The joined matrix: .npy, .npz, .csv or .parquet. Required.", "-o FILE"),
    ] = None,
    overwrite: Annotated[bool, Option("Replace what is there under this name.")] = False,
) -> None:
    """Join finished outputs of `resnest features`: all shards of a list, or any others.

    Of shards (--shard I/N), checks that all are there, each once, of the same inputs, model and
    options; the result is what one run over all inputs would have written, byte for byte. Other
    outputs of one model and the same options stand one behind the other, as they are named; no
    input may stand in two of them. The parts are left as they are.
    """
    from resnest_cli.jobs.file_output import check_name, held
    from resnest_cli.jobs.formats import matrix_of
    from resnest_cli.jobs.merge import merge as join

    if output_ is None:
        raise UsageError("name the file to write with -o: feats.npy, .npz, .csv or .parquet.")
    check_name(output_)
    with held(output_):
        info = join(parts, output_, overwrite=overwrite)
    matrix = matrix_of(info)
    output.message(
        f"{output_}: {matrix.dtype} {matrix.shape} of {matrix.inputs:,} inputs in "
        f"{count(len(parts), 'part')}."
    )
