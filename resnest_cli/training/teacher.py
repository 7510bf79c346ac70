"""A teacher: a network whose answers another one learns, beside the labels or without them.

"Distilling the Knowledge in a Neural Network" (Hinton, Vinyals, Dean; arXiv 1503.02531): the loss,
see `step.Loss`, compares the answers of both, softened by a temperature. The teacher sees the very
crop that the student sees, with all that its augmentation did to it but for mixing, resized to its
own size: "Knowledge distillation: A good teacher is patient and consistent" (arXiv 2106.05237).

    student's photos -> pixels in [0, 1] -> teacher's size and normalisation -> logits
                     -> logits of the student's classes

Of the teacher's classes those that the student has count, and their probabilities are as if there
were no others. A teacher is anything that `--model` takes, on the device of the run, or a foreign
.onnx, see `inference.foreign_onnx`, on the CPU.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resnest_cli import paths
from resnest_cli.data.dataset import UNLABELLED, DataSet, Sample
from resnest_cli.errors import CheckpointError, LabelsError, UsageError
from resnest_cli.inference.engine import create_engine
from resnest_cli.inference.torch_engine import TorchEngine
from resnest_cli.model.checkpoint_header import file_kind
from resnest_cli.model.hashes import known_sha256
from resnest_cli.model.labels import (
    IMAGENET_CLASSES,
    canonical,
    imagenet_ids,
    imagenet_labels,
    look_up,
    read_labels,
)
from resnest_cli.model.loading import Model, find_model
from resnest_cli.model.onnx_file import needed, read_metadata
from resnest_cli.model.variants import Preprocessing, preprocessing_from_dict, preprocessing_to_dict
from resnest_cli.net import Access
from resnest_cli.options import Amp
from resnest_cli.text import did_you_mean, some
from resnest_cli.training.settings import Config, parse_channels

_STUDENT = Preprocessing()  # until it is known
_CROP_PCT = 0.875  # of a foreign file's whole photos: that of most networks for ImageNet

_AT_ONCE = 16  # photos on a CPU, where more take memory and no less time

Answer = Callable[[Tensor], Tensor]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Teacher:
    """A network that answers, and what it answers with.

    `class_ids` and `class_names` name its classes, `digest` all that decides its answers, so that
    they can be kept. `preprocessing` is how it is fed; of whole photos its crop counts, too.
    `columns` are the student's classes among its own, and `student` is how the student is fed: both
    as `of_student` decides.
    """

    name: str
    digest: str
    sha256: str
    class_ids: tuple[str, ...] | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    make: Callable[[], Answer]
    columns: tuple[int, ...] = ()
    student: Preprocessing = _STUDENT

    @property
    def num_classes(self) -> int:
        """Of its own answers."""
        return len(self.class_names)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """An id for each class, no two alike: their ids, or names, or numbers."""
        for names in (self.class_ids, self.class_names):
            if names is not None and len(set(map(canonical, names))) == len(names):
                return names
        return tuple(
            f"{index:0{len(str(self.num_classes - 1))}d}" for index in range(self.num_classes)
        )

    @cached_property
    def _answer(self) -> Answer:
        return self.make()

    def logits(self, pixels: Tensor) -> Tensor:
        """Crops of any size as RGB pixels in [0, 1], float32 (B, 3, H, W) -> its logits.

        The logits are float32 (B, `num_classes`), of all its classes, on the same device.
        """
        size = self.preprocessing.size
        if pixels.shape[2:] != (size, size):
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        mean, std = _tensors(self.preprocessing, pixels)
        return self._answer((pixels - mean) / std)

    def answers(self, photos: Tensor) -> Tensor:
        """The student's photos, normalised for it -> logits of the student's classes.

        Float32 (B, 3, H, W) -> float32 (B, len(columns)), on the same device, without gradient.
        """
        mean, std = _tensors(self.student, photos)
        with torch.no_grad():
            return self.of_classes(self.logits(photos * std + mean))

    def first_answers(self, photos: Tensor) -> Tensor:
        """Whole photos, prepared as `preprocessing` says -> the likeliest of the student's classes.

        Float32 (B, 3, size, size) -> int64 (B,).
        """
        return self.of_classes(self._answer(photos)).argmax(dim=1)

    def of_classes(self, logits: Tensor) -> Tensor:
        """Of its logits (B, `num_classes`) those of the student's classes, in their order."""
        if self.columns == tuple(range(self.num_classes)):
            return logits
        return logits[:, _tensor(self.columns, torch.int64, logits.device)]

    def of_student(
        self, class_ids: Sequence[str], class_names: Sequence[str], student: Preprocessing
    ) -> "Teacher":
        """The same for a student with these classes; UsageError where it does not know them all."""
        columns = columns_of(self, class_ids, class_names)
        return replace(self, columns=columns, student=student)


