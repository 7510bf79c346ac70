"""One step of training: the gradients of its batches, added up, and the optimiser's update.

With `grad_accum_steps` above 1 each batch adds the gradient of its sum, and the step divides by all
photos (or by their class weights), so that it learns what one large batch would have taught it, but
for batch norm, whose statistics are those of each small batch. In the same way several devices
learn together: a step divides by the photos of all, see `distributed`.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnest_cli.errors import ResnestError
from resnest_cli.training.config import Config
from resnest_cli.training.distributed import World, as_rows, interleaved
from resnest_cli.training.interfaces import Task
from resnest_cli.training.loader import Batch
from resnest_cli.training.losses import Loss
from resnest_cli.training.mixing import Mixing
from resnest_cli.training.optim import clip, create_optimizer, set_rate
from resnest_cli.training.seeds import derived_seed

_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class DivergedError(ResnestError):
    """The loss or its gradient is no longer a finite number."""


class _Part(NamedTuple):
    """A batch whose gradient was added: its loss, its photos, and what its mean was divided by."""

    loss: float
    photos: int
    share: float


class Stepper:
    """Network and optimiser of a task, on its device.

    `add_gradient` for each batch of a step, `pass_over` where one has too few photos; then `step`.
    """

    def __init__(self, task: Task, world: World | None = None) -> None:
        config = task.config
        self._config, self._world = config, world or World()
        self._format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.network = task.network.to(config.device).to(memory_format=self._format)
        self._learner = self._world.learner(self.network, unused=config.unfreeze_every > 0)
        self.optimizer = create_optimizer(self.network, config)
        self.scaler = torch.amp.GradScaler(_kind(config.device), enabled=config.amp == "float16")
        self._mixing = Mixing(config, task.num_classes)
        self._loss = Loss(config, task.class_weights)
        self._parts: list[_Part] = []
        self._passed_over = False
        self._place = (0, 0)  # epoch, and the batches of all devices before this step
        # Gradients in this unit are as large as those of a mean.
        self._nominal = (config.batch_size or 1) * config.grad_accum_steps
        self._summed = config.grad_accum_steps > 1 or self._world.size > 1

    def add_gradient(
        self, batch: Batch, epoch: int, position: int, rate: float, *, last: bool
    ) -> None:
        """Adds a batch's gradient; of the step's `last` batch, also those of the other devices.

        `epoch` and `position`, that of the step's first batch, give the draws of dropout and
        mixing; `rate` is told where a loss is not finite.

        Raises:
            DivergedError: it is not, on any device; nothing was learned from the step.
        """
        if self._passed_over:
            return
        config, world = self._config, self._world
        self._place = (epoch, position * world.size)
        place = world.position(position + len(self._parts))
        seed = derived_seed(config.seed, "step", epoch, place)
        torch.manual_seed(seed)  # dropout, stochastic depth, DropBlock
        with memory_errors(config), world.adding(self._learner, last):
            photos, targets = self.on_device(batch)
            if self._mixing.active:
                photos, targets = self._mixing(photos, targets, seed)
            with self.autocast():
                loss = self._loss(self._learner(photos), targets)
            if not self._parts:
                self.optimizer.zero_grad(set_to_none=True)
            share = self._loss.share(targets)
            self._parts.append(_Part(float(loss.detach()), len(batch.labels), share))
            if last:  # before the devices wait for each other's gradients
                self._parts = self._of_all(self._parts)
            if last or world.size == 1:
                self._check_losses(rate)
            if self._summed:
                loss = loss * (share / self._nominal)
            torch.autograd.backward(self.scaler.scale(loss))

    def pass_over(self) -> None:
        """Nothing is to be learned from this step; to be called in all processes."""
        self._passed_over = True

    def _of_all(self, parts: list[_Part]) -> list[_Part]:
        """A step's parts on all devices, in the order in which one device would have them."""
        rows = self._world.exchange([number for part in parts for number in part])
        every = interleaved([as_rows(row, len(_Part._fields)) for row in rows])
        return [_Part(loss, int(photos), share) for loss, photos, share in every]

    def _check_losses(self, rate: float) -> None:
        for index, part in enumerate(self._parts):
            if not math.isfinite(part.loss):
                raise self._diverged("the loss", part.loss, index, rate)

    def step(self, rate: float) -> tuple[float, int]:
        """The update at a learning rate; the sum of the photos' losses, and their number.

        Both are 0 for a step that is passed over.

        Raises:
            DivergedError: the gradient is not finite; nothing was learned from the step.
        """
        config, parts = self._config, self._parts
        if self._passed_over:
            self._parts, self._passed_over = [], False
            return 0.0, 0
        set_rate(self.optimizer, rate)
        with memory_errors(config):
            self.scaler.unscale_(self.optimizer)
            if self._summed:  # and over devices it is a mean
                total = math.fsum(part.share for part in parts)
                factor = self._nominal * self._world.size / total
                gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
                torch._foreach_mul_(gradients, factor)
            norm = float(clip(self.network.parameters(), config.clip_grad))
            if not math.isfinite(norm) and not self.scaler.is_enabled():
                raise self._diverged("the gradient", norm, len(parts) - 1, rate)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self._parts = []
        return math.fsum(p.loss * p.photos for p in parts), sum(p.photos for p in parts)

    def on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Photos, in the network's memory format, and labels."""
        device = self._config.device
        photos = batch.photos.to(device, non_blocking=True)
        if photos.dim() == 4:
            photos = photos.contiguous(memory_format=self._format)
        return photos, batch.labels.to(device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, where it is on."""
        amp = self._config.amp
        dtype = torch.float16 if amp == "float16" else torch.bfloat16
        return torch.autocast(_kind(self._config.device), dtype=dtype, enabled=amp != "off")

    def _diverged(self, what: str, value: float, index: int, rate: float) -> DivergedError:
        config, (epoch, before) = self._config, self._place
        self._parts = []
        remedies = [f"a lower --lr (it was {rate:.3g})"]
        if not config.clip_grad:
            remedies.append("--clip-grad 1")
        remedies.append("a longer --warmup-epochs")
        if config.amp != "off":
            remedies.append("--amp off")
        return DivergedError(
            f"{what} became {value} in epoch {epoch + 1}, batch {before + index + 1}. "
            "The weights before are kept; nothing was learned from this batch. Start again with "
            + ", or ".join(remedies)
            + "."
        )


def _kind(device: str) -> str:
    return device.partition(":")[0]


@contextmanager
def memory_errors(config: Config) -> Iterator[None]:
    """Turns the many ways to say that memory ran out into advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(words in text for words in _MEMORY):
            raise
        batch = config.batch_size or 1
        half = f"-b {batch // 2}, or " if batch > 1 else ""
        raise ResnestError(
            f"memory ran out with {batch} photos of {config.img_size} pixels a batch. Try {half}"
            "a smaller --img-size or --model, or --freeze backbone."
        ) from error
