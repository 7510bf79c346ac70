"""The ResNeSt variants, one frozen record each. No torch here: `resnest models` is fast.

A record holds the architecture, the preprocessing it was trained for, the published accuracy and
the file of its weights, so that no two commands can disagree about them. All but two are published:
`resnest23t` is ours, and its weights come with the program; so did those of `resnest14t` once.

Sources: "ResNeSt: Split-Attention Networks" (arXiv 2004.08955); the original release
(resnest.torch.resnest and .ablation); timm.models.resnest for the ids, the crops and the accuracies
that it measured. The crop and the interpolation of the five `fast` variants that only the original
release has are taken from their two sisters in timm: an assumption.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from resnest_cli.errors import UnknownModelError
from resnest_cli.options import Interpolation
from resnest_cli.text import did_you_mean

# Of normalised pixels: 1 / 255 and 255 are the extremes that people use.
MIN_STD, MAX_SCALE = 1e-3, 1e3

_ORIGINAL = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1/"
_TIMM_GLUON = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-resnest/"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a photo becomes the network's input; see `images.preprocess`.

    `size` is the side of the square input in pixels, `crop_pct` the share of the resized shorter
    side that the centre crop keeps (0 < crop_pct <= 1), `mean` and `std` are per RGB channel for
    pixels in [0, 1].
    """

    size: int = 224
    crop_pct: float = 0.875
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A published file of weights, or one that comes with the program (`bundled`, no hosts).

    The eight hex digits in its name begin its SHA-256: they prove that the file is whole, not where
    it came from. `hosts` are URL prefixes, tried in turn.
    """

    name: str
    hosts: tuple[str, ...]
    bundled: bool = False

    @property
    def hash_prefix(self) -> str:
        """First eight hex digits of the file's SHA-256."""
        return self.name.rpartition("-")[2].partition(".")[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """Full addresses of the file, in the order in which they are tried."""
        return tuple(host + self.name for host in self.hosts)


@dataclass(frozen=True, slots=True)
class HubModel:
    """timm's copy of published weights on Hugging Face's hub: a repository with a `config.json`.

    `sha256` is that of its model.safetensors, empty where it is not known here.
    """

    id: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """timm's name of the model: the architecture and a tag, such as resnest50d.in1k."""
        return self.id.partition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One ResNeSt: what to build, how to feed it, how good it is, where its weights are.

    Architecture, in the paper's terms: `blocks` per stage, `widths` of the stages before the
    expansion of 4, `stem_width` channels of the deep stem's first convolution, `radix` splits in
    each of `cardinality` groups of `base_width` channels (per 64 of the stage's width), and
    `avd_first`: whether a strided block average-pools before its split-attention convolution or
    after it.

    `parameters` and `gmacs` (10^9 multiply-adds of convolutions and linear layers at the
    preprocessing's size) are those of `num_classes` classes and 3 input channels; `top1` and `top5`
    are the accuracies in percent of `weights` on the validation photos of the `dataset` that they
    were trained on. None where there is no such figure.
    """

    id: str
    aliases: tuple[str, ...] = ()
    blocks: tuple[int, int, int, int]
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 32
    radix: int = 2
    cardinality: int = 1
    base_width: int = 64
    avd_first: bool = False
    preprocessing: Preprocessing = Preprocessing()
    parameters: int | None = None
    gmacs: float | None = None
    top1: float | None = None
    top5: float | None = None
    weights: WeightsFile | None = None
    hub: HubModel | None = None
    num_classes: int = 1000
    dataset: str = "ImageNet"

    @property
    def bundled(self) -> bool:
        """Whether its weights come with the program."""
        return self.weights is not None and self.weights.bundled

    @property
    def title(self) -> str:
        """Its id, in words where the architecture is not that of the table."""
        return self.id if self.parameters is not None else f"an altered {self.id}"

    @property
    def num_features(self) -> int:
        """Channels of the last feature map, and length of the pooled features."""
        return self.widths[3] * EXPANSION

    def group_width(self, width: int) -> int:
        """Channels of the split attention of a stage of this width, in all its groups."""
        return int(width * (self.base_width / 64)) * self.cardinality

    @property
    def architecture(self) -> dict[str, Any]:
        """The fields that decide tensor shapes and computation, JSON-ready."""
        return _plain({name: getattr(self, name) for name in ARCHITECTURE_FIELDS})

    def overridden(self, overrides: Mapping[str, Any]) -> "Variant":
        """This variant with other architecture fields, as a checkpoint's header records them.

        Raises ValueError for an unknown field, or a value of the wrong type or sign.
        """
        if not overrides:
            return self
        changed = {name: _checked(name, value) for name, value in overrides.items()}
        unknown: dict[str, Any] = dict.fromkeys(
            ("parameters", "gmacs", "top1", "top5", "weights", "hub")
        )
        return replace(self, **changed, **unknown)


EXPANSION = 4  # output channels of a bottleneck per channel of its stage width

_FOURS = ("blocks", "widths")  # fields of a number for each stage
ARCHITECTURE_FIELDS = (
    *_FOURS, "stem_width", "radix", "cardinality", "base_width", "avd_first",
)  # fmt: skip


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """JSON-ready: with lists for tuples."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in record.items()}


def _checked(name: str, value: Any) -> Any:
    """A value of an architecture field; ValueError for an unknown field or a bad value."""
    if name not in ARCHITECTURE_FIELDS:
        raise ValueError(f"unknown architecture field {name!r}")
    if name == "avd_first":
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, not {value!r}")
        return value
    length = 4 if name in _FOURS else 1
    numbers = value if name in _FOURS else [value]
    if (
        not isinstance(numbers, list | tuple)
        or len(numbers) != length
        or not all(type(n) is int and 1 <= n <= 65536 for n in numbers)
    ):
        raise ValueError(f"{name} must be {length} positive integer(s), not {value!r}")
    return tuple(numbers) if name in _FOURS else value


def _resnest(
    id_: str, alias: str | None, blocks: tuple[int, int, int, int], preprocessing: Preprocessing,
    file: str, hosts: tuple[str, ...], tag: str = "", sha256: str = "", **rest: Any,
) -> Variant:  # fmt: skip
    return Variant(
        id=id_,
        aliases=(alias,) if alias else (),
        blocks=blocks,
        preprocessing=preprocessing,
        weights=WeightsFile(file, hosts),
        hub=HubModel(f"timm/{id_}.{tag}", sha256) if tag else None,
        **rest,
    )


_48 = Preprocessing(48, 0.875, "bilinear")
_128 = Preprocessing(128, 0.95, "bilinear")
_224 = Preprocessing(224, 0.875, "bilinear")
_224_BICUBIC = Preprocessing(224, 0.875, "bicubic")
_256 = Preprocessing(256, 0.875, "bilinear")
_320 = Preprocessing(320, 0.909, "bicubic")
_416 = Preprocessing(416, 0.928, "bicubic")
_BOTH = (_ORIGINAL, _TIMM)
_50 = (3, 4, 6, 3)

# fmt: off
_TABLE = (
    _resnest("resnest14d", None, (1, 1, 1, 1), _224,
             "gluon_resnest14-9c8fe254.pth", (_TIMM_GLUON,), "gluon_in1k",
             "e56bef38731fc91873e790d5117c3df60ba281c6fbec6b78d5e14011c0218b8a",
             parameters=10_611_688, gmacs=2.75, top1=75.516, top5=92.512),
    _resnest("resnest26d", None, (2, 2, 2, 2), _224,
             "gluon_resnest26-50eb607c.pth", (_TIMM_GLUON,), "gluon_in1k",
             parameters=17_069_448, gmacs=3.62, top1=78.476, top5=94.300),
    _resnest("resnest50d", "resnest50", _50, _224,
             "resnest50-528c19ca.pth", _BOTH, "in1k",
             parameters=27_483_240, gmacs=5.37, top1=80.958, top5=95.372),
    _resnest("resnest101e", "resnest101", (3, 4, 23, 3), _256,
             "resnest101-22405ba7.pth", _BOTH, "in1k", stem_width=64,
             parameters=48_275_016, gmacs=13.32, top1=82.916, top5=96.310),
    _resnest("resnest200e", "resnest200", (3, 24, 36, 3), _320,
             "resnest200-75117900.pth", _BOTH, "in1k", stem_width=64,
             parameters=70_201_544, gmacs=35.52, top1=83.880, top5=96.880),
    _resnest("resnest269e", "resnest269", (3, 30, 48, 8), _416,
             "resnest269-0cc87c48.pth", _BOTH, "in1k", stem_width=64,
             parameters=110_929_480, gmacs=77.35, top1=84.542, top5=96.988),
    _resnest("resnest50d_1s1x64d", "resnest50_fast_1s1x64d", _50, _224_BICUBIC,
             "resnest50_fast_1s1x64d-d8fbf808.pth", (_ORIGINAL,),
             radix=1, cardinality=1, base_width=64, avd_first=True,
             parameters=26_217_896, gmacs=4.33, top1=80.33),
    _resnest("resnest50d_2s1x64d", "resnest50_fast_2s1x64d", _50, _224_BICUBIC,
             "resnest50_fast_2s1x64d-44938639.pth", (_ORIGINAL,),
             radix=2, cardinality=1, base_width=64, avd_first=True,
             parameters=27_483_240, gmacs=4.33, top1=80.53),
    _resnest("resnest50d_4s1x64d", "resnest50_fast_4s1x64d", _50, _224_BICUBIC,
             "resnest50_fast_4s1x64d-f74f3fc3.pth", (_ORIGINAL,),
             radix=4, cardinality=1, base_width=64, avd_first=True,
             parameters=31_912_712, gmacs=4.34, top1=80.76),
    _resnest("resnest50d_1s2x40d", "resnest50_fast_1s2x40d", _50, _224_BICUBIC,
             "resnest50_fast_1s2x40d-32830b84.pth", (_ORIGINAL,),
             radix=1, cardinality=2, base_width=40, avd_first=True,
             parameters=25_946_680, gmacs=4.36, top1=80.59),
    _resnest("resnest50d_2s2x40d", "resnest50_fast_2s2x40d", _50, _224_BICUBIC,
             "resnest50_fast_2s2x40d-9d126481.pth", (_ORIGINAL,),
             radix=2, cardinality=2, base_width=40, avd_first=True,
             parameters=26_943_792, gmacs=4.37, top1=80.61),
    _resnest("resnest50d_4s2x40d", "resnest50_fast_4s2x40d", _50, _224_BICUBIC,
             "resnest50_fast_4s2x40d-41d14ed0.pth", _BOTH, "in1k",
             radix=4, cardinality=2, base_width=40, avd_first=True,
             parameters=30_417_592, gmacs=4.37, top1=81.146, top5=95.566),
    _resnest("resnest50d_1s4x24d", "resnest50_fast_1s4x24d", _50, _224_BICUBIC,
             "resnest50_fast_1s4x24d-d4a4f76f.pth", _BOTH, "in1k",
             "be7b355d15780e93df7d60f685e5771e286e46c64d30749085199e9a5756adf4",
             radix=1, cardinality=4, base_width=24, avd_first=True,
             parameters=25_677_000, gmacs=4.40, top1=81.024, top5=95.338),
    Variant(id="resnest14t", blocks=(1, 2, 2, 1), widths=(32, 64, 128, 256), stem_width=16,
            preprocessing=_48, num_classes=200, dataset="Tiny ImageNet",
            parameters=2_735_896, gmacs=0.04),
    Variant(id="resnest23t", aliases=("demo",), blocks=(1, 2, 2, 2), widths=(32, 64, 128, 256),
            stem_width=16, avd_first=True, preprocessing=_128, dataset="ordinary photos",
            parameters=4_772_792, gmacs=0.19, top1=35.20, top5=64.20,
            weights=WeightsFile("resnest23t-5445ad17.safetensors", (), bundled=True)),
)
# fmt: on

VARIANTS: dict[str, Variant] = {variant.id: variant for variant in _TABLE}
_BY_NAME = (
    VARIANTS
    | {alias: variant for variant in _TABLE for alias in variant.aliases}
    | {variant.hub.name: variant for variant in _TABLE if variant.hub}
)

BUNDLED_MODEL = "demo"  # what to offer where there is no network

# What `resnest models` recommends: the cheapest, the default, the most accurate.
RECOMMENDED = {"resnest14d": "fast", "resnest50d": "balanced", "resnest269e": "best"}


def find_variant(name: str) -> Variant | None:
    """The variant of this id, alias or name of timm's, in any case; None when there is none."""
    return _BY_NAME.get(name.lower())


def get_variant(name: str) -> Variant:
    """As `find_variant`; raises UnknownModelError, with the nearest names, where there is none."""
    variant = find_variant(name)
    if variant is None:
        raise no_such_model(name)
    return variant


def no_such_model(name: str, known: Iterable[str] = tuple(_BY_NAME)) -> UnknownModelError:
    """The error for a name that is none of a variant; names the nearest, or how to list them."""
    listed = " `resnest models` lists them; a checkpoint is given by the path of its file."
    return UnknownModelError(f"unknown model {name!r}.{did_you_mean(name, known) or listed}")


def preprocessing_from_dict(record: Mapping[str, Any]) -> Preprocessing:
    """The inverse of `dataclasses.asdict`; ValueError for a bad, missing or unknown field."""
    names = [field.name for field in fields(Preprocessing)]
    if sorted(record) != sorted(names):
        raise ValueError(f"preprocessing needs exactly {', '.join(names)}, not {sorted(record)}")
    size, crop_pct = record["size"], record["crop_pct"]
    if type(size) is not int or not 1 <= size <= 8192:
        raise ValueError(f"preprocessing size must be an integer from 1 to 8192, not {size!r}")
    if not _are_numbers([crop_pct], 1) or not 0.01 <= crop_pct <= 1:
        raise ValueError(f"preprocessing crop_pct must lie in [0.01, 1], not {crop_pct!r}")
    if record["interpolation"] not in ("bilinear", "bicubic"):
        raise ValueError(f"unknown interpolation {record['interpolation']!r}")
    for name in ("mean", "std"):
        if not _are_numbers(record[name], 3):
            raise ValueError(f"preprocessing {name} must be three numbers, not {record[name]!r}")
    mean, std = ((float(r), float(g), float(b)) for r, g, b in (record["mean"], record["std"]))
    if min(std) < MIN_STD or max(std) > MAX_SCALE or max(map(abs, mean)) > MAX_SCALE:
        raise ValueError(
            f"preprocessing std must lie in [{MIN_STD:g}, {MAX_SCALE:g}] and mean in "
            f"[-{MAX_SCALE:g}, {MAX_SCALE:g}], for pixels in [0, 1], not {std!r} and {mean!r}"
        )
    return Preprocessing(size, float(crop_pct), record["interpolation"], mean, std)


def preprocessing_to_dict(preprocessing: Preprocessing) -> dict[str, Any]:
    """A JSON-ready record of it."""
    return _plain(asdict(preprocessing))


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(isinstance(v, int | float) and type(v) is not bool and abs(v) < 1e6 for v in values)
    )
