"""The files of a check: a folder of `issues.csv` and `summary.json`."""

from pathlib import Path

from resnest_cli.inspection.check import Findings, summary
from resnest_cli.inspection.issues import csv_text, json_text
from resnest_cli.report.pages import write_texts


def write_all(folder: Path, findings: Findings) -> None:
    """Writes both, each whole or not at all."""
    texts = {"issues.csv": csv_text(findings.issues), "summary.json": json_text(summary(findings))}
    write_texts(folder, texts)
