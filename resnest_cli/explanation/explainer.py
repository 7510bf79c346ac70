"""One photo -> its explanation: the classes, the heat of each, split attention, and pictures.

Heat: class activation maps, which places of a photo speak for a class. Grad-CAM (arXiv 1610.02391)
by captum's `LayerGradCam`: the channels of a map, weighted by the mean gradient of the class's
logit and added up; what speaks against the class counts as nothing (ReLU). Deviation in means, not
in result: the network runs once, up to the map, for all classes; captum is given what follows. Of
stage 4 that is the classifier alone, and the map is that of CAM (arXiv 1512.04150). Of earlier
stages the mean gradient can point away from every place, even for the best class; then each place
is weighed by its own gradient (HiResCAM, arXiv 2011.08891, the same as CAM in stage 4).

Attention: the weights of split attention (arXiv 2004.08955, section 3.1), how much each split
counts for each channel of a photo; read by forward hooks while the network runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnest_cli.errors import UsageError
from resnest_cli.explanation import Explained, ExplainJob, pictures
from resnest_cli.explanation.photo_view import HOT, PhotoView, hot_region
from resnest_cli.explanation.pictures import SIDE, Block, Panel, overlaid, windowed
from resnest_cli.files import writing
from resnest_cli.images.batches import Float32
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inference.ranking import NOT_FINITE, Prediction, Record, probabilities_of
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model.labels import look_up, unknown_classes
from resnest_cli.model.resnest import ResNeSt, SplitAttention
from resnest_cli.report import canvas
from resnest_cli.text import short_name

canvas.matplotlib()  # quiet: captum imports it, and it logs about its caches
from captum.attr import LayerGradCam, LayerGradientXActivation  # noqa: E402

_TILE = 288  # pixels of a picture in a page
_AT_ONCE = 8  # classes; every one is a run of the stages behind the map, with its gradients

# Below so many cells a side, stage 4 says little more about the place than chance. Measured with
# resnest14t on 452 Tiny ImageNet photos, of 48 pixels, that it is sure of (above 30 %):
# hiding the ninth of a photo that a map calls hottest lowers the probability by 0.22 with stage 4
# (2 cells a side), 0.34 with stage 3 (3 cells) and 0.31 with stage 2 (6 cells); hiding any ninth by
# 0.21. At 96 pixels stages 4 and 3 are equal: 0.27, any ninth 0.16.
_FEWEST_CELLS = 4


class Explainer:
    """A network that is ready to explain what it says of photos, one by one."""

    def __init__(self, job: ExplainJob, classifier: Classifier) -> None:
        engine = classifier.engine
        assert isinstance(engine, TorchEngine)
        classifier.model.need_classifier()
        self._job, self._model = job, classifier.model
        self._shown = short_name(classifier.model.name)  # in pictures
        found, unknown = look_up(job.classes, self._model, remedy="Give --class the index or id.")
        if unknown:
            raise UsageError(
                f"{unknown_classes(unknown, self._model)} --class takes a name, id or index."
            )
        self._classes = list(dict.fromkeys(found[name] for name in job.classes))
        self._network = engine.network.requires_grad_(False)
        self._device = engine.device
        self.stage = job.stage or chosen_stage(classifier.preprocessing.size)

    def explained(self, index: int, name: str, view: PhotoView) -> Explained:
        """The explanation of the photo `name`, input number `index` from 0; draws its pictures."""
        photo = torch.from_numpy(view.input)[None].to(self._device)
        with watched(self._network) as blocks:
            logits, maps = run(self._network, photo, self.stage)
        numbers = np.asarray(logits[0].detach().float().cpu().numpy())
        if not np.isfinite(numbers).all():
            return Explained(Record(name, self._model.name, error=NOT_FINITE))
        ranked = self._ranked(numbers)
        found = grad_cam(self._network, maps, self.stage, [one.index for one in ranked])
        heats: Float32 = upsampled(found, view.input.shape[1]).float().cpu().numpy()
        job, heat, attention = self._job, None, None
        if job.heat is not None:
            cells = f"{maps.shape[2]} × {maps.shape[3]}"
            heat = job.heat.of(index, name, ".png")
            self._draw_heat(heat, name, view, ranked, heats, cells)
        if job.attention is not None:
            attention = job.attention.of(index, name, ".attention.png")
            with _writing(attention):
                pictures.attention_figure(attention, name, self._shown, blocks)
        return Explained(
            Record(name, self._model.name, predictions=ranked),
            self.stage,
            tuple(hot_region(one, view.window) for one in heats),
            tuple(block.as_dict() for block in blocks) if attention is not None else (),
            str(heat) if heat is not None else None,
            str(attention) if attention is not None else None,
            self._tiles(view, heats) if job.tiles else (),
        )

    def _ranked(self, logits: Float32) -> tuple[Prediction, ...]:
        """The classes that were asked for, or the most probable; ranks are among all classes."""
        shares = probabilities_of(logits, self._model)
        order = [int(index) for index in np.argsort(-shares, kind="stable")]
        ranks = {index: rank for rank, index in enumerate(order, start=1)}
        names, limits = self._model.class_names, self._model.thresholds
        return tuple(
            Prediction(
                ranks[index],
                index,
                names[index],
                float(shares[index]),
                None if limits is None else float(shares[index]) >= limits[index],
            )
            for index in self._classes or order[: self._job.topk]
        )

    def _draw_heat(
        self, path: Path, name: str, view: PhotoView, ranked: Sequence[Prediction], heats: Float32,
        cells: str,
    ) -> None:  # fmt: skip
        panels = []
        for one, heat in zip(ranked, heats, strict=True):
            pixels = overlaid(view.pixels, heat, SIDE, HOT)
            panels.append(Panel(one.label, one.probability, pixels, empty=not heat.any()))
        how = f"Grad-CAM of stage {self.stage} of {self._shown}, {cells} cells."
        with _writing(path):
            photo = windowed(view.preview, view.window, SIDE)
            pictures.heat_figure(path, name, photo, view.window, panels, how)

    def _tiles(self, view: PhotoView, heats: Float32) -> tuple[bytes, ...]:
        photo = windowed(view.preview, view.window, _TILE)
        overlays = (overlaid(view.pixels, heat, _TILE, HOT) for heat in heats)
        return tuple(map(pictures.jpeg, (photo, *overlays)))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """`writing`, and the folder is made."""
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        yield


# Heat


class _Rest(nn.Module):
    """What follows a stage: its map (B, C, h, w) -> logits (B, classes)."""

    def __init__(self, network: ResNeSt, stage: int) -> None:
        super().__init__()
        self.map = nn.Identity()  # the layer that captum looks at
        self.blocks = nn.Sequential(*(b for later in network.stages()[stage:] for b in later))
        self.network = network

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, classes)."""
        return self.network.forward_head(self.blocks(self.map(maps)))


