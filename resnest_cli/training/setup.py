"""From settings and data to what the loop needs: network, batches, and what a checkpoint says."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from resnest_cli import __version__
from resnest_cli.errors import ImageError, UsageError
from resnest_cli.inference.engine import Engine, check_device_name, create_engine
from resnest_cli.inference.torch_engine import resolve_device
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.hashes import known_sha256
from resnest_cli.model.loading import Model, find_model
from resnest_cli.model.names import get_named, understand
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.model.training_photos import joined
from resnest_cli.model.variants import Preprocessing
from resnest_cli.model.variants import preprocessing_from_dict as checked_preprocessing
from resnest_cli.model.weights import Access
from resnest_cli.training import frozen, network
from resnest_cli.training.augment import Augment
from resnest_cli.training.class_weights import class_weights
from resnest_cli.training.config import Config
from resnest_cli.training.dataset import DataSet, Sample
from resnest_cli.training.interfaces import Task
from resnest_cli.training.loader import EvalBatches, TrainBatches
from resnest_cli.training.photo_cache import read_all
from resnest_cli.training.settings import resolve
from resnest_cli.training.shard_loader import ShardEvalBatches, ShardTrainBatches
from resnest_cli.training.sharded import check_sharded
from resnest_cli.training.sizes import largest_size, train_size
from resnest_cli.training.stopping import StopRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from resnest_cli.output.training import TrainingDisplay


@dataclass(slots=True)
class Ready:
    """Everything about a run but its folder. `config` is resolved.

    `frozen` are the modules in evaluation mode; `cached` says whether the backbone's features are
    computed once. `origin` is the hash of the weights that it starts from, "" for none;
    `class_weights` are float32 (classes,).
    """

    config: Config
    dataset: DataSet
    preprocessing: Preprocessing
    network: ResNeSt
    kept_classifier: bool
    frozen: list[nn.Module]
    cached: bool
    origin: str
    class_weights: Tensor | None
    model: Model | None
    _engine: Engine | None = None
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def info(self) -> CheckpointInfo:
        """What every checkpoint of the run says of itself."""
        config = self.config
        provenance: dict[str, Any] = {
            "command": config.command,
            "recipe": config.recipe,
            "data": Path(config.data).resolve().name,
            "photos": self.dataset.train_photos,
            "seed": config.seed,
            "resnest_cli": __version__,
        }
        if self.dataset.class_ids != self.dataset.class_names:
            provenance["class_ids"] = list(self.dataset.class_ids)
        trained_on = self.dataset.trained_on
        if self.model is not None:
            provenance |= {"base": self.network.variant.id, "base_sha256": self.origin}
            if self.model.trained_on is not None:
                trained_on = joined(self.model.path, trained_on, self.model.trained_on)
        return CheckpointInfo(
            variant=self.network.variant,
            class_names=self.dataset.class_names,
            preprocessing=self.preprocessing,
            trained_on=trained_on,
            provenance=provenance,
        )

    def whole(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The network's state dict, from that of what is trained."""
        if not self.cached:
            return tensors
        return {**self.network.state_dict(), **tensors}

    def task(
        self, cache: Path, stop: StopRequest, display: "TrainingDisplay", rank: int = 0
    ) -> Task:
        """What the loop trains: the network on photos, or its classifier on cached features.

        `rank` says which of the config's devices its batches are for.

        Raises:
            StoppedError: a signal came while features were computed; what is done is kept.
        """
        if self.cached:
            return self._cached_task(cache / "features", stop, display)
        config, data = self.config, self.dataset
        assert config.batch_size is not None
        assert config.workers is not None
        train_photos, val_photos = self._photos(stop, display) if config.cache else (None, None)
        train: TrainBatches | ShardTrainBatches
        val: EvalBatches | ShardEvalBatches
        augment = Augment(config, self.preprocessing)
        of_training: dict[str, Any] = {
            "size": largest_size(config),
            "sizes": partial(train_size, config),
            "seed": config.seed,
            "aug_repeats": config.aug_repeats,
            "accumulated": config.grad_accum_steps,
        }
        of_both: dict[str, Any] = {
            "batch_size": config.batch_size,
            "workers": config.workers,
            "pin_memory": config.device != "cpu",
            "rank": rank,
            "ranks": config.devices,
        }
        if data.shards is not None:
            classes = len(data.class_ids)
            train = ShardTrainBatches(data.shards.train, classes, augment, **of_training, **of_both)
            self._open.callback(train.close)
            val = ShardEvalBatches(data.shards.val, classes, self.preprocessing, **of_both)
        else:
            train = TrainBatches(
                data.train,
                augment,
                photos=train_photos,
                balanced=config.balanced,
                **of_training,
                **of_both,
            )
            self._open.callback(train.close)
            val = EvalBatches(data.val, self.preprocessing, photos=val_photos, **of_both)
        self._open.callback(val.close)
        if config.sync_bn and config.devices > 1:  # now: alone, such norms would wait for others
            nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
            self.frozen = network.freeze(self.network, config.freeze)
        gradual = config.unfreeze_every > 0
        return Task(
            config,
            self.network,
            train,
            val,
            len(data.class_ids),
            frozen=self.frozen,
            thawing=network.thawing(self.network, config.freeze) if gradual else (),
            class_weights=self.class_weights,
            train_counts=data.train_counts,
            val_photos=data.val_photos,
        )

    def _photos(
        self, stop: StopRequest, display: "TrainingDisplay"
    ) -> "tuple[Sequence[Image.Image | ImageError], Sequence[Image.Image | ImageError]]":
        """All photos, decoded; or why one cannot be read any more."""

        def progress(done: int, total: int | None) -> None:
            display.caching(done, total)
            stop.check()

        count = len(self.dataset.train)
        photos = read_all([*self.dataset.train, *self.dataset.val], progress)
        return photos[:count], photos[count:]

    def _cached_task(self, cache: Path, stop: StopRequest, display: "TrainingDisplay") -> Task:
        config, data = self.config, self.dataset
        assert config.batch_size is not None
        extractor = frozen.Extractor(self.engine(), self.preprocessing, self.origin, workers=1)
        total = len(data.train) + len(data.val)

        def features(samples: "Sequence[Sample]", before: int, mirrored: bool) -> frozen.Features:
            def progress(done: int, _: int) -> None:
                display.features(before + done, total)
                stop.check()

            return extractor.features(samples, cache, mirrored=mirrored, progress=progress)

        train = frozen.TrainFeatures(
            features(data.train, 0, config.hflip > 0),
            batch_size=config.batch_size,
            seed=config.seed,
            hflip=config.hflip,
            balanced=config.balanced,
        )
        val = frozen.EvalFeatures(features(data.val, len(data.train), False))
        return Task(
            config,
            network.Head(self.network),
            train,
            val,
            len(data.class_ids),
            class_weights=self.class_weights,
            train_counts=data.train_counts,
            val_photos=data.val_photos,
        )

    def engine(self) -> Engine:
        """What computes the frozen backbone's features; made when it is first asked for.

        Raises:
            ResnestError: the weights cannot be used.
        """
        if self._engine is None:
            assert self.model is not None
            sized = replace(self.model, preprocessing=self.preprocessing)
            self._engine = create_engine(sized, "cpu", output="features")
        return self._engine

    def close(self) -> None:
        """Ends the processes that load photos."""
        self._open.close()


