"""From files to answers: decoding and resizing beside the network, on photos of the user's.

The steps before the network are timed by themselves on all cores, as `features` runs them, each by
its own clock; then everything together, as `features` does it: threads decode ahead while the
network runs. On a CPU both want the same cores, so that the whole is slower than its slowest step.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from statistics import median
from typing import Any

from resnest_cli.errors import ImageError, ResnestError
from resnest_cli.images.sources import Source, iter_sources
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.cores import usable_cores

COUNT = 64  # photos that a pass takes


class Pipeline:
    """The first photos of `inputs`, a folder or whatever else `predict` takes.

    Raises:
        ResnestError: none of them can be read.
    """

    def __init__(self, inputs: str, classifiers: Sequence[Classifier]) -> None:
        self._inputs, self._classifiers = inputs, classifiers
        self._workers = usable_cores()
        self._network: list[tuple[int, float]] = []
        self._steps: dict[str, list[float]] = {"decode": [], "resize": []}
        self._whole: list[list[float]] = [[] for _ in classifiers]
        sources = list(islice(iter_sources([inputs]), COUNT))
        found = [source for source in sources if self._readable(source)]
        if not found:
            raise ResnestError(f"{inputs}: has no photo that can be read; give --photos a folder.")
        self.different, self.unreadable = len(found), len(sources) - len(found)
        self._sources: list[Source] = list(islice(cycle(found), COUNT))

    def steps(self, repeats: int) -> int:
        """How many steps `measure` has."""
        return (1 + len(self._classifiers)) * repeats

    def measure(self, repeats: int, network: Sequence[tuple[int, float]]) -> Iterator[str]:
        """Times everything in turn; before each step its title.

        `network` has the batch of each classifier and the photos a second that its network reached
        alone.
        """
        self._network = list(network)
        for _ in range(repeats):
            yield "decoding and resizing"
            self._prepare()
            for one, (batch, _), passes in zip(
                self._classifiers, network, self._whole, strict=True
            ):
                yield f"files to answers, {one.engine.name}"
                start = time.perf_counter()
                for _ in one.answers(self._sources, batch_size=batch, workers=self._workers):
                    pass
                passes.append(time.perf_counter() - start)

    def figures(self) -> dict[str, Any]:
        """What was found, JSON-ready; every rate is photos a second on all cores."""
        rates = {
            step: COUNT * self._workers / median(seconds) for step, seconds in self._steps.items()
        }
        engines = []
        for one, (batch, network), passes in zip(
            self._classifiers, self._network, self._whole, strict=True
        ):
            every = rates | {"network": network}
            engines.append(
                {
                    "engine": one.engine.name,
                    "device": one.engine.device,
                    "batch_size": batch,
                    "network_photos_per_second": network,
                    "photos_per_second": COUNT / median(passes),
                    "slowest": min(every, key=lambda step: every[step]),
                }
            )
        return {
            "input": self._inputs,
            "photos": self.different,
            "unreadable": self.unreadable,
            "threads": self._workers,
            "photos_per_second": rates,
            "engines": engines,
        }

    def _readable(self, source: Source) -> bool:
        if source.error is not None or source.path is None:
            return False
        try:
            self._classifiers[0].preparation(source.path)
        except ImageError:
            return False
        return True

    def _prepare(self) -> None:
        """One pass over the photos in all threads; adds the seconds of each step over all."""
        preparation = self._classifiers[0].preparation

        def prepare(source: Source) -> tuple[float, float]:
            assert source.path is not None
            start = time.perf_counter()
            image = preparation.decoded(source.path)
            decoded = time.perf_counter()
            preparation.preprocessed(image)
            return decoded - start, time.perf_counter() - decoded

        with ThreadPoolExecutor(self._workers) as pool:
            found = list(pool.map(prepare, self._sources))
        for step, seconds in zip(self._steps.values(), zip(*found, strict=True), strict=True):
            step.append(sum(seconds))