def chosen_stage(size: int) -> int:
    """The stage to look at in photos of `size` pixels a side: 4, or 3 where its map is too small.

    Stage 4 has a cell for every 32 pixels.
    """
    return 4 if -(-size // 32) >= _FEWEST_CELLS else 3


@torch.no_grad()
def run(network: ResNeSt, photos: Tensor, stage: int) -> tuple[Tensor, Tensor]:
    """Photos (B, 3, H, W) -> logits (B, classes), and the map of `stage` 1 to 4, (B, C, h, w).

    The logits are bit for bit those of `network(photos)`.
    """
    maps = network.forward_intermediates(photos, {stage, 4})
    return network.forward_head(maps[-1]), maps[0]


def grad_cam(network: ResNeSt, maps: Tensor, stage: int, classes: Sequence[int]) -> Tensor:
    """One photo's map of `stage`, (1, C, h, w) -> a map for each of K classes, (K, h, w) from 0 up.

    The unit is the logit's: the more, the more a place speaks for the class. A class that no place
    speaks for gets HiResCAM's map, see above.
    """
    rest = _Rest(network, stage)
    method, by_place = LayerGradCam(rest, rest.map), LayerGradientXActivation(rest, rest.map)
    found = []
    for start in range(0, len(classes), _AT_ONCE):
        part = torch.tensor(classes[start : start + _AT_ONCE], device=maps.device)
        batch = maps.expand(len(part), -1, -1, -1).clone()  # (K, C, h, w)
        heat = method.attribute(batch, part, relu_attributions=True).detach()[:, 0]  # (K, h, w)
        empty = heat.amax(dim=(1, 2)) <= 0
        if empty.any():
            each = by_place.attribute(batch[empty], part[empty]).detach()  # (N, C, h, w)
            heat[empty] = each.sum(dim=1).relu()
        found.append(heat)
    return torch.cat(found)


def upsampled(maps: Tensor, size: int) -> Tensor:
    """Maps (K, h, w) -> (K, size, size), bilinear, each divided by its maximum: in [0, 1].

    A map without a positive cell stays zero everywhere.
    """
    large = F.interpolate(maps[:, None], (size, size), mode="bilinear")[:, 0]
    most = large.amax(dim=(1, 2), keepdim=True)
    return torch.where(most > 0, large / most.clamp_min(torch.finfo(large.dtype).tiny), 0.0)


# Split attention


@contextmanager
def watched(network: ResNeSt) -> Iterator[list[Block]]:
    """A list that each run of the network on one photo, in the body, appends its blocks to."""
    found: list[Block] = []

    def watch(stage: int, block: int, split: SplitAttention) -> "torch.utils.hooks.RemovableHandle":
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], splits: Tensor) -> None:
            weights = split.attention(splits)[0]  # (radix, C), of the first photo
            array = weights.detach().float().cpu().numpy()
            found.append(Block(stage, block, split.cardinality, array))

        # What the attention is computed from: the splits (B, radix * C, H, W) after act0.
        return split.act0.register_forward_hook(hook)

    handles = []
    for stage, blocks in enumerate(network.stages(), start=1):
        splits = [module for module in blocks.modules() if isinstance(module, SplitAttention)]
        handles += [watch(stage, block, split) for block, split in enumerate(splits, start=1)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
