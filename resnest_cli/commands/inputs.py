"""What commands share: checks before anything slow begins, and records as they come."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resnest_cli import output
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import writing
from resnest_cli.images.sources import EXTENSIONS, is_one
from resnest_cli.model.weights import Access
from resnest_cli.options import ModelOptions, RayOptions, RunOptions
from resnest_cli.paths import check_not_read, check_place, is_file_url

if TYPE_CHECKING:
    from resnest_cli.report.pages import Page

T = TypeVar("T")


def access(mirror: str | None, offline: bool) -> Access:
    """How weights may be had, with progress and messages on stderr."""
    return Access(mirror, offline, output.DownloadBar(), output.message)


def by_name(*records: Any, **more: Any) -> dict[str, Any]:
    """All options of records, by their names."""
    return {f.name: getattr(one, f.name) for one in records for f in fields(one)} | more


def check_inputs(run: RunOptions) -> None:
    """Raises UsageError where no photo is named."""
    if not any((*run.inputs, run.from_file)):
        raise UsageError("name at least one PHOTO, or a list of them with --from-file.")


def check_runner(ray: RayOptions, inputs: Iterable[str], output_: str | None) -> None:
    """Raises UsageError for options and file systems of Ray's runner that go to the local one."""
    if ray.runner == "ray":
        return
    for name in ("ray_address", "gpus_per_worker", "concurrency", "path_column"):
        if getattr(ray, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --runner ray.")
    for place in (*(text for text in inputs if not is_file_url(text)), str(output_)):
        if "://" in place:
            from resnest_cli.jobs.filesystems import is_address

            if is_address(place):
                raise UsageError(f"{place}: file systems such as this one need --runner ray.")


def explicit(run: RunOptions) -> int | None:
    """How many photos there are, where each is named by itself."""
    named = run.from_file is None and all(map(is_one, run.inputs))
    return len(run.inputs) if named else None


def files_read(run: RunOptions, model: ModelOptions) -> tuple[str | None, ...]:
    """What a command reads, by name."""
    return (*run.inputs, run.from_file, model.model, model.weights, model.labels)


def check_written(path: Path, read: Iterable[str | None]) -> None:
    """Whether a text file can be written; `read` are the files that the command reads.

    Raises:
        UsageError: it has the name of a photo, or is one of the files that are read.
        ResnestError: it is a folder, or its own does not exist.
    """
    if path.suffix.lower() in EXTENSIONS:
        raise UsageError(f"{path}: records are text; photos are never written to.")
    check_place(path)
    check_not_read(path, read)


def show_all(
    found: Generator[T, None, int], total: int | None, show: Callable[[T], bool]
) -> tuple[int, int, int]:
    """Shows records as they come, with a bar; `show` returns whether one is an error.

    Returns how many came, how many of them are errors, and how many files were passed over.
    """
    done = failed = 0
    with output.RecordProgress(total) as progress:
        while True:
            try:
                record = next(found)
            except StopIteration as end:
                return done, failed, int(end.value)
            failed += show(record)
            done += 1
            progress.update(done, failed)


def check_found(done: int, skipped: int) -> None:
    """Says what was passed over. Raises ResnestError where nothing is left."""
    if skipped:
        output.message(f"{skipped} other file(s) without a known image extension were skipped.")
    if not done:
        raise ResnestError("no photo found in what was named.")


def show_summary(
    summary: dict[str, Any], format_: str, show_table: Callable[[dict[str, Any]], None]
) -> None:
    """A command's answer on stdout, as JSON or in words."""
    if format_ == "json":
        output.emit(output.to_json(summary, indent=2) + "\n")
    else:
        show_table(summary)


def write_page(page: "Page", path: Path) -> None:
    """Writes a page, and says where."""
    with writing(path):
        page.write(path)
    output.message(f"Page written to {path}.")
