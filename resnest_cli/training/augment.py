"""What varies training photos: size, crop, mirror, colours, erasing; mixup and cutmix of a batch.

torchvision's v2 transforms. Everything up to the colours happens on the PIL image, which has the
fewest bytes; then one table normalises it, as for prediction, and erasing comes last. All draws
come from the seed that is given, so that a photo looks the same whichever process prepares it, and
when. The crop and the mirror may have a seed of their own: a teacher has then seen the very crop
before, whatever colours the student sees it in.

Deviations from timm's training transform: the crop is resized with the model's own interpolation
(timm alternates bilinear and bicubic), and RandAugment is torchvision's, whose magnitude has 31
steps (timm's has 10: m9 there is m27 or so here).
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from resnest_cli.images.preprocess import normalise
from resnest_cli.model.variants import Preprocessing
from resnest_cli.training.settings import Config, parse_aa

if TYPE_CHECKING:
    from collections.abc import Callable

_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
_MIX = 0x6D6978  # "mix"
_STEP = 8  # pixels by which the side of photos grows
_GROWING = 0.75  # of the epochs


class Crop(NamedTuple):
    """The part of a photo that a network sees: a box in pixels, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False

    def of(self, image: Image.Image, preprocessing: Preprocessing, size: int) -> Image.Image:
        """It, from an upright RGB image, resized to `size` x `size` as the network wants it."""
        image = v2.functional.resized_crop(
            image, *self[:4], [size, size], _MODES[preprocessing.interpolation]
        )
        return v2.functional.horizontal_flip(image) if self.mirrored else image


