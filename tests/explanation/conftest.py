"""The figures that a test draws."""

from tests.report.conftest import drawn

__all__ = ["drawn"]
