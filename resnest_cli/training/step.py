"""One step of training: the gradients of its batches, added up, and the optimiser's update.

With `grad_accum_steps` above 1 each batch adds the gradient of its sum, and the step divides by all
photos (or by their class weights), so that it learns what one large batch would have taught it, but
for batch norm, whose statistics are those of each small batch. In the same way several devices
learn together: a step divides by the photos of all, see `distributed`.
"""

import ctypes
import math
import operator
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnest_cli.data.seeds import derived_seed
from resnest_cli.errors import ResnestError
from resnest_cli.training.augment import Mixing
from resnest_cli.training.distributed import World, interleaved
from resnest_cli.training.label_loss import LabelLoss
from resnest_cli.training.loader import Batch
from resnest_cli.training.optim import create_optimizer
from resnest_cli.training.settings import Config
from resnest_cli.training.teacher import Teacher

_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3), <malloc.h>


class BatchSource(Protocol):
    """Batches to learn from, in an order that depends on the epoch alone; or to validate with."""

    def __len__(self) -> int:
        """Batches in an epoch; of several devices, those of the one that has the most."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be trained, on what, how. `config` is resolved, `frozen` stays in evaluation mode.

    `network` maps the photos of a batch to logits (B, num_classes). `thawing` are modules that
    begin to learn one after the other, every `config.unfreeze_every` epochs. `class_weights`,
    float32 (num_classes,), weigh the classes in the loss. `train_counts` are the training photos of
    each class, `unlabelled` is how many have no single one, `val_photos` how many validate. Without
    `val` no epoch is validated, and the last one counts. The
    `teacher` answers for batches that come without its answers.
    """

    config: Config
    network: nn.Module
    train: BatchSource
    val: BatchSource | None
    num_classes: int
    frozen: Sequence[nn.Module] = ()
    thawing: Sequence[nn.Module] = ()
    class_weights: Tensor | None = None
    train_counts: Sequence[int] = ()
    val_photos: int = 0
    unlabelled: int = 0
    teacher: Teacher | None = None


class MemoryUsedError(ResnestError):
    """A step does not fit into memory."""


class DivergedError(ResnestError):
    """The loss or its gradient is no longer a finite number."""


class Loss:
    """The mean loss of a batch in nats, float32; classes may be weighted.

    Cross entropy is torch's CrossEntropyLoss: with class weights and hard labels a weighted mean,
    with soft targets a mean over photos. Binary cross entropy is timm.loss.BinaryCrossEntropy, the
    mean over photos and classes: it asks of every class by itself whether the photo shows it
    ("ResNet strikes back", arXiv 2110.00476); with a threshold, every class that has more than that
    share of a mixed photo counts in full. Soft targets, (B, num_classes), are taken as they are:
    mixing smooths them; hard labels, int64 (B,), are smoothed here.

    With a teacher, whose `answers` are its probabilities at the temperature T, it is

        (1 - a) * cross entropy with the labels  +  a * T^2 * KL(teacher || student at T)

    ("Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2), a mean over
    photos, for which class weights have a mean of 1. A photo without a label, -1, or without a part
    of one, of a mixture, has so much less of the first term. KL, not the paper's cross entropy:
    that has the same gradient, and does not end at 0.
    """

    def __init__(self, config: Config, class_weights: Tensor | None = None) -> None:
        self._config, self._weights = config, class_weights

    def __call__(self, logits: Tensor, targets: Tensor, answers: Tensor | None = None) -> Tensor:
        """Logits (B, num_classes) of any float type; a scalar."""
        logits = logits.float() if logits.dtype != torch.float64 else logits
        weights = None if self._weights is None else self._weights.to(logits)
        if answers is not None:
            return self._taught(logits, targets, answers, weights)
        soft, smoothing = targets.is_floating_point(), self._config.smoothing
        if not self._config.bce_loss:
            smoothing = 0.0 if soft else smoothing
            return F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)
        if soft:
            wanted = targets.to(logits.dtype)
        else:
            rest = smoothing / logits.shape[1]
            wanted = torch.full_like(logits, rest).scatter_(
                1, targets[:, None], 1 - smoothing + rest
            )
        if self._config.bce_target_thresh > 0:
            wanted = wanted.gt(self._config.bce_target_thresh).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, wanted, weights)

    def _taught(
        self, logits: Tensor, targets: Tensor, answers: Tensor, weights: Tensor | None
    ) -> Tensor:
        a, temperature = self._config.teacher_weight, self._config.teacher_temperature
        how: dict[str, Any] = {"weight": weights, "reduction": "none"}
        if not targets.is_floating_point():
            how |= {"ignore_index": -1, "label_smoothing": self._config.smoothing}
        labels = F.cross_entropy(logits, targets, **how).mean()
        softened = F.log_softmax(logits / temperature, dim=1)
        teacher = F.kl_div(softened, answers.to(logits.dtype), reduction="batchmean")
        return (1 - a) * labels + a * temperature**2 * teacher

    def share(self, targets: Tensor) -> float:
        """What the mean was divided by, so that means of several batches can be put together."""
        if self._config.teacher is not None:
            return float(len(targets))
        if self._weights is None or self._config.bce_loss or targets.is_floating_point():
            return float(len(targets))
        return float(self._weights.to(targets.device)[targets].sum(dtype=torch.float64))


