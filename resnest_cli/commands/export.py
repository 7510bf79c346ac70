"""`resnest export`: a network as a file for other programs."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnest_cli import output
from resnest_cli.commands.flags import command
from resnest_cli.commands.inputs import show_summary
from resnest_cli.errors import UsageError, need
from resnest_cli.export import ExportJob
from resnest_cli.files import check_folder, locked
from resnest_cli.net import Access
from resnest_cli.options import DEFAULT_MODEL, Labels, ModelName, Option, TableFormat, Weights
from resnest_cli.output.results import show_export
from resnest_cli.paths import check_not_read, check_place
from resnest_cli.text import count, printable_name

if TYPE_CHECKING:
    from resnest_cli.model.loading import Model

FIRST = "model output_ hub push check fp16 int8 calibrate opset quiet"
EXAMPLES = """
resnest export --model best.safetensors -o model.onnx --check photos/
resnest export --model best.safetensors -o model.pt2
resnest export --model best.safetensors -o half.onnx --fp16 --check photos/
resnest export --model best.safetensors -o openvino/model.xml
resnest export --model best.safetensors -o small.onnx --int8 --calibrate data/
resnest export --model best.safetensors --hub my-model/
resnest export -m best.safetensors --hub my-model/ --push USER/NAME --dry-run
resnest predict photo.jpg --model model.onnx
"""


@command
def export(
    *,
    model: ModelName = DEFAULT_MODEL,
    output_: Annotated[
        Path | None,
        Option(
            "The file to write: .onnx, .pt2 for torch, .xml (and .bin) for OpenVINO.", "-o FILE"
        ),
    ] = None,
    hub: Annotated[
        Path | None, Option("Write a folder for Hugging Face's hub and timm instead.", "DIR")
    ] = None,
    push: Annotated[
        str | None, Option("Send the files of --hub to this repository, made if new.", "USER/NAME")
    ] = None,
    private: Annotated[bool, Option("Make the new repository of --push private.")] = False,
    dry_run: Annotated[bool, Option("With --push: only list files and sizes.")] = False,
    job: ExportJob,
    license_: Annotated[
        str | None, Option("Of the weights, for --hub: cc-by-4.0, ...", "ID")
    ] = None,
    format_: TableFormat = "table",
    weights: Weights = None,
    labels: Labels = None,
    access: Access,
) -> None:
    """Write a network as a file for other programs, and check that it says the same.

    The file holds classes, preprocessing and temperature. It is compared with the model on random
    inputs, and on your photos with --check; where a probability differs by more than 0.0001
    nothing is written, and the exit code is 1. Where a photo may have several labels, the file also
    names the sigmoid and holds the threshold of each label.
    """
    if (output_ is None) == (hub is None):
        raise UsageError("name the file with -o model.onnx (or .pt2), or a folder with --hub DIR.")
    from resnest_cli.export.hub_folder import push_target
    from resnest_cli.export.openvino import load_openvino
    from resnest_cli.model.loading import find_model

    need("torch", "export")  # before weights are fetched
    if output_ is not None:
        job = replace(job, output=output_)
        job.check_options()
        check_place(output_)
        check_not_read(output_, (model, weights, labels))
        if output_.suffix.lower() == ".xml":
            check_place(output_.with_suffix(".bin"))
            check_not_read(output_.with_suffix(".bin"), (model, weights, labels))
            load_openvino()
        if license_ is not None:
            raise UsageError("--license goes into the model card of --hub DIR.")
    for name in ("check", "fp16", "int8", "calibrate", "opset"):
        if hub is not None and getattr(job, name) not in {None, False}:
            raise UsageError(f"--{name} goes with -o FILE, not with --hub.")
    repository = push_target(
        push, hub=hub, private=private, dry_run=dry_run, offline=access.offline
    )
    found = find_model(model, source=weights, labels=labels, access=access)
    if hub is not None:
        check_folder(hub, "--hub")
    with locked(output_, folder=hub):
        if hub is not None:
            summary = _to_hub(found, hub, license_, repository, private=private, dry_run=dry_run)
            show_summary(summary, format_, show_export)
        else:
            _to_file(found, job, format_)


def _to_file(model: "Model", job: ExportJob, format_: TableFormat) -> None:
    from resnest_cli.export.export import export

    with output.Bar() as progress:
        found = export(model, job, progress)
    # The file first: whoever reads stdout may leave early.
    if not found.broken:
        found.write(job.output)
    for note in found.notes:
        output.message(note)
    show_summary(found.summary, format_, show_export)
    if found.broken:
        raise found.refusal(job.output)
    for name, why in list(found.unreadable.items())[:5]:
        output.message(f"{printable_name(name)}: {why}")
    if found.unreadable:
        output.message(f"{count(len(found.unreadable), 'photo')} could not be read.")
        raise typer.Exit(3)


def _to_hub(
    model: "Model", folder: Path, license_: str | None, repository: str | None, *,
    private: bool, dry_run: bool,
) -> dict[str, Any]:  # fmt: skip
    from resnest_cli.export.hub_folder import push_folder, rehearse, write_folder

    if repository and dry_run:
        summary = rehearse(model, folder, license_, repository, private=private)
    else:
        summary = write_folder(model, folder, license_)
    if not summary["timm"]:
        output.message(
            "timm cannot build this network; the model card says how to load it with resnest-cli."
        )
    if repository and not dry_run:
        return push_folder(folder, summary, repository, private=private, notify=output.message)
    return summary
