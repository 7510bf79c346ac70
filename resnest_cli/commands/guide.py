"""`resnest guide`: the pages of the manual, see `guides`."""

from typing import Annotated

from resnest_cli import output
from resnest_cli.commands.flags import command
from resnest_cli.errors import UsageError
from resnest_cli.guides import PAGES, read
from resnest_cli.options import Option
from resnest_cli.text import did_you_mean

PAGE = ""
EXAMPLES = """
resnest guide
resnest guide finetune
resnest guide predict | grep -n html
"""


@command
def guide(
    *,
    page: Annotated[
        str | None, Option("The page; without one all are listed.", "PAGE", argument=True)
    ] = None,
) -> None:
    """Show a page of the manual, or the list of its pages.

    At a terminal it is laid out and paged; in a pipe it is Markdown as it was written.
    """
    if page is None:
        titles = [read(name).partition("\n")[0].removeprefix("# ") for name in PAGES]
        output.show_table(("Page", ""), [title.split(": ", 1) for title in titles], "l")
    elif page in PAGES:
        output.show_markdown(read(page))
    else:
        raise UsageError(
            f"no page {page!r}.{did_you_mean(page, PAGES) or ' `resnest guide` lists them.'}"
        )
