"""`--tensorboard`: what the loop shows, also as TensorBoard's event files in the run folder.

A display around a display, so that the loop knows nothing of it. On resume, what was logged beyond
the state is hidden (TensorBoard's purge).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from resnest_cli.errors import need
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.settings import Config
from resnest_cli.training.state import EpochRow


def check_tensorboard(config: Config) -> None:
    """Raises MissingPackageError where `tensorboard` is wanted and missing."""
    if config.tensorboard:
        need("tensorboard", "--tensorboard")


@contextmanager
def logged(
    display: TrainingDisplay, run: RunFolder, wanted: bool, done: int
) -> Iterator[TrainingDisplay]:
    """The display to give to the loop, after `done` steps; the very one unless it is `wanted`."""
    if not wanted:
        yield display
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=done + 1 if done else None)
    try:
        yield cast("TrainingDisplay", _Logged(display, writer, done))
    finally:
        writer.close()


class _Logged:
    """Hands everything on, and logs steps and epochs."""

    def __init__(self, display: TrainingDisplay, writer: Any, done: int) -> None:
        self._display, self._writer, self._step = display, writer, done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._display, name)

    def step(self, **values: Any) -> None:
        """Loss and learning rate of each step."""
        self._step += 1
        for name in ("loss", "lr"):
            self._writer.add_scalar(f"step/{name}", values[name], self._step)
        self._display.step(**values)

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
            "accuracy/map": row.map,
            "accuracy/map_ema": row.ema_map,
            "accuracy/micro_f1": row.micro_f1,
            "accuracy/macro_f1": row.macro_f1,
            "speed/photos_per_second": row.photos_per_second,
        }
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, row.step)
        self._writer.flush()
        self._display.epoch(row)
