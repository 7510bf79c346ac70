"""From what was asked for to what the loop needs: data, network, batches, facts for checkpoints."""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from resnest_cli import __version__
from resnest_cli.data.dataset import UNLABELLED, DataSet, Sample, load_dataset, sharded_dataset
from resnest_cli.data.shards import SHARD_SIDES, ShardSide, find_shards, is_shards
from resnest_cli.data.unlabelled import only_unlabelled, with_unlabelled
from resnest_cli.errors import UsageError
from resnest_cli.inference.engine import Engine, check_device_name, create_engine
from resnest_cli.inference.torch_engine import resolve_device
from resnest_cli.model.checkpoint_header import CheckpointInfo
from resnest_cli.model.hashes import known_sha256
from resnest_cli.model.loading import Model, find_model
from resnest_cli.model.names import get_named, understand
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.model.training_photos import joined
from resnest_cli.model.variants import Preprocessing, preprocessing_from_dict
from resnest_cli.net import Access
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.paths import is_file
from resnest_cli.progress import Progress, checking, silent
from resnest_cli.signals import StopRequest
from resnest_cli.training import network
from resnest_cli.training.augment import Augment
from resnest_cli.training.cached_features import Extractor, FeatureBatches, Features
from resnest_cli.training.class_weights import class_weights, with_mean_1
from resnest_cli.training.defaults import resolve
from resnest_cli.training.loader import Batches, read_all
from resnest_cli.training.order import Draw, ShardPhotos
from resnest_cli.training.runs import RunFolder
from resnest_cli.training.settings import Config
from resnest_cli.training.step import Task
from resnest_cli.training.teacher import Teacher, load_teacher, with_classes_of
from resnest_cli.training.teacher_crops import Questions

_LABELLED = 32  # photos that a teacher labels at once
_VALIDATED = 1024  # rows of features in a batch that validates


