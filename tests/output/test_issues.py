"""What `resnest check` shows: the worst of each kind, and a command that can be copied."""

import shlex

import pytest

from resnest_cli.output.issues import show_issues, what_next


def test_what_next_is_a_command_to_copy() -> None:
    assert what_next(False, "my data", None) == "Train on them: resnest finetune 'my data'"
    command = what_next(True, "my data", "an $out").splitlines()[-1]
    assert shlex.split(command) == [
        "resnest", "finetune", "my data", "--exclude", "an $out/issues.csv",
    ]  # fmt: skip


def test_classes_that_are_alike_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    alike = {"path": "cat", "partner": "lynx", "detail": "hard to tell apart: 40% of cat"}
    few = {"path": "owl", "partner": "", "detail": "3 readable photos only"}
    summary = {"data": "d", "photos": 3, "classes": 3, "flagged": 0, "issues": {"class": 2},
               "worst": {"class": [alike, few]}}  # fmt: skip
    show_issues(summary)
    lines = [line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines()[-2:]]
    assert lines == [["cat", "hard to tell from lynx"], ["owl", "3 readable photos only"]]
