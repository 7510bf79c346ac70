"""`resnest guide`, and that every command says which of its pages is its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnest_cli import guides
from resnest_cli.app import COMMANDS
from tests.conftest import Cli

FILES = Path(guides.__file__).parent


def test_the_list_has_every_page_with_what_it_is_about(cli: Cli) -> None:
    listed = cli("guide")
    assert listed.code == 0
    rows = {line.split()[0]: line for line in listed.out.splitlines()[2:]}
    assert list(rows) == guides.PAGES
    assert "teach learned weights your own classes" in rows["finetune"]


def test_in_a_pipe_a_page_is_its_markdown(cli: Cli) -> None:
    assert cli("guide", "evaluate").out == (FILES / "evaluate.md").read_text("utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals")
def test_at_a_terminal_a_page_is_laid_out_and_paged(tmp_path: Path) -> None:
    import pty

    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho PAGED $LESS\nexec cat\n")
    pager.chmod(0o755)
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "resnest_cli", "guide", "explain"]
    environment = {**os.environ, "PAGER": str(pager), "TERM": "xterm", "COLUMNS": "80"}
    environment.pop("LESS", None)
    child = subprocess.Popen(words, stdout=theirs, stdin=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the terminal ends with the program
            break
    os.close(ours)
    assert child.wait() == 0
    lines = shown.decode().splitlines()
    assert lines[0] == "PAGED FRX"
    assert "explain: show where the network looked" in shown.decode()
    assert "```" not in shown.decode()


def test_an_unknown_page_is_an_error_that_names_the_nearest(cli: Cli) -> None:
    wrong = cli("guide", "finetun")
    assert (wrong.code, wrong.out) == (2, "")
    assert "no page 'finetun'. Did you mean finetune?" in wrong.err
    assert "`resnest guide` lists them" in cli("guide", "xyz").err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_the_page_of_the_command(command: str, cli: Cli) -> None:
    last = cli(command, "--help").out.strip().splitlines()[-1]
    assert last.startswith("The manual: resnest guide")
    page = last.partition("guide")[2].strip()
    assert page in guides.PAGES or command == "guide"
