"""What commands share: checks before anything slow begins, and records as they come."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, TypeVar

import typer

from resnest_cli import output
from resnest_cli.errors import ResnestError, UsageError, need
from resnest_cli.files import writing
from resnest_cli.images.archives import split
from resnest_cli.images.inputs import listed
from resnest_cli.images.sources import EXTENSIONS, SourceStats, is_one
from resnest_cli.options import ModelOptions, RayOptions, RunOptions
from resnest_cli.paths import check_not_read, check_place, is_address, is_file_url
from resnest_cli.text import printable_name, skipped_files

T = TypeVar("T")

_FEW = 10  # photos that could not be read, named at the end


def format_by_name(file: Path | None, formats: Mapping[str, str]) -> str:
    """How records are written to -o FILE, which its extension says; a table without or with .txt.

    Raises:
        UsageError: the extension is of something else.
    """
    suffix = "" if file is None else file.suffix.lower()
    if suffix in {"", ".txt", ".log", *formats}:
        return formats.get(suffix, "table")
    raise UsageError(
        f"{file}: the extension says the format: use {', '.join(formats)}, or .txt for a table, or "
        "give --format."
    )


def check_inputs(run: RunOptions) -> None:
    """Raises where no photo is named, or the library that reads videos is missing."""
    if not any((*run.inputs, run.from_file)):
        raise UsageError("name at least one PHOTO, or a list of them with --from-file.")
    if run.every is not None:
        need("av", "--every")


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


def counted_ahead(run: RunOptions) -> Callable[[], int | None]:
    """How many photos folders and lists have, for a bar, as soon as a thread has counted them."""
    found: list[int] = []

    def count_all() -> None:
        with suppress(ResnestError, OSError):  # whoever reads the photos says so
            found.append(sum(1 for _ in listed(run, SourceStats())))

    frames = run.frames is not None or run.every is not None  # whose files would be read twice
    if not frames and "-" not in {*run.inputs, run.from_file} and output.Bar().wanted:
        Thread(target=count_all, daemon=True).start()
    return lambda: found[0] if found else None


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
    total: int | Callable[[], int | None] | None,
    write: Callable[[R], None],
    close: Callable[[], None],
    stats: SourceStats,
    target: Path | None = None,
    kept: str = "",
) -> tuple[int, int, list[str]]:
    """Writes records as they come, with a bar; raises a ResnestError where there is none.

    They go to `target`, or to stdout. After Ctrl-C a message says what is there by then; `kept`
    adds to it. Returns how many came, how many of them are errors, and lines about the first of
    those.
    """
    done, failed, lines = 0, 0, list[str]()
    with output.Bar(beside_records=target is None) as progress:
        try:
            for one in found:
                write(one)
                done += 1
                if one.error is not None:
                    failed += 1
                    lines += [f"{one.input}: {one.error}"] if failed <= _FEW else []
                progress(done, total() if callable(total) else total, failed=failed)
        except KeyboardInterrupt:
            progress.clear()
            if done:
                close()
                records = "the record is" if done == 1 else f"the {done:,} records are"
                where = f"in {target}" if target else "written"
                interrupted(f"{records} {where}.{kept}")
            raise
    close()
    if stats.skipped:
        output.message(skipped_files(stats.skipped))
    if not done:
        raise ResnestError("no photo found in what was named.")
    return done, failed, lines


def interrupted(kept: str) -> None:
    """Says after Ctrl-C what there is by now, and how to go on."""
    output.message(f"interrupted by SIGINT: {kept}")


def finish(
    failed: int, inputs: str, lines: Sequence[str] = (), *,
    refused: ResnestError | None = None,
) -> None:  # fmt: skip
    """Says how many of the `inputs` ("3 photos") could not be read, with some; then exits with 3.

    What was `refused` is raised now, when everything else is out.
    """
    if failed:
        more = [f"and {failed - len(lines)} more"] if 0 < len(lines) < failed else []
        text = f"{failed} of {inputs} could not be read{':' if lines else '.'}"
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
