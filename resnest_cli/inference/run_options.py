"""What a run is about, as plain data that another process can be sent. No numpy."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Which inputs, and what to do with them; see the options of `resnest predict`.

    `time_limit` is in seconds, for decoding one photo where it is isolated.
    """

    inputs: tuple[str, ...]
    from_file: str | None
    null_separated: bool
    recursive: bool
    topk: int
    threshold: float
    batch_size: int
    workers: int
    isolate: bool
    time_limit: float