class _Part(NamedTuple):
    """A batch whose gradient was added: its loss, its photos, and what its mean was divided by.

    The loss of one device stays there until the step, as reading it would have the device wait.
    """

    loss: Tensor | float
    photos: int
    share: float


class Stepper:
    """A network and its optimiser, on their device; the arguments are as in `Task`.

    `add_gradient` for each batch of a step, `pass_over` where one has too few photos; then `step`.
    """

    def __init__(
        self,
        config: Config,
        network: nn.Module,
        num_classes: int,
        class_weights: Tensor | None = None,
        world: World | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self._config, self._world, self._teacher = config, world or World(), teacher
        self._format = torch.channels_last if config.channels_last else torch.contiguous_format
        self._kind = config.device.partition(":")[0]
        if self._kind == "cuda":  # so that a resumed run has the bytes of one that was not stopped
            torch.backends.cudnn.deterministic = True
        self.network = network.to(config.device).to(memory_format=self._format)
        self._learner = self._world.learner(self.network, unused=config.unfreeze_every > 0)
        self.optimizer = create_optimizer(self.network, config)
        self.scaler = torch.amp.GradScaler(self._kind, enabled=config.amp == "float16")
        self._mixing = Mixing(config, num_classes)
        kind = LabelLoss if config.multi_label else Loss
        weights = None if class_weights is None else class_weights.to(config.device)
        self._loss: Loss | LabelLoss = kind(config, weights)
        self._parts: list[_Part] = []
        self._passed_over = False
        self._place = (0, 0)  # epoch, and the batches of all devices before this step
        # Gradients in this unit are as large as those of a mean.
        self._nominal = (config.batch_size or 1) * config.grad_accum_steps
        self._summed = config.grad_accum_steps > 1 or self._world.size > 1

    def add_gradient(self, batch: Batch, epoch: int, position: int, *, last: bool) -> None:
        """Adds a batch's gradient; of the step's `last` batch, also those of the other devices.

        `position` is that of the step's first batch; draws follow from it.
        """
        if self._passed_over:
            return
        config, world = self._config, self._world
        self._place = (epoch, position * world.size)
        place = (position + len(self._parts)) * world.size + world.rank
        seed = derived_seed(config.seed, "step", epoch, place)
        self._seed(seed)  # dropout, stochastic depth, DropBlock
        with memory_errors(config), world.adding(self._learner, last):
            photos, targets = self.on_device(batch)
            answers = self._answers(batch, photos)
            if self._mixing.active:
                photos, targets, answers = self._mixing(photos, targets, seed, answers)
            with self.autocast():
                loss = self._loss(self._learner(photos), targets, answers)
            if not self._parts:
                self.optimizer.zero_grad(set_to_none=True)
            share = self._loss.share(targets)
            self._parts.append(_Part(loss.detach(), len(batch.labels), share))
            if self._summed:
                loss = loss * (share / self._nominal)
            torch.autograd.backward(self.scaler.scale(loss))

    def _seed(self, seed: int) -> None:
        if self._kind == "cpu":
            torch.default_generator.manual_seed(seed)
        else:  # of all devices; without a GPU that takes as long as a step of a classifier
            torch.manual_seed(seed)

    def _answers(self, batch: Batch, photos: Tensor) -> Tensor | None:
        """The teacher's probabilities at the temperature, float32 (B, num_classes); before mixing,
        as it is to see each photo alone. None without a teacher.
        """
        if self._config.teacher is None:
            return None
        logits = batch.answers
        if logits is None:
            assert self._teacher is not None
            logits = self._teacher.answers(photos)
        logits = logits.to(photos.device, non_blocking=True)
        return F.softmax(logits / self._config.teacher_temperature, dim=1)

    def pass_over(self) -> None:
        """Nothing is to be learned from this step; to be called in all processes."""
        self._passed_over = True

    def _of_all(self, parts: list[_Part]) -> list[_Part]:
        """A step's parts on all devices, in the order in which one device would have them."""
        if self._world.size == 1:
            return parts
        rows = self._world.exchange([float(number) for part in parts for number in part])
        every = interleaved(
            [list(zip(row[::3], row[1::3], row[2::3], strict=True)) for row in rows]
        )
        return [_Part(loss, int(photos), share) for loss, photos, share in every]

    def step(self, rate: float) -> tuple[float, int]:
        """The update; the sum of the photos' losses and their number, 0 if it is passed over.

        Raises:
            DivergedError: a loss or gradient that is NaN or infinite; names `rate`.
        """
        if self._passed_over:
            self._parts, self._passed_over = [], False
            return 0.0, 0
        config, parts = self._config, self._of_all(self._parts)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        live = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
        with memory_errors(config):
            self.scaler.unscale_(self.optimizer)
            gradients = [parameter.grad for parameter in live if parameter.grad is not None]
            if self._summed:  # and over devices it is a mean
                total = math.fsum(part.share for part in parts)
                torch._foreach_mul_(gradients, self._nominal * self._world.size / total)
            total_norm = nn.utils.get_total_norm(gradients)
            norm = float(total_norm)  # the first to wait for a GPU
            losses = [float(part.loss) for part in parts]
            for index, loss in enumerate(losses):
                if not math.isfinite(loss):
                    raise self._diverged("the loss", loss, index, rate)
            if config.clip_grad > 0:
                nn.utils.clip_grads_with_norm_(live, config.clip_grad, total_norm)
            if not math.isfinite(norm) and not self.scaler.is_enabled():
                raise self._diverged("the gradient", norm, len(parts) - 1, rate)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self._parts = []
        photos = [part.photos for part in parts]
        return math.fsum(map(operator.mul, losses, photos)), sum(photos)

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
        return torch.autocast(self._kind, dtype=dtype, enabled=amp != "off")

    def _diverged(self, what: str, value: float, index: int, rate: float) -> DivergedError:
        config, (epoch, before) = self._config, self._place
        self._parts = []
        remedies = [f"a lower --lr (it was {rate:.3g})"]
        remedies += [] if config.clip_grad else ["--clip-grad 1"]
        remedies += ["a longer --warmup-epochs", *(["--amp off"] if config.amp != "off" else [])]
        return DivergedError(
            f"{what} became {value} in epoch {epoch + 1}, batch {before + index + 1}. The weights "
            "before are kept; nothing was learned from this batch. Start again with "
            f"{', or '.join(remedies)}."
        )


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
        half = f"-b {batch // 2}, or " if batch > 2 else ""
        raise MemoryUsedError(
            f"memory ran out with {batch} photos of {config.img_size} pixels a batch. Try {half}"
            "a smaller --img-size or --model, or --freeze backbone."
        ) from error


def keep_memory() -> None:
    """Lets glibc use the memory of freed tensors again instead of giving it back to the system.

    By default it maps and unmaps blocks over 32 MiB each time, and every page is zeroed anew: a
    training step of resnest14d at 64 pixels, batch 64, took 7 % longer (2 cores; medians of five:
    0.56 against 0.52 s). The process keeps its peak memory until it ends. Other C libraries are
    left as they are.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")  # glibc's name; musl has another
            libc.mallopt(_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
