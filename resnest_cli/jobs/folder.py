"""An output that is a folder of part files, on any file system: nothing, begun, or finished.

What reads a folder of Parquet passes over names that begin with an underscore. `_summary.json` is
written last; for the rest see `parts`. Or one Parquet file of records, with the folder beside it
until it is finished:

    answers.parquet          all records, in order; its footer says what they were made of
    answers.parquet.parts/   the folder
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import atomic_file, locked, reading, writing
from resnest_cli.jobs.filesystems import names_in, read, remove
from resnest_cli.jobs.job import Report, refused
from resnest_cli.jobs.listing import Input
from resnest_cli.jobs.part_files import FOOTER
from resnest_cli.jobs.parts import Manifest, Parts, content_of, info_of, manifest_of
from resnest_cli.text import count, duration, one_line

_ROWS = 8192  # of a row group at least


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
            with reading(self.output):
                data = read(self._system, self.path("_summary.json"))
            summary: dict[str, Any] = json.loads(data or b"")
            report.finished_before, report.failures = True, summary["failures"]
            return summary
        with self.writing():
            for name in names_in(self._system, self.folder):
                if name.endswith(".tmp") and self.ours.fullmatch(name):
                    remove(self._system, self.path(name))
        failed, total = sum(report.failures.values()), time.monotonic() - self._begun
        summary = info_of(
            manifest.identity, manifest.listing, manifest.inputs, manifest.inputs - failed
        ) | {
            "failures": report.failures,
            "parts": {
                "size": manifest.part_size,
                "computed": report.computed,
                "found": report.parts - report.computed,
            },
            "seconds": {"total": total, "computing": report.elapsed, **report.seconds},
            "photos": report.photos,
            "photos_per_second": report.photos / max(report.elapsed, 1e-9),
        }
        self.put_json("_summary.json", summary)
        return summary

    def summary_text(self, report: Report) -> str:
        """The summary of a run, for people."""
        seconds = f"{duration(report.info['seconds']['total'])} in all"
        times = "" if report.finished_before else seconds
        return report.text(times, "their rows say", self._made(report.info))

    def _made(self, info: dict[str, Any]) -> str:
        parts, inputs = info["parts"], info["counts"]["inputs"]
        found = f", {parts['found']:,} of them found" if parts["found"] else ""
        number = parts["computed"] + parts["found"]
        return f"{self.output}: {count(inputs, 'row')} in {count(number, 'part')}{found}"


class ParquetOutput(FolderOutput):
    """One Parquet file of records, and the folder of its parts; see `run`."""

    def __init__(self, target: Path) -> None:
        super().__init__(f"{target}.parts", "parquet")
        self._target = target

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the file and the folder."""
        with locked(self._target), super().locked():
            yield

    def look(self, *, resume: bool, overwrite: bool) -> Manifest | None:
        """What there is to go on with: parts, else a finished file."""
        begun = super().look(resume=resume, overwrite=overwrite)
        if begun is not None:
            return replace(begun, finished=False)  # the file is still to be made
        if overwrite or not self._target.exists():
            return None
        if not resume:
            raise refused(self._target, unfinished=False)
        self.manifest = manifest_of(self._footer_of_file()["manifest"], finished=True)
        return self.manifest

    def names(self, manifest: Manifest) -> Iterator[str]:
        """The names of the inputs, in order; those of a finished file are `escaped`."""
        if not manifest.finished:
            yield from super().names(manifest)
            return
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._target) as file:
            for batch in file.iter_batches(columns=["input"]):
                yield from batch.column(0).to_pylist()

    def finish(self, manifest: Manifest, report: Report) -> dict[str, Any]:
        """Puts the parts together, row group by row group, and removes them."""
        if manifest.finished:
            summary: dict[str, Any] = self._footer_of_file()["summary"]
            report.finished_before, report.failures = True, summary["failures"]
            return summary
        summary = super().finish(manifest, report)
        with writing(self._target):
            self._assemble(manifest, {"manifest": content_of(manifest), "summary": summary})
        self.clear()
        return summary

    def _made(self, info: dict[str, Any]) -> str:
        return f"{self._target}: {info['counts']['inputs']:,} rows"

    def _assemble(self, manifest: Manifest, about: dict[str, Any]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        footer = {FOOTER: json.dumps(about).encode()}
        schema = pq.read_schema(self.part_path(0)).with_metadata(footer)
        count = len(manifest.sizes)
        with atomic_file(self._target) as file, pq.ParquetWriter(file, schema) as writer:
            group: list[pa.Table] = []
            for part in range(count):
                table = pq.read_table(self.part_path(part))
                group.append(table.replace_schema_metadata(footer))
                rows = sum(map(len, group))
                if rows >= _ROWS or part == count - 1:
                    writer.write_table(pa.concat_tables(group), row_group_size=rows)
                    group = []

    def _footer_of_file(self) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(self._target).metadata or {}
            about: dict[str, Any] = json.loads(metadata[FOOTER])
            about["manifest"], about["summary"]
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise ResnestError(
                f"{self._target} was not made by this command: {one_line(str(error))}. "
                "--overwrite replaces it."
            ) from error
        return about
