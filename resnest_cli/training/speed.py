"""How fast a run is, and so how long the rest of it will take."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Speed:
    """Photos per second over the last steps, and what is left."""

    window: list[tuple[float, int]] = field(default_factory=list)
    validation: float = 0.0  # seconds of the last one

    def add(self, seconds: float, photos: int) -> None:
        """A step took so long for so many photos."""
        self.window = [*self.window[-19:], (seconds, photos)]

    def photos_per_second(self) -> float:
        """Over the last twenty steps."""
        seconds = sum(seconds for seconds, _ in self.window)
        return sum(photos for _, photos in self.window) / max(seconds, 1e-9)

    def left(self, steps: int, epochs: int) -> float:
        """Seconds that so many more steps and validations will take."""
        seconds = sum(seconds for seconds, _ in self.window) / max(1, len(self.window))
        return steps * seconds + epochs * self.validation
