"""A fault at one step of writing a file: the step fails, or the process dies there.

Steps are whatever `files.atomic_file` asks of the system: to create the temporary file, each write,
flush and close, both fsyncs, the rename, and the removal of what is left.

    python -m tests.evaluation.faults CHECKPOINT COPY

kills a process at each step of writing a temperature into COPY of CHECKPOINT and prints, as a JSON
list, whether COPY was "old" or "new" afterwards, and what else lay beside it.
"""

import builtins
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Steps:
    """Counts the steps and lets `fault(name)` happen at number `at`, counted from 1."""

    def __init__(self, at: int = 0, fault: Callable[[str], None] = lambda _: None) -> None:
        self.at, self.fault = at, fault
        self.names: list[str] = []

    def step(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.at:
            self.fault(name)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Every file that is created, synchronised, renamed or removed counts."""
        steps = self
        replaced, unlinked, fsync = Path.replace, Path.unlink, os.fsync
        opened, path_opened = builtins.open, Path.open

        class Written(io.BufferedWriter):
            def write(self, data: Any) -> int:
                steps.step("write")
                return super().write(data)

            def flush(self) -> None:
                if not self.closed:
                    steps.step("flush")
                super().flush()

        def opening(function: Callable[..., Any]) -> Callable[..., Any]:
            def open_(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
                if mode != "xb":
                    return function(path, mode, *more, **named)
                steps.step("create")
                return Written(io.FileIO(path, "xb", opener=named.get("opener")))

            return open_

        def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *a, **k: (steps.step(name), function(*a, **k))[1]

        builtins.open, Path.open = opening(opened), opening(path_opened)
        Path.replace = counted("rename", replaced)  # type: ignore[method-assign]
        Path.unlink = counted("remove", unlinked)  # type: ignore[method-assign]
        os.fsync = counted("fsync", fsync)
        try:
            yield
        finally:
            builtins.open, Path.open, os.fsync = opened, path_opened, fsync
            Path.replace, Path.unlink = replaced, unlinked  # type: ignore[method-assign]


def killed_everywhere(checkpoint: Path, copy: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Step, "old" or "new", and other names, for each step at which a process is killed."""
    from resnest_cli.model.checkpoint_header import set_temperature

    shutil.copyfile(checkpoint, copy)
    clean = Steps()
    with clean.watched():
        set_temperature(copy, 1.5)
    known = {checkpoint.read_bytes(): "old", copy.read_bytes(): "new"}
    for at, name in enumerate(clean.names, start=1):
        shutil.copyfile(checkpoint, copy)
        child = os.fork()
        if child == 0:
            with Steps(at, lambda _: os.kill(os.getpid(), signal.SIGKILL)).watched():
                set_temperature(copy, 1.5)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, name
        others = [path for path in copy.parent.iterdir() if path not in {checkpoint, copy}]
        yield name, known.get(copy.read_bytes(), "damaged"), [path.name for path in others]
        for path in others:
            path.unlink()


if __name__ == "__main__":
    print(json.dumps(list(killed_everywhere(*map(Path, sys.argv[1:])))))