@dataclass
class Ready:
    """Everything about a run but its folder. `config` is resolved.

    `frozen` are the modules in evaluation mode, `origin` is the hash of the weights that it starts
    from, "" for none; `class_weights` are float32 (classes,). `teacher` is ready to be asked.
    `kept` are features that were computed already, of the photos that train and that validate.
    """

    config: Config
    dataset: DataSet
    preprocessing: Preprocessing
    network: ResNeSt
    kept_classifier: bool
    frozen: list[nn.Module]
    origin: str
    class_weights: Tensor | None
    model: Model | None
    teacher: Teacher | None = None
    kept: tuple[Features, Features] | None = None
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def info(self) -> CheckpointInfo:
        """What every checkpoint of the run says of itself."""
        config, data = self.config, self.dataset
        provenance: dict[str, Any] = {
            "command": config.command,
            "recipe": config.recipe,
            "data": Path(config.data or config.unlabelled or "").resolve().name,
            "photos": data.train_photos,
            "seed": config.seed,
            "resnest_cli": __version__,
        }
        if self.teacher is not None:
            name = self.teacher.name
            provenance["teacher"] = {
                "name": Path(name).name if is_file(name) else name,
                "sha256": self.teacher.sha256,
                "weight": config.teacher_weight,
                "temperature": config.teacher_temperature,
            }
            if not config.data:  # top-1 is how often both agree
                provenance["validated_by"] = "the teacher's first answers"
        if data.excluded:
            provenance["excluded"] = dict(Counter(photo.error for photo in data.excluded))
        if data.class_ids != data.class_names:
            provenance["class_ids"] = list(data.class_ids)
        trained_on = data.trained_on
        if self.model is not None:
            provenance |= {"base": self.network.variant.id, "base_sha256": self.origin}
            if self.model.trained_on is not None:
                trained_on = joined(self.model.path, trained_on, self.model.trained_on)
        return CheckpointInfo(
            variant=replace(self.network.variant, preprocessing=self.preprocessing),
            class_names=data.class_names,
            trained_on=trained_on,
            provenance=provenance,
        )

    def task(
        self, run: RunFolder, stop: StopRequest, display: TrainingDisplay, rank: int = 0
    ) -> Task:
        """What the loop trains, on device `rank`; a teacher's answers must be there by then."""
        config, data = self.config, self.dataset
        several = data.multi_label  # then no photo is of one class
        task = partial(
            Task,
            config,
            num_classes=len(data.class_ids),
            class_weights=self.class_weights,
            train_counts=() if several else data.train_counts,
            val_photos=data.val_photos,
            unlabelled=data.train_photos if several else len(data.unlabelled),
            teacher=self.teacher if config.teacher_crops == 0 else None,
        )
        draw = replace(self.draw, rank=rank)
        if config.cached:
            train, val = self.kept or self.features(run.states, stop, display)
            learning = FeatureBatches(train, draw, config.hflip)
            validating = FeatureBatches(val, Draw(_VALIDATED)) if data.val else None
            return task(network.head(self.network), learning, validating)
        batches = self._batches(run, draw, stop, display)
        if config.sync_bn and config.devices > 1:  # now: alone, such norms would wait for others
            nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
            self.frozen = network.freeze(self.network, config.freeze)
        thaws = network.thawing(self.network, config.freeze) if config.unfreeze_every > 0 else ()
        return task(self.network, *batches, frozen=self.frozen, thawing=thaws)

    @property
    def draw(self) -> Draw:
        """How an epoch is drawn, for the first device."""
        config = self.config
        assert config.batch_size is not None
        return Draw(
            config.batch_size,
            config.seed,
            config.balanced,
            config.aug_repeats,
            ranks=config.devices,
            accumulated=config.grad_accum_steps,
        )

    def _side(self, side: ShardSide) -> Sequence[Sample] | ShardPhotos:
        """The photos of a side; those without a label train, too."""
        data = self.dataset
        if data.shards is not None:
            return ShardPhotos(data.shards.side(side), len(data.class_ids))
        return data.learned if side == "train" else data.val

    def questions(self, folder: Path) -> Questions | None:
        """What a teacher is to be asked before the first epoch, if anything; see `teacher_crops`.

        The answers lie in a folder of `folder`. Only a copy of the teacher becomes ready to answer,
        so that the memory for it is free again when that was done.
        """
        if self.teacher is None or not self.config.teacher_crops:
            return None
        return Questions.of(replace(self.teacher), self._side("train"), self.config, folder)

    def ask_teacher(
        self, run: RunFolder, check: Callable[[], None], display: TrainingDisplay
    ) -> None:
        """Computes the answers that the run learns from, where any are missing; `check` may raise.

        For the first of several devices alone.
        """
        if (questions := self.questions(run.teacher)) is not None:
            questions.answer(display.progress("Asking the teacher"), check, display.message)

    def _batches(
        self, run: RunFolder, draw: Draw, stop: StopRequest, display: TrainingDisplay
    ) -> tuple[Batches, Batches | None]:
        """Photos to learn from and to validate with; `--cache` decodes all of them now."""
        config, data = self.config, self.dataset
        train, val = map(self._side, SHARD_SIDES)
        photos: list[Any] = []
        if config.cache:
            show = checking(display.progress("Decoding photos"), stop.check)
            photos = read_all([*data.learned, *data.val], show)
        first = len(data.learned)
        how: dict[str, Any] = {
            "workers": config.workers,
            "pin_memory": config.device.startswith("cuda"),
        }
        how |= {"classes": data.label_columns, "grey": config.grey}
        questions, augment = self.questions(run.teacher), Augment(config, self.preprocessing)
        answers = None if questions is None else questions.answers
        learning = Batches(train, augment, draw, photos=photos[:first], answers=answers, **how)
        self._open.callback(learning.close)
        if config.folds is not None and not data.val:
            return learning, None
        draw = Draw(draw.batch_size, rank=draw.rank, ranks=draw.ranks)
        validating = Batches(val, self.preprocessing, draw, photos=photos[first:], **how)
        self._open.callback(validating.close)
        return learning, validating

    def features(
        self, folder: Path, stop: StopRequest, display: TrainingDisplay
    ) -> tuple[Features, Features]:
        """Those of a frozen backbone, of photos that train and that validate; kept in `folder`."""
        config, data = self.config, self.dataset
        show = checking(display.progress("Computing features"), stop.check)
        extractor = Extractor(
            self.engine, self.preprocessing, self.origin, folder / "features", data.label_columns,
            config.grey, self.channels,
        )  # fmt: skip
        total = len(data.train) + len(data.val)

        def features(samples: Sequence[Sample], before: int, mirrored: bool) -> Features:
            def progress(done: int) -> None:
                show(before + done, total)

            return extractor.features(samples, mirrored=mirrored, progress=progress)

        train = features(data.train, 0, config.hflip > 0)
        if not data.val:
            return train, train.of([])
        return train, features(data.val, len(data.train), False)

    @property
    def channels(self) -> int:
        """Those of photos that the engine takes."""
        return 3 if self.model is None else self.model.in_channels

    @cached_property
    def engine(self) -> Engine:
        """What computes the frozen backbone's features."""
        assert self.model is not None
        sized = replace(self.model, preprocessing=self.preprocessing)
        return create_engine(sized, "cpu", output="features")

    def label_validation(self, progress: Progress) -> None:
        """Gives photos that validate without a label the teacher's first answer for one.

        To the whole photo, prepared as the teacher wants it. Photos that cannot be read any more
        do not validate.
        """
        data, teacher, found = self.dataset, self.teacher, list[Sample]()
        if teacher is None or all(sample.label != UNLABELLED for sample in data.val):
            return
        with contextlib.closing(
            Batches(
                data.val, teacher.preprocessing, Draw(_LABELLED), workers=self.config.workers or 0
            )
        ) as batches:
            for batch in batches.epoch():
                if batch.indices:
                    labels = teacher.first_answers(batch.photos.to(self.config.device)).tolist()
                    pairs = zip(batch.indices, labels, strict=True)
                    found += [replace(data.val[place], label=label) for place, label in pairs]
                progress(len(found), len(data.val))
        self.dataset = replace(data, val=tuple(found))

    def held_out(self, number: int) -> "Ready":
        """What a fold trains from: the same network, without the photos of that fold.

        To be called before the network has learned anything.
        """
        data, made = self.dataset.held_out(number), copy.deepcopy(self.network)
        ready = replace(
            self,
            dataset=data,
            network=made,
            frozen=network.freeze(made, self.config.freeze),
            class_weights=class_weights(self.config.class_weights, data),
            kept=None,
            _open=contextlib.ExitStack(),
        )
        _check_batches(ready)
        return ready

    def close(self) -> None:
        """Ends the processes that load photos."""
        self._open.close()


