"""An output that is a folder of part files, on any file system: nothing, begun, or finished.

What reads a folder of Parquet passes over names that begin with an underscore. `_summary.json` is
written last; for the rest see `parts`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import locked
from resnest_cli.jobs.filesystems import names_in, read, remove
from resnest_cli.jobs.job import Report, refused
from resnest_cli.jobs.listing import Input
from resnest_cli.jobs.parts import Manifest, Parts


class FolderOutput(Parts):
    """The folder; see `run`."""

    def __init__(self, output: str, suffix: str, manifest: Manifest | None = None) -> None:
        super().__init__(output, suffix, manifest)
        self._begun = time.monotonic()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder against another run, where it is on a local file system."""
        with self.writing():
            self._system.create_dir(self.folder, recursive=True)
        local = self._system.type_name == "local"
        with locked(folder=Path(self.folder) if local else None):
            yield

    def look(self, *, resume: bool, overwrite: bool) -> Manifest | None:
        """What there is to go on with; None where the run begins."""
        names = self.file_names()
        begun = "_manifest.json" in names
        if overwrite or not (begun or any(name.startswith("part-") for name in names)):
            foreign = [name for name in names if not self.ours.fullmatch(name)]
            if foreign:
                raise UsageError(
                    f"{self.output} holds other files ({foreign[0]}): name a folder of its own."
                )
            return None
        if not resume:
            raise refused(self.output, unfinished="_summary.json" not in names)
        manifest = self.read_manifest()
        if manifest is None:
            raise ResnestError(
                f"{self.output} has parts, but no _manifest.json: --overwrite starts afresh."
            )
        if "_summary.json" in names:
            whole = len(self.whole_parts(manifest)) == len(manifest.sizes)
            self.manifest = manifest = replace(manifest, finished=whole)
        self.check_format(manifest)
        return manifest

    def retry(
        self, manifest: Manifest, _identity: dict[str, Any], _inputs: Iterator[Input]
    ) -> Manifest:
        """Removes the parts with failures, and what says that the run is finished."""
        failed = [info.part for info in self.whole_parts(manifest) if info.failed]
        if not failed:
            return manifest
        manifest = replace(manifest, finished=False)
        self.check_format(manifest)
        with self.writing():
            remove(self._system, self.path("_summary.json"))
        for part in failed:
            self.remove_part(part)
        return manifest

    def finish(self, manifest: Manifest, report: Report) -> dict[str, Any]:
        """Writes `_summary.json`, and returns it; removes files that a kill has cut off."""
        if manifest.finished:
            with self.reading():
                data = read(self._system, self.path("_summary.json"))
            summary: dict[str, Any] = json.loads(data or b"")
            report.finished_before, report.failures = True, summary["failures"]
            return summary
        with self.writing():
            for name in names_in(self._system, self.folder):
                if name.endswith(".tmp") and self.ours.fullmatch(name):
                    remove(self._system, self.path(name))
        failed, total = sum(report.failures.values()), time.monotonic() - self._begun
        summary = {
            **manifest.identity,
            "list": manifest.listing.about,
            "counts": {
                "inputs": manifest.inputs, "rows": manifest.inputs - failed, "failed": failed
            },
            "failures": report.failures,
            "parts": {
                "size": manifest.part_size,
                "computed": report.computed,
                "found": report.parts - report.computed,
            },
            "seconds": {"total": total, "computing": report.elapsed, **report.seconds},
            "photos": report.photos,
            "photos_per_second": report.photos / max(report.elapsed, 1e-9),
        }  # fmt: skip
        self.put_json("_summary.json", summary)
        return summary

    def summary_text(self, report: Report) -> str:
        """The summary of a run, for people."""
        seconds = f"{report.info['seconds']['total']:.1f} s in all"
        times = "" if report.finished_before else seconds
        return report.text(times, "their rows say", self._made(report.info))

    def _made(self, info: dict[str, Any]) -> str:
        parts, inputs = info["parts"], info["counts"]["inputs"]
        found = f", {parts['found']:,} of them found" if parts["found"] else ""
        count = parts["computed"] + parts["found"]
        return f"{self.output}: {inputs:,} rows in {count:,} part(s){found}"