def get_ready(config: Config, dataset: DataSet, access: Access) -> Ready:
    """Decides what is undecided and makes the network; weights are fetched where needed.

    Raises:
        UsageError: settings that do not fit the model, the data or this machine.
        ResnestError: the weights cannot be had or used.
    """
    check_device_name(config.device)
    model = _source(config, access)
    variant = model.variant if model is not None else get_named(config.model)
    base = model.preprocessing if model is not None else variant.preprocessing
    preprocessing = _preprocessing(config, base)
    config = resolve(
        config,
        photos=dataset.train_photos,
        preprocessing=preprocessing,
        device=resolve_device(config.device),
    )
    if dataset.shards is not None:
        check_sharded(config)
    variant = replace(variant, preprocessing=preprocessing)
    if model is None:
        start = network.fresh(config, variant, len(dataset.class_ids))
    else:
        start = network.from_checkpoint(
            config,
            model.load(),
            model.class_names,
            model.class_ids,
            dataset.class_ids,
            dataset.class_names,
        )
        start.network.variant = variant
    return Ready(
        config=config,
        dataset=dataset,
        preprocessing=preprocessing,
        network=start.network,
        kept_classifier=start.kept_classifier,
        frozen=network.freeze(start.network, config.freeze),
        cached=config.freeze == "backbone" and config.device == "cpu",
        origin=known_sha256(model.path) if model is not None else "",
        class_weights=class_weights(config.class_weights, dataset),
        model=model,
    )


def _source(config: Config, access: Access) -> Model | None:
    """The weights that `finetune` starts from; None for `train`."""
    if config.command == "train":
        if understand(config.model).variant is None:
            raise UsageError(
                f"train starts from nothing; to go on from the weights in {config.model} use: "
                f"resnest finetune {config.data} --model {config.model}"
            )
        return None
    model = find_model(config.model, source=config.weights, access=access)
    if model.in_channels != 3:
        raise UsageError(
            f"{model.path}: the network takes {model.in_channels} channels; photos have 3. Give "
            "another --model."
        )
    return model


def _preprocessing(config: Config, base: Preprocessing) -> Preprocessing:
    changes = {
        "size": config.img_size,
        "crop_pct": config.crop_pct,
        "interpolation": config.interpolation,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return checked_preprocessing(asdict(base) | given)
    except ValueError as error:
        raise UsageError(f"{error}.") from error


def check_batches(ready: Ready) -> None:
    """Tells batches that batch norm cannot learn from.

    Raises:
        UsageError: a batch would hold one photo while batch norms learn their statistics.
    """
    photos, devices = ready.dataset.train_photos, ready.config.devices
    if devices > 1 and photos < 2 * devices:
        raise UsageError(
            f"{ready.config.data}: {photos} photos to train on are too few for {devices} devices."
        )
    if ready.cached or not network.has_live_norms(ready.network, ready.frozen):
        return
    if ready.config.batch_size == 1 and not (ready.config.sync_bn and devices > 1):
        raise UsageError(
            "-b 1: batch norm cannot learn from one photo at a time. Use -b 2 or more, or freeze "
            "the norms with --freeze backbone."
        )
    if ready.dataset.train_photos == 1:
        raise UsageError(
            f"{ready.config.data}: batch norm cannot learn from a single photo. Add photos, or "
            "freeze the norms with --freeze backbone."
        )
