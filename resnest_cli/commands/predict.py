"""`resnest predict`: photos -> ranked classes."""

from typing import Annotated

import typer

from resnest_cli import options, output

EPILOG = """Examples:

  resnest predict dog.jpg

  resnest predict dog.jpg --model resnest101e --topk 5

  resnest predict *.jpg --format jsonl > records.jsonl

  resnest predict photo.jpg --model runs/finetune/exp/weights/best.safetensors"""


def predict(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Image files.")],
    model: options.Model = options.DEFAULT_MODEL,
    topk: options.Topk = 5,
    format_: options.RecordFormat = "table",
    weights: options.Weights = None,
    labels: options.Labels = None,
    device: options.Device = "auto",
    mirror: options.Mirror = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,  # noqa: ARG001 (its callback acts)
    debug: options.Debug = False,  # noqa: ARG001 (its callback acts)
) -> None:
    """Say what is in photos: ranked classes with their probabilities.

    One record per photo, always: one that cannot be read gives its error, and exit code 3 at the
    end. Weights are downloaded on first use.
    """
    from resnest_cli.inference.classifier import Classifier

    classifier = Classifier(
        model,
        weights=weights,
        labels=labels,
        device=device,
        access=options.access(mirror, offline),
    )
    writer = output.writer(format_, single=len(photos) == 1)
    failures = 0
    for record in classifier.records(photos, topk=topk):
        writer.write(record)
        failures += record.error is not None
    writer.close()
    if failures:
        output.message(f"{failures} of {len(photos)} input(s) could not be read.")
        raise typer.Exit(3)
