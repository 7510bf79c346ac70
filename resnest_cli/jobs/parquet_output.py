"""An output that is one Parquet file of records: its parts lie in a folder beside it meanwhile.

answers.parquet          all records, in order; its footer says what they were made of
answers.parquet.parts/   the folder of a run that is not finished; see `jobs.parts`
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnest_cli.errors import ResnestError
from resnest_cli.files import atomic_file, locked, writing
from resnest_cli.jobs.folder import FolderOutput
from resnest_cli.jobs.formats import FOOTER
from resnest_cli.jobs.job import Report, refused
from resnest_cli.jobs.parts import Manifest, content_of, manifest_of
from resnest_cli.text import one_line

_ROWS = 8192  # of a row group at least
_ODD_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")  # of a name, as a column of text has it


class ParquetOutput(FolderOutput):
    """The file, and the folder of its parts; see `run`."""

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
        """The names of the inputs, in order."""
        if not manifest.finished:
            yield from super().names(manifest)
            return
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._target) as file:
            for batch in file.iter_batches(columns=["input"]):
                for name in batch.column(0).to_pylist():
                    yield _ODD_BYTE.sub(lambda byte: chr(0xDC00 + int(byte[1], 16)), name)

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
