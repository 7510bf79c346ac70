"""`resnest export`: a network as a file for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnest_cli import output
from resnest_cli.commands.inputs import access, show_summary
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import check_folder, locked
from resnest_cli.model.variants import DEFAULT_MODEL
from resnest_cli.options import (
    Labels,
    Mirror,
    ModelName,
    Offline,
    Option,
    TableFormat,
    Weights,
    command,
)
from resnest_cli.paths import check_not_read, check_place

if TYPE_CHECKING:
    from resnest_cli.export.export import ExportJob
    from resnest_cli.export.hub_folder import Push
    from resnest_cli.model.loading import Model

EPILOG = """Examples:

  resnest export --model best.safetensors -o model.onnx --check photos/

  resnest export --model best.safetensors -o model.pt2

  resnest export --model best.safetensors -o small.onnx --int8 --calibrate data/

  resnest export --model best.safetensors --hub my-model/

  resnest export --model best.safetensors --hub my-model/ --push USER/NAME --dry-run

  resnest predict photo.jpg --model model.onnx"""


@command
def export_command(
    *,
    model: ModelName = DEFAULT_MODEL,
    output_: Annotated[
        Path | None, Option("The file to write: .onnx, or .pt2 for torch.", "-o FILE")
    ] = None,
    hub: Annotated[
        Path | None, Option("Write a folder for Hugging Face's hub and timm instead.", "DIR")
    ] = None,
    push: Annotated[
        str | None, Option("Send the files of --hub to this repository, made if new.", "USER/NAME")
    ] = None,
    private: Annotated[bool, Option("Make the new repository of --push private.")] = False,
    dry_run: Annotated[bool, Option("With --push: only list files and sizes.")] = False,
    check: Annotated[
        str | None, Option("Compare the file with the model on these photos.", "DIR")
    ] = None,
    int8: Annotated[bool, Option("8 bits (.onnx): smaller; says what else it changes.")] = False,
    calibrate: Annotated[
        str | None, Option("Photos like those to come, for --int8; half measure.", "DIR")
    ] = None,
    calibrate_photos: Annotated[int, Option("At most so many calibrate.", "[1, 100000]")] = 200,
    opset: Annotated[int | None, Option("ONNX's operators, 13 or later: 17.")] = None,
    license_: Annotated[
        str | None, Option("Of the weights, for --hub: cc-by-4.0, ...", "ID")
    ] = None,
    format_: TableFormat = "table",
    weights: Weights = None,
    labels: Labels = None,
    mirror: Mirror = None,
    offline: Offline = False,
) -> None:
    """Write a network as a file for other programs, and check that it says the same.

    The file holds classes, preprocessing and temperature. It is compared with the model on random
    inputs, and on your photos with --check; where a probability differs by more than 0.0001
    nothing is written, and the exit code is 1.
    """
    if (output_ is None) == (hub is None):
        raise UsageError("name the file with -o model.onnx (or .pt2), or a folder with --hub DIR.")
    only = {"--check": check, "--int8": int8, "--calibrate": calibrate, "--opset": opset}
    if output_ is not None:
        _check_file(output_, int8=int8, calibrate=calibrate, opset=opset)
        check_not_read(output_, (model, weights, labels))
        if license_ is not None:
            raise UsageError("--license goes into the model card of --hub DIR.")
    elif wrong := next((name for name, value in only.items() if value not in {None, False}), None):
        raise UsageError(f"{wrong} goes with -o FILE, not with --hub.")
    target = _push_target(hub, push, private=private, dry_run=dry_run, offline=offline)
    from resnest_cli.model.loading import find_model

    found = find_model(model, source=weights, labels=labels, access=access(mirror, offline))
    if hub is not None:
        check_folder(hub, "--hub")
        with locked(folder=hub):
            _to_hub(found, hub, license_, target, format_, dry_run=dry_run)
        return
    assert output_ is not None
    from resnest_cli.export.export import ExportJob
    from resnest_cli.export.formats import DEFAULT_OPSET

    job = ExportJob(
        output_, DEFAULT_OPSET if opset is None else opset, check, calibrate, calibrate_photos
    )
    with locked(output_):
        _to_file(found, job, format_)


def _push_target(
    hub: Path | None, push: str | None, *, private: bool, dry_run: bool, offline: bool
) -> "Push | None":
    """Where --push sends the folder; what is wrong is said before anything slow begins."""
    if push is None:
        if private or dry_run:
            raise UsageError(f"{'--private' if private else '--dry-run'} goes with --push.")
        return None
    if hub is None:
        raise UsageError("--push sends a folder: name it with --hub DIR.")
    from resnest_cli.export.hub_folder import Push
    from resnest_cli.model.names import repository_id
    from resnest_cli.paths import huggingface_offline

    target = Push(repository_id(push), private, output.message)
    if not dry_run and (offline or huggingface_offline()):
        forbids = "--offline (RESNEST_OFFLINE)" if offline else "HF_HUB_OFFLINE"
        raise UsageError(f"--push connects to the hub, which {forbids} forbids.")
    return target


def _check_file(path: Path, *, int8: bool, calibrate: str | None, opset: int | None) -> None:
    kind = path.suffix.lower()
    if kind not in {".onnx", ".pt2"}:
        raise UsageError(f"{path}: give -o a name that ends in .onnx or .pt2.")
    if kind == ".pt2" and (int8 or opset is not None):
        raise UsageError(f"{'--int8' if int8 else '--opset'} goes with .onnx, not with .pt2.")
    if int8 != (calibrate is not None):
        raise UsageError("--int8 needs photos like those to come: --int8 --calibrate DIR.")
    check_place(path)


def _to_file(model: "Model", job: "ExportJob", format_: TableFormat) -> None:
    from resnest_cli.export.export import export
    from resnest_cli.output.results import show_export

    with output.Bar() as progress:
        found = export(model, job, progress)
    # The file first: whoever reads stdout may leave early.
    if not found.broken:
        found.write(job.output)
    for note in found.notes:
        output.message(note)
    show_summary(found.summary, format_, show_export)
    if found.broken:
        from resnest_cli.export.parity import TOLERANCE

        raise ResnestError(
            f"{job.output} was not written: its probabilities differ from the model's by more than "
            f"{TOLERANCE:g}. Report it, with the versions of onnx, onnxruntime and torch."
        )
    for name, why in list(found.unreadable.items())[:5]:
        output.message(f"{output.printable_name(name)}: {why}")
    if found.unreadable:
        output.message(f"{len(found.unreadable)} photo(s) could not be read.")
        raise typer.Exit(3)


def _to_hub(
    model: "Model",
    folder: Path,
    license_: str | None,
    push: "Push | None",
    format_: TableFormat,
    *,
    dry_run: bool,
) -> None:
    from resnest_cli.export.hub_folder import push_folder, rehearse, write_folder
    from resnest_cli.output.results import show_export

    if push and dry_run:
        summary = rehearse(model, folder, license_, push)
    else:
        summary = write_folder(model, folder, license_)
    if not summary["timm"]:
        output.message(
            "timm cannot build this network; the model card says how to load it with resnest-cli."
        )
    if push and not dry_run:
        summary = push_folder(folder, summary, push)
    show_summary(summary, format_, show_export)
