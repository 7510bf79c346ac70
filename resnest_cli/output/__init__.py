"""The only printer: records on stdout, messages and progress on stderr.

    messages.py   lines on stderr, live ones too; what `--quiet` and `--debug` mean
    sink.py       stdout or a file: whole records, tables of anything else, JSON
    records.py    records and explanations as table, JSON, JSON lines or CSV
    search.py     what `search` found, in the same formats
    results.py    what `evaluate`, `export` and `benchmark` found, as tables
    issues.py     what `check` found
    training.py   what the training commands print

stdout carries records only. Rich is imported where a table or a bar is drawn. Not a terminal,
NO_COLOR or TERM=dumb: no colour, no bars.
"""

from resnest_cli.output.messages import (
    Bar,
    DownloadBar,
    access,
    debug_wanted,
    error,
    message,
    set_debug,
    set_quiet,
)
from resnest_cli.output.records import Format, RecordWriter, record_writer
from resnest_cli.output.sink import Sink, emit, show_json, show_markdown, show_table

__all__ = [
    "Bar",
    "DownloadBar",
    "Format",
    "RecordWriter",
    "Sink",
    "access",
    "debug_wanted",
    "emit",
    "error",
    "message",
    "record_writer",
    "set_debug",
    "set_quiet",
    "show_json",
    "show_markdown",
    "show_table",
]