class RandomCrop:
    """Draws crops and mirrors, number for number as torchvision's RandomResizedCrop does
    (`make_params` of v2) and its RandomHorizontalFlip after it.

    Unlike them it also draws from another generator than torch's own, which all threads share.
    """

    def __init__(self, config: Config) -> None:
        self._scale, self._hflip = config.scale, config.hflip
        self._ratio = 1 / config.ratio, config.ratio
        least, most = torch.log(torch.tensor(self._ratio)).tolist()
        self._log_ratio = least, most

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Crop:
        """A crop of the image, drawn from the generator; None is torch's own."""
        top, left, height, width = self._box(image.width, image.height, generator)
        mirrored = self._hflip > 0 and bool(torch.rand(1, generator=generator) < self._hflip)
        return Crop(top, left, height, width, mirrored)

    def drawn(self, image: Image.Image, seed: int) -> Crop:
        """The crop that a seed stands for."""
        return self(image, torch.Generator().manual_seed(seed))

    def _box(
        self, width: int, height: int, generator: torch.Generator | None
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width."""
        for _ in range(10):
            share = torch.empty(1).uniform_(self._scale, 1.0, generator=generator).item()
            drawn = torch.empty(1).uniform_(*self._log_ratio, generator=generator)
            area, ratio = width * height * share, torch.exp(drawn).item()
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = torch.randint(0, height - h + 1, (1,), generator=generator).item()
                left = torch.randint(0, width - w + 1, (1,), generator=generator).item()
                return int(top), int(left), h, w
        w, h, (narrowest, widest) = width, height, self._ratio  # the middle of a strip
        if width / height < narrowest:
            h = round(w / narrowest)
        elif width / height > widest:
            w = round(h * widest)
        return (height - h) // 2, (width - w) // 2, h, w


class Augment:
    """One photo at random; picklable. `size` is the largest side among all epochs."""

    def __init__(self, config: Config, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._config = replace(config, img_size=preprocessing.size)
        self.size = largest_size(self._config)
        self._crop = RandomCrop(config)
        fill = [round(255 * value) for value in preprocessing.mean]
        steps: list[Callable[[Image.Image], Image.Image]] = []
        policy = parse_aa(config.aa)
        if policy == "auto":
            steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, fill=fill))
        elif policy == "trivial":
            steps.append(v2.TrivialAugmentWide(fill=fill))
        elif isinstance(policy, tuple):
            magnitude, operations = policy
            steps.append(v2.RandAugment(operations, magnitude, fill=fill))
        if config.color_jitter > 0:
            steps.append(v2.ColorJitter(*[config.color_jitter] * 3))
        self._steps = steps
        self._erase = v2.RandomErasing(config.reprob, value="random") if config.reprob else None

    def __call__(
        self, image: Image.Image, seed: int, epoch: int = 0, crop_seed: int | None = None
    ) -> Tensor:
        """An upright RGB image -> float32 (3, size, size), normalised; drawn from `seed` alone.

        In grey it is made grey first, and one channel comes out: float32 (1, size, size).
        The size is that of the epoch, from 0. With `crop_seed` the crop and the mirror are what
        `RandomCrop.drawn` makes of that, and `seed` decides the rest. torch's own generator is left
        as it was.
        """
        size = train_size(self._config, epoch)
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed if crop_seed is None else crop_seed)
        try:
            crop = self._crop(image)
            if self._config.grey:
                image = image.convert("L").convert("RGB")  # as `preprocess` does it
            if crop_seed is not None:
                torch.default_generator.manual_seed(seed)
            image = crop.of(image, self._preprocessing, size)
            for step in self._steps:
                image = step(image)
            photo = np.empty((3, size, size), np.float32)
            normalise(np.asarray(image), self._preprocessing, photo)
            tensor = torch.from_numpy(photo[:1] if self._config.grey else photo)
            return tensor if self._erase is None else self._erase(tensor)
        finally:
            torch.set_rng_state(before)


class Mixing:
    """Mixes the photos of a batch, and their labels, by torchvision's MixUp or CutMix.

    With both on, each batch takes one or the other with equal probability (as timm's switch). What
    torchvision is given as labels are the photos' numbers in the batch: what becomes of them are
    the shares of the photos in each mixture, with which labels and a teacher's answers are mixed.
    """

    def __init__(self, config: Config, num_classes: int) -> None:
        kinds = [(v2.MixUp, config.mixup), (v2.CutMix, config.cutmix)] if num_classes > 1 else []
        self._choices = [(kind, alpha) for kind, alpha in kinds if alpha > 0]
        self._smoothing, self._classes = config.smoothing, num_classes

    @property
    def active(self) -> bool:
        """Whether there is anything to mix."""
        return bool(self._choices)

    def __call__(
        self, photos: Tensor, labels: Tensor, seed: int, answers: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, 3, H, W), int64 (B,), float32 (B, num_classes) -> mixed photos, targets and answers.

        Targets are float32 (B, num_classes), smoothed; a label of -1 adds nothing to them. Labels
        that are several, float32 (B, num_classes), are only mixed: their loss smooths them. All
        draws come from `seed`; torch's own generator is left as it was.
        """
        with torch.random.fork_rng([photos.device] if photos.device.type == "cuda" else []):
            torch.manual_seed(seed ^ _MIX)  # the step draws its dropout from `seed` itself
            kind, alpha = self._choices[int(torch.randint(len(self._choices), ()))]
            numbers = torch.arange(len(photos), device=photos.device)
            mixed, shares = kind(alpha=alpha, num_classes=len(photos))(photos, numbers)
        if labels.is_floating_point():
            smoothed = shares @ labels
        else:
            known = (labels[:, None] == torch.arange(self._classes, device=labels.device)).float()
            targets = shares @ known  # (B, B) @ (B, num_classes)
            labelled = 1 - shares @ (labels < 0).float()
            rest = self._smoothing / self._classes * labelled[:, None]
            smoothed = targets * (1 - self._smoothing) + rest
        last = photos.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        both = None if answers is None else shares @ answers
        return mixed.contiguous(memory_format=layout), smoothed, both


def train_size(config: Config, epoch: int) -> int:
    """The side in pixels of the photos of an epoch (from 0).

    Progressive resizing as of fastai and Composer (https://docs.mosaicml.com/projects/composer,
    ProgressiveResizing): small photos first, for speed, linear growth, and the last quarter of the
    epochs at the full size. A network trained on random crops is best validated at a somewhat
    larger size than it was trained at ("Fixing the train-test resolution discrepancy", arXiv
    1906.06423), hence `train_size` apart from `img_size`.
    """
    full = config.train_size or config.img_size or 0
    start = config.start_size or full
    growing = _GROWING * (config.epochs or 0)
    if start >= full or epoch >= growing:
        return full
    return min(full, start + round((full - start) * epoch / growing / _STEP) * _STEP)


def largest_size(config: Config) -> int:
    """The largest side among all epochs, and the validation's."""
    return max(config.img_size or 0, config.train_size or 0)


def work(config: Config) -> float:
    """Pixels of a training photo as a share of those at `img_size`, on average over the epochs."""
    sides = [train_size(config, epoch) for epoch in range(config.epochs or 1)]
    return sum(side * side for side in sides) / len(sides) / (config.img_size or 1) ** 2
