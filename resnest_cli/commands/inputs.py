"""What commands share: checks before anything slow begins, and records as they come."""

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar

import typer

from resnest_cli import output
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.files import writing
from resnest_cli.images.archives import split
from resnest_cli.images.sources import EXTENSIONS, SourceStats, is_one
from resnest_cli.options import ModelOptions, RayOptions, RunOptions
from resnest_cli.paths import check_not_read, check_place, is_address, is_file_url
from resnest_cli.text import printable_name

T = TypeVar("T")

_FEW = 10  # photos that could not be read, named at the end


def check_inputs(run: RunOptions) -> None:
    """Raises where no photo is named, or the library that reads videos is missing."""
    if not any((*run.inputs, run.from_file)):
        raise UsageError("name at least one PHOTO, or a list of them with --from-file.")
    if run.every is not None and find_spec("av") is None:
        raise ResnestError('--every reads videos with PyAV. Run: pip install "resnest-cli[video]"')


def check_runner(ray: RayOptions, run: RunOptions, output_: str | None) -> None:
    """Raises UsageError for what one runner has of options and file systems, and the other not."""
    if ray.runner == "ray":
        if run.frames is not None or run.every is not None:
            raise UsageError("--frames and --every are for --runner local.")
        places = filter(None, map(split, run.inputs))
        if any(inner or not path.endswith(".tar") for path, inner in places):
            raise UsageError("photos inside archives, but for .tar shards, are for --runner local.")
        return
    for name in ("ray_address", "gpus_per_worker", "concurrency", "path_column"):
        if getattr(ray, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --runner ray.")
    for place in (*(text for text in run.inputs if not is_file_url(text)), str(output_)):
        if is_address(place):
            raise UsageError(f"{place}: file systems such as this one need --runner ray.")


def explicit(run: RunOptions) -> int | None:
    """How many photos there are, where each is named by itself."""
    single = run.from_file is None and run.frames is None and run.every is None
    named = single and all(map(is_one, run.inputs))
    return len(run.inputs) if named else None


def files_read(run: RunOptions, model: ModelOptions) -> tuple[str | None, ...]:
    """What a command reads, by name."""
    archives = (place[0] for place in map(split, run.inputs) if place is not None)
    return (*run.inputs, *archives, run.from_file, model.model, model.weights, model.labels)


def check_written(path: Path, read: Iterable[str | None]) -> None:
    """Raises where a text file would replace a photo, a folder or a file that is `read`."""
    if path.suffix.lower() in EXTENSIONS:
        raise UsageError(f"{path}: records are text; photos are never written to.")
    check_place(path)
    check_not_read(path, read)


class _Shown(Protocol):
    """What a photo gives: a record, or an explanation."""

    @property
    def input(self) -> str: ...
    @property
    def error(self) -> str | None: ...


R = TypeVar("R", bound=_Shown)


def show_records(
    found: Iterable[R],
    total: int | None,
    write: Callable[[R], None],
    close: Callable[[], None],
    stats: SourceStats,
) -> tuple[int, int, list[str]]:
    """Writes records as they come, with a bar; raises a ResnestError where there is none.

    Returns how many came, how many of them are errors, and lines about the first of those.
    """
    done, failed, lines = 0, 0, list[str]()
    with output.Bar(beside_records=True) as progress:
        for done, one in enumerate(found, 1):
            write(one)
            if one.error is not None:
                failed += 1
                lines += [f"{one.input}: {one.error}"] if failed <= _FEW else []
            progress(done, total, failed=failed)
    close()
    if stats.skipped:
        output.message(
            f"{stats.skipped} other file(s) without a known image extension were skipped."
        )
    if not done:
        raise ResnestError("no photo found in what was named.")
    return done, failed, lines


def finish(
    failed: int, done: int, what: str, lines: Sequence[str] = (), *,
    refused: ResnestError | None = None,
) -> None:  # fmt: skip
    """Says how many inputs could not be read, with some of them; then exits with 3.

    What was `refused` is raised now, when everything else is out.
    """
    if failed:
        more = [f"and {failed - len(lines)} more"] if 0 < len(lines) < failed else []
        text = f"{failed} of {done} {what} could not be read{':' if lines else '.'}"
        output.message("\n  ".join([text, *map(printable_name, lines), *more]))
    if refused is not None:
        raise refused
    if failed:
        raise typer.Exit(3)


def show_summary(
    summary: dict[str, Any], format_: str, show_table: Callable[[dict[str, Any]], None]
) -> None:
    """A command's answer on stdout, as JSON or in words."""
    if format_ == "json":
        output.show_json(summary)
    else:
        show_table(summary)


class _Page(Protocol):
    def write(self, path: Path) -> None: ...


def write_page(page: _Page, path: Path) -> None:
    """Writes a page, and says where."""
    with writing(path):
        page.write(path)
    output.message(f"Page written to {path}.")
