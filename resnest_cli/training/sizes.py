"""The side of the photos that an epoch trains on: progressive resizing.

Small photos first, for speed, the full size at the end. Follows fastai's and Composer's progressive
resizing (https://docs.mosaicml.com/projects/composer, ProgressiveResizing): linear growth, and the
last quarter of the epochs at the full size. A network trained on random crops is best validated at
a somewhat larger size than it was trained at ("Fixing the train-test resolution discrepancy",
arXiv 1906.06423), hence `train_size` apart from `img_size`.
"""

from resnest_cli.training.config import Config

_STEP = 8  # pixels by which the side grows
_GROWING = 0.75  # of the epochs


def train_size(config: Config, epoch: int) -> int:
    """The side in pixels of the photos of an epoch (from 0); `config` is resolved."""
    assert config.img_size is not None
    assert config.epochs is not None
    full = config.train_size or config.img_size
    start = config.start_size or full
    growing = _GROWING * config.epochs
    if start >= full or epoch >= growing:
        return full
    return min(full, start + round((full - start) * epoch / growing / _STEP) * _STEP)


def largest_size(config: Config) -> int:
    """The largest side among all epochs, and the validation's."""
    assert config.img_size is not None
    return max(config.img_size, config.train_size or 0)


def work(config: Config) -> float:
    """Pixels of a training photo as a share of those at `img_size`, on average over the epochs."""
    assert config.img_size is not None
    assert config.epochs is not None
    sides = [train_size(config, epoch) for epoch in range(config.epochs)]
    return sum(side * side for side in sides) / len(sides) / config.img_size**2