def load_data(config: Config, progress: Progress = silent) -> DataSet:
    """The photos of a folder or a table, checked and split; or the shards that are named.

    Those of `--unlabelled` come to them; there may be none but these.
    """
    more = config.unlabelled
    if not config.data and more is not None:
        return only_unlabelled(
            more, val_split=config.val_split, seed=config.seed, progress=progress
        )
    found = _labelled(config, progress)
    return found if more is None else with_unlabelled(found, more, progress=progress)


def _labelled(config: Config, progress: Progress) -> DataSet:
    if is_shards(config.data):
        if config.multi_label:
            raise UsageError(
                f"--multi-label: {config.data} is shards, which hold one label for each photo. "
                "Give the folder or the table that they were packed from."
            )
        config.reading.check_only({"split_names", "multi_label"}, config.data, "shards")
        if config.exclude is not None:
            raise UsageError(
                f"--exclude: {config.data} is shards, which are read whole and in order. Pack them "
                f"anew without these photos: resnest pack DATA -o DIR --exclude {config.exclude}"
            )
        found = find_shards(
            config.data, val_data=config.val_data, classes=config.classes, progress=progress
        )
        return sharded_dataset(found, config.class_names)
    if config.val_data is not None:
        raise UsageError(
            f"--val-data goes with shards; {config.data} has folders train and val, a CSV with a "
            "column split, or the share --val-split."
        )
    return load_dataset(
        config.data,
        val_split=config.val_split,
        seed=config.seed,
        classes=config.classes,
        class_names=config.class_names,
        reading=config.reading,
        folds=config.folds,
        progress=progress,
    )


