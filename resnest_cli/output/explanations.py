"""Explanations as people read them, and as JSON, each written as soon as it is known."""

from typing import TYPE_CHECKING, Literal

from resnest_cli.output.messages import printable_name
from resnest_cli.output.sink import Sink
from resnest_cli.output.tables import stdout_console, to_json

if TYPE_CHECKING:
    from resnest_cli.explanation.job import Explained
    from resnest_cli.explanation.regions import Region

_WIDEST = 40  # columns for a class's name; a longer one runs over


class ExplanationWriter:
    """A photo, and a line for each class: rank, name, probability, and where it is hot.

    As JSON the object of a `single` photo, else an array, streamed.
    """

    def __init__(self, format_: Literal["table", "json"], *, single: bool) -> None:
        self._sink = Sink()
        self._json, self._single = format_ == "json", single
        self._count = 0

    def write(self, found: "Explained") -> None:
        """One explanation."""
        self._sink.write(self._object(found) if self._json else self._lines(found))
        self._count += 1

    def close(self) -> None:
        """Ends the document."""
        if self._json:
            self._sink.write("\n" if self._single else "\n]\n")

    def _object(self, found: "Explained") -> str:
        text = to_json(found.as_dict(), indent=2)
        return text if self._single else ("[\n" if self._count == 0 else ",\n") + text

    def _lines(self, found: "Explained") -> str:
        from rich.cells import cell_len
        from rich.text import Text

        record = found.record
        names = [printable_name(one.label) for one in record.predictions]
        width = min(_WIDEST, max(map(cell_len, names), default=0))
        console = stdout_console()
        with console.capture() as capture:
            console.print(Text(printable_name(record.input), style="bold"), soft_wrap=True)
            if record.error is not None:
                error = f"error: {printable_name(record.error)}"
                console.print(Text(error, style="red"), soft_wrap=True)
            for name, one, region in zip(names, record.predictions, found.regions, strict=True):
                line = f"{one.rank:>4}  {_padded(name, width)}  {one.probability:>7.2%}"
                console.print(Text(f"{line}  {_where(region)}"), soft_wrap=True)
        return capture.get()


def _padded(name: str, width: int) -> str:
    from rich.cells import cell_len

    return name + " " * max(0, width - cell_len(name))


def _where(region: "Region | None") -> str:
    """The hot box in words: fractions of the photo's width and height."""
    if region is None:
        return "nothing speaks for it"
    left, top, right, bottom = region.box
    return f"x {left:.0%} to {right:.0%}, y {top:.0%} to {bottom:.0%}"