def _tensors(preprocessing: Preprocessing, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std, (3, 1, 1)."""
    values = preprocessing.mean, preprocessing.std
    mean, std = (_tensor(channels, torch.float32, like.device) for channels in values)
    return mean[:, None, None], std[:, None, None]


@cache
def _tensor(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept on the device: a copy to a GPU waits for all that it was given before."""
    return torch.tensor(values, dtype=dtype, device=device)


def columns_of(
    teacher: Teacher, class_ids: Sequence[str], class_names: Sequence[str]
) -> tuple[int, ...]:
    """The teacher's class of each student's class, by id, else by name; never by number.

    Raises:
        UsageError: it does not know a class, has several of that name, or has one for two.
    """
    found: list[int] = []
    unknown: list[str] = []
    for id_, name in zip(class_ids, class_names, strict=True):
        column = _column(teacher, id_)
        column = _column(teacher, name) if column is None else column
        if column is None:
            unknown.append(id_ if id_ == name else f"{id_} ({name})")
        elif column in found:
            other = class_ids[found.index(column)]
            raise UsageError(
                f"--teacher {teacher.name}: {other!r} and {id_!r} are one class of it, "
                f"{teacher.class_names[column]!r}. Join the two, or learn without a teacher."
            )
        else:
            found.append(column)
    if unknown:
        hint = did_you_mean(unknown[0], teacher.class_names, 1)  # ids that are alike mean nothing
        raise UsageError(
            f"--teacher {teacher.name} does not know {some(unknown, 3)}.{hint} Its "
            f"{teacher.num_classes:,} classes begin with {', '.join(teacher.class_names[:3])}. "
            "Name the classes as it does, by folders or with --class-names; name its own with "
            "--teacher-labels; or take a teacher that has learned these classes."
        )
    return tuple(found)


def with_classes_of(teacher: Teacher, dataset: DataSet) -> DataSet:
    """`--teacher-classes`: the same photos with all of the teacher's classes, in its order.

    A data set that has them already stays what it is. UsageError as of `columns_of`.
    """
    columns = columns_of(teacher, dataset.class_ids, dataset.class_names)

    def relabelled(samples: Sequence[Sample]) -> tuple[Sample, ...]:
        return tuple(
            one if one.label == UNLABELLED else replace(one, label=columns[one.label])
            for one in samples
        )

    return replace(
        dataset,
        class_ids=teacher.keys,
        class_names=teacher.class_names,
        train=relabelled(dataset.train),
        val=relabelled(dataset.val),
    )


def _column(teacher: Teacher, label: str) -> int | None:
    """The index of a class by its id or name; by its number only where that is its id."""
    if label in teacher.keys:
        return teacher.keys.index(label)
    if label.isdecimal() and canonical(label) not in map(canonical, teacher.class_names):
        return None
    found, _ = look_up([label], teacher, remedy="Name the class by its id.")
    return found.get(label)


# Where it comes from


def load_teacher(config: Config, access: Access) -> Teacher:
    """The teacher that `config.teacher` names; its network is made when it is asked first.

    Raises:
        UsageError: settings that do not fit it, or are missing.
        UnknownModelError, WeightsError, CheckpointError, LabelsError, EngineError: it cannot be
            had, read or run.
    """
    assert config.teacher is not None
    path = paths.expanded(config.teacher)
    if path.is_file() and file_kind(path) == "onnx" and "variant" not in read_metadata(path):
        found = _foreign(config, path, access)
    else:
        found = _ours(config, access)
    facts = [
        found.sha256,
        found.class_ids,
        found.class_names,
        preprocessing_to_dict(found.preprocessing),
    ]
    digest = hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogatepass")).hexdigest()
    return replace(found, digest=digest)


def _ours(config: Config, access: Access) -> Teacher:
    """Anything that `--model` takes."""
    assert config.teacher is not None
    model = find_model(
        config.teacher, labels=config.teacher_labels, access=access, trust_onnx=config.trust_onnx
    )
    model.need_classifier()
    model.need_one_label("--teacher")
    if model.in_channels != 3:
        raise CheckpointError(f"{model.path}: takes {model.in_channels} channels; photos have 3.")
    model = replace(model, preprocessing=_preprocessing(config, asdict(model.preprocessing)))
    device, amp = ("cpu" if model.exported else config.device), config.amp
    return Teacher(
        name=model.name,
        digest="",
        sha256=model.sha256(),
        class_ids=model.class_ids,
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        make=lambda: _engine(model, device, amp),
    )


def _engine(model: Model, device: str, amp: Amp) -> Answer:
    """The fast engine on a CPU, else torch, where photos stay on the device.

    A calibrated network's logits are divided by its temperature, as for its probabilities.
    """
    temperature = model.temperature
    if device == "cpu":
        engine = create_engine(model, device)
        return lambda photos: _in_parts(engine.logits, photos) / temperature
    torch_engine = TorchEngine(model.network(), device, amp=amp)
    return lambda photos: torch_engine.on_device(photos) / temperature


def _in_parts(run: Callable[[Float32], Float32], photos: Tensor, size: int = _AT_ONCE) -> Tensor:
    """The logits of photos on any device by an engine of the CPU, so many photos at once."""
    batch = photos.to("cpu", torch.float32).contiguous().numpy()
    parts = [run(batch[start : start + size]) for start in range(0, len(batch), size)]
    return torch.from_numpy(np.concatenate(parts)).to(photos.device)


def _foreign(config: Config, path: Path, access: Access) -> Teacher:
    """A foreign .onnx."""
    with needed("onnxruntime"):
        from resnest_cli.inference.foreign_onnx import ForeignOnnx
    found = ForeignOnnx(path, size=config.teacher_size, trusted=config.trust_onnx)
    said = {"size": found.size, "crop_pct": _CROP_PCT, "interpolation": "bicubic"}
    for name, value in (("mean", found.mean), ("std", found.std)):
        if value is None and getattr(config, f"teacher_{name}") is None:
            raise UsageError(
                f"{path} does not say how its photos are normalised: give --teacher-mean and "
                "--teacher-std, for pixels in [0, 1]. Most networks for ImageNet take "
                "0.485,0.456,0.406 and 0.229,0.224,0.225; some 0.5 and 0.5."
            )
        said[name] = value
    ids, names = _foreign_classes(config, found.class_names, found.num_classes, path, access)
    hashes = [known_sha256(file) for file in found.files]
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    return Teacher(
        name=path.name,
        digest="",
        sha256=whole,
        class_ids=ids,
        class_names=names,
        preprocessing=_preprocessing(config, said),
        make=lambda: lambda photos: _in_parts(found.logits, photos, found.batch or _AT_ONCE),
    )


def _foreign_classes(
    config: Config, own: tuple[str, ...] | None, count: int, path: Path, access: Access
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Ids, where they are known, and names: as the file of labels says, or the network's own."""
    if config.teacher_labels is not None:
        names = read_labels(config.teacher_labels, count)
    elif own is not None:
        names = own
    elif count == IMAGENET_CLASSES:
        access.notify(
            f"{path} does not name its 1,000 classes: they are taken for ImageNet's, in the "
            "published order (--teacher-labels FILE says otherwise)."
        )
        return imagenet_ids(), imagenet_labels()
    else:
        raise LabelsError(
            f"{path} does not name its {count:,} classes: give --teacher-labels FILE, an id or a "
            "name on each line, in its order."
        )
    readable = dict(zip(imagenet_ids(), imagenet_labels(), strict=True))
    if all(name in readable for name in names):
        return names, tuple(readable[name] for name in names)
    return None, names


def _preprocessing(config: Config, said: dict[str, object]) -> Preprocessing:
    """How the teacher is fed, as it says itself and as the settings say."""
    given: dict[str, object] = {"size": config.teacher_size}
    given |= {
        name: parse_channels(text)
        for name in ("mean", "std")
        if (text := getattr(config, f"teacher_{name}")) is not None
    }
    known = {name: value for name, value in given.items() if value is not None}
    try:
        return preprocessing_from_dict(said | known)
    except ValueError as error:
        raise UsageError(f"--teacher {config.teacher}: {error}.") from error
