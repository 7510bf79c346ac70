"""Figures are caught as they are written, so that tests can ask what is on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from resnest_cli.report import canvas


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    original = canvas.figure

    @contextmanager
    def caught(path: Path, *arguments: Any) -> Iterator[Figure]:
        with original(path, *arguments) as figure:
            yield figure
        figures.append(figure)

    monkeypatch.setattr(canvas, "figure", caught)
    return figures


@pytest.fixture
def only_dejavu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without a font but matplotlib's own."""
    own = canvas._candidates()[:1]
    monkeypatch.setattr(canvas, "_candidates", lambda: own)
    canvas._fonts.cache_clear()
    yield
    canvas._fonts.cache_clear()
