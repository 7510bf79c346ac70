"""Where the network looked, and which splits it preferred there.

explain.py      photos -> explanations, drawn; where pictures may go
explainer.py    one photo -> its explanation: Grad-CAM and split attention (torch, captum)
pictures.py     heat over a photo, and strips of split attention, drawn
photo_view.py   a photo as the network sees it and as people do; where in it a map is hot
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_cli.inference.ranking import Record
from resnest_cli.options import ModelOptions, RunOptions

if TYPE_CHECKING:
    from resnest_cli.explanation.photo_view import Region


@dataclass(frozen=True, slots=True)
class Target:
    """Where pictures go: a file, or a `folder` with a file for each photo."""

    path: Path
    folder: bool

    def of(self, index: int, name: str, ending: str) -> Path:
        """The file for the photo `name`, the input number `index` from 0: 00001-cat.png."""
        if not self.folder:
            return self.path
        # The number makes it unique, whatever photos are called.
        stem = re.sub(r"[^\w.-]+", "_", Path(name).stem.encode("utf-8", "replace").decode())
        return self.path / f"{index + 1:05}-{stem[:60] or 'photo'}{ending}"


@dataclass(frozen=True, slots=True)
class ExplainJob:
    """What was asked for; see the options of `resnest explain`.

    `stage` is None for the one that suits the photos' size. With `tiles` explanations bring small
    pictures for a page.
    """

    options: RunOptions
    model: ModelOptions
    classes: tuple[str, ...]
    topk: int
    stage: int | None
    heat: Target | None
    attention: Target | None
    tiles: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """The answer for one photo. `regions` are where it is hot, for each class of the record.

    `heat` and `attention` are the files that were written. `tiles` are JPEG files, of the photo and
    of each class.
    """

    record: Record
    stage: int | None = None
    regions: "tuple[Region | None, ...]" = ()
    blocks: tuple[dict[str, Any], ...] = ()
    heat: str | None = None
    attention: str | None = None
    tiles: tuple[bytes, ...] = ()

    @property
    def input(self) -> str:
        """The photo's name."""
        return self.record.input

    @property
    def error(self) -> str | None:
        """Why there is no answer."""
        return self.record.error

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON has it; `hot` is where, in fractions of the upright photo's sides."""
        found = self.record.as_dict()
        for prediction, region in zip(found["predictions"], self.regions, strict=True):
            prediction["hot"] = region and {
                "box": [round(value, 4) for value in region.box],
                "centre": [round(value, 4) for value in region.centre],
            }
        found |= {"stage": self.stage, "heat": self.heat}
        if self.blocks:
            found |= {"attention": self.attention, "blocks": list(self.blocks)}
        return found