def get_ready(config: Config, dataset: DataSet, access: Access) -> Ready:
    """Decides what is undecided and makes the network; weights are fetched where needed."""
    check_device_name(config.device)
    model = _source(config, access)
    config = replace(config, multi_label=dataset.multi_label, in_chans=_channels(config, model))
    variant = model.variant if model is not None else get_named(config.model)
    preprocessing = _fed(config, (model or variant).preprocessing)
    config = resolve(
        config,
        photos=dataset.train_photos,
        preprocessing=preprocessing,
        device=resolve_device(config.device),
        sharded=dataset.shards is not None,
    )
    teacher = None
    if config.teacher is not None:
        teacher = load_teacher(config, access)
        if config.teacher_classes:
            dataset = with_classes_of(teacher, dataset)
        teacher = teacher.of_student(dataset.class_ids, dataset.class_names, preprocessing)
    variant = replace(variant, preprocessing=preprocessing)
    made, kept_classifier = network.create_network(config, variant, model, dataset)
    weights = class_weights(config.class_weights, dataset)
    ready = Ready(
        config=config,
        dataset=dataset,
        preprocessing=preprocessing,
        network=made,
        kept_classifier=kept_classifier,
        frozen=network.freeze(made, config.freeze),
        origin=known_sha256(model.path) if model is not None else "",
        class_weights=weights if teacher is None else with_mean_1(weights, dataset),
        model=model,
        teacher=teacher,
    )
    _check_batches(ready)
    return ready


def _fed(config: Config, preprocessing: Preprocessing) -> Preprocessing:
    """How the network is fed: as it was, but for what the settings say."""
    changes = {
        "size": config.img_size,
        "crop_pct": config.crop_pct,
        "interpolation": config.interpolation,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return preprocessing_from_dict(asdict(preprocessing) | given)
    except ValueError as error:
        raise UsageError(f"{error}.") from error


def _source(config: Config, access: Access) -> Model | None:
    """The weights that `finetune` starts from; None for `train`."""
    if config.command == "train":
        if understand(config.model).variant is None:
            raise UsageError(
                f"train starts from nothing; to go on from the weights in {config.model} use: "
                f"resnest finetune {config.data} --model {config.model}"
            )
        return None
    return find_model(config.model, source=config.weights, access=access)


def _channels(config: Config, model: Model | None) -> int:
    """Of the network's photos: 3, or 1 in grey."""
    has = 1 if model is not None and model.grey else 3
    wanted = has if config.in_chans is None else config.in_chans
    if wanted not in {1, 3}:
        raise UsageError(f"--in-chans {wanted}: photos have 3 channels, or 1 in grey. Use 3 or 1.")
    if wanted > has:
        raise UsageError(
            "--in-chans 3: the weights were trained on grey photos. Leave it out, or give another "
            "--model."
        )
    if wanted == 1 and config.teacher is not None:
        raise UsageError("--teacher: it is shown the photos in colour. Use --in-chans 3.")
    return wanted


def _check_batches(ready: Ready) -> None:
    """Raises UsageError for batches of one photo while batch norms learn their statistics."""
    config, photos, devices = ready.config, ready.dataset.train_photos, ready.config.devices
    where = config.data or config.unlabelled
    if devices > 1 and photos < 2 * devices:
        raise UsageError(f"{where}: {photos} photos to train on are too few for {devices} devices.")
    if config.cached or not network.has_live_norms(ready.network, ready.frozen):
        return
    remedy = "or freeze the norms with --freeze backbone."
    if config.batch_size == 1 and not (config.sync_bn and devices > 1):
        raise UsageError(
            f"-b 1: batch norm cannot learn from one photo at a time. Use -b 2 or more, {remedy}"
        )
    if photos == 1:
        raise UsageError(
            f"{where}: batch norm cannot learn from a single photo. Add photos, {remedy}"
        )
