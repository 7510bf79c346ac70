"""`--tensorboard`: what the loop shows, also as TensorBoard's event files in the run folder.

A display around a display, so that the loop knows nothing of it. On resume, what was logged beyond
the state is hidden (TensorBoard's purge).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from resnest_cli.errors import UsageError
from resnest_cli.training.config import Config
from resnest_cli.training.history import EpochRow
from resnest_cli.training.interfaces import Display
from resnest_cli.training.lost_photos import LostPhoto
from resnest_cli.training.resume import State
from resnest_cli.training.runs import RunFolder


def check_tensorboard(config: Config) -> None:
    """Raises UsageError where `tensorboard` is wanted and missing."""
    import importlib.util

    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "--tensorboard needs a package that is not installed. Run: "
            'pip install "resnest-cli[tensorboard]", or leave the option out.'
        )


@contextmanager
def logged(
    display: Display, run: RunFolder, config: Config, state: State | None, writes: bool = True
) -> Iterator[Display]:
    """The display to give to the loop; the very one unless `tensorboard` is on and it `writes`."""
    if not config.tensorboard or not writes:
        yield display
        return
    from torch.utils.tensorboard import SummaryWriter

    done = state.progress.step if state is not None else 0
    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=done + 1 if done else None)
    try:
        yield _Logged(display, writer, done)
    finally:
        writer.close()


class _Logged:
    """Hands everything on, and logs steps and epochs."""

    def __init__(self, display: Display, writer: Any, done: int) -> None:
        self._display, self._writer, self._step = display, writer, done

    def start(self, *, epochs: int, steps: int, first_epoch: int) -> None:
        """See `Display`."""
        self._display.start(epochs=epochs, steps=steps, first_epoch=first_epoch)

    def step(self, **values: Any) -> None:
        """Loss and learning rate of each step."""
        self._step += 1
        self._writer.add_scalar("step/loss", values["loss"], self._step)
        self._writer.add_scalar("step/lr", values["lr"], self._step)
        self._display.step(**values)

    def validating(self, done: int, total: int) -> None:
        """See `Display`."""
        self._display.validating(done, total)

    def epoch(self, row: EpochRow) -> None:
        """The numbers of each epoch, at its last step."""
        scalars = {
            "loss/train": row.train_loss,
            "loss/val": row.val_loss,
            "loss/val_ema": row.ema_loss,
            "accuracy/top1": row.top1,
            "accuracy/top5": row.top5,
            "accuracy/top1_ema": row.ema_top1,
            "accuracy/recall": row.recall,
            "speed/photos_per_second": row.photos_per_second,
        }
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, row.step)
        self._writer.flush()
        self._display.epoch(row)

    def lost(self, new: Sequence[LostPhoto], emptied: Sequence[LostPhoto]) -> None:
        """See `Display`."""
        self._display.lost(new, emptied)
