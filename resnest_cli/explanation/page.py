"""The page of explanations: for each photo its classes, with the heat of each."""

from resnest_cli.explanation.job import Explained
from resnest_cli.report.html import Page, jpeg_uri

_MOST = 1000  # photos: each brings some 10 kB a class


class ExplanationPage:
    """Takes explanations one by one."""

    def __init__(self, model: str) -> None:
        self._page = Page(f"Where {model} looked", "", most=_MOST, wide=True)

    def add(self, found: Explained) -> None:
        """One explanation, with its tiles."""
        self._page.add(found.record, tiles=[jpeg_uri(tile) for tile in found.tiles])

    def finished(self, done: int, failed: int) -> Page:
        """The page, once all are there."""
        self._page.subtitle = (
            f"{done:,} photo(s), {failed:,} of them unreadable. The lighter and the more yellow a "
            "place, the more it speaks for the class (Grad-CAM, each map on its own scale); the "
            "white line goes where it is half the most, the orange frame around what the network "
            "saw."
        )
        return self._page
