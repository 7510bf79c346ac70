"""Settings: who wins, what is refused, and what is decided from the data."""

from collections.abc import Callable
from dataclasses import MISSING, asdict
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.errors import UsageError
from resnest_cli.model.variants import BUNDLED_MODEL, Preprocessing, get_variant
from resnest_cli.options import NO_FLAG, settings_of
from resnest_cli.training.conflicts import without_effect
from resnest_cli.training.defaults import resolve
from resnest_cli.training.settings import (
    RECIPES,
    Config,
    TrainingJob,
    load_settings,
    write_args,
)


def load(command: Any = "train", **more: Any) -> Config:
    return load_settings(TrainingJob(command=command, **({"data": "d"} | more)))


def decide(config: Config, photos: int = 1000, device: str = "cpu", size: int = 224) -> Config:
    return resolve(config, photos=photos, preprocessing=Preprocessing(size), device=device)


def test_every_setting_has_an_option() -> None:
    without = {name for name, setting in settings_of(Config).items() if setting.option is NO_FLAG}
    assert without == {"command", "data", "recipe"}  # DATA and --recipe are no flags of settings


def test_every_default_is_a_value_that_is_allowed() -> None:
    for name, setting in settings_of(Config).items():
        if setting.default not in {None, MISSING}:
            assert setting.refused(setting.default) is None, name


def test_flags_win_over_files_over_recipes_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("smoothing = 0.3\nmixup = 0.7\nepochs = 9\n")
    found = load(config=file, flags={"mixup": 0.9})
    assert (found.mixup, found.smoothing, found.epochs) == (0.9, 0.3, 9)
    assert found.scale == load().scale == 0.35  # the recipe's
    assert found.val_split == 0.2  # the default
    assert found.cutmix == 0.0


def test_default_recipes() -> None:
    assert load("train").recipe == "quick"
    assert load("finetune").recipe == "finetune"
    assert load("finetune", recipe="quick").opt == "sgd"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("command", ["train", "finetune"])
def test_recipes_are_whole(recipe: str, command: Any) -> None:
    if (command, recipe) == ("train", "finetune-small"):
        with pytest.raises(UsageError, match="--unfreeze-every: train starts from nothing"):
            decide(load(command, recipe=recipe))
        return
    found = decide(load(command, recipe=recipe))
    assert found.recipe == recipe
    assert None not in {v for k, v in asdict(found).items() if k not in _OPTIONAL}


_OPTIONAL = {
    "folds",
    "group_column",
    "in_chans",
    "multi_label",
    "min_precision",
    "teacher",
    "teacher_labels",
    "teacher_size",
    "teacher_mean",
    "teacher_std",
    "unlabelled",
    "val_data",
    "weights",
    "classes",
    "class_names",
    "split_names",
    "path_column",
    "label_column",
    "split_column",
    "base_folder",
    "extension",
    "exclude",
    "exclude_kinds",
    "train_size",
    "start_size",
    "decay_epochs",
    "time_budget",
}


def test_the_papers_recipe() -> None:
    found = decide(load(recipe="paper", flags={"batch_size": 8192}))
    assert (found.epochs, found.opt, found.momentum, found.weight_decay) == (270, "sgd", 0.9, 1e-4)
    assert found.lr == pytest.approx(0.1 * 8192 / 256)
    assert (found.warmup_epochs, found.sched, found.smoothing, found.mixup) == (
        5,
        "cosine",
        0.1,
        0.2,
    )
    assert (found.aa, found.drop_block, found.drop) == ("auto", 0.1, 0.0)
    for model, drop in {"resnest101e": 0.0, "resnest200e": 0.2, "resnest269": 0.2}.items():
        assert load(recipe="paper", flags={"model": model}).drop == drop
    assert load(recipe="paper", flags={"model": "resnest200e", "drop": 0.1}).drop == 0.1


def test_the_recipes_of_resnet_strikes_back() -> None:
    """Table 2 of the paper."""
    expected = {
        "a1": (600, 0.005, 0.01, 0.1, 0.2, 3, 0.05, "rand-m21-n2"),
        "a2": (300, 0.005, 0.02, 0.0, 0.1, 3, 0.05, "rand-m21-n2"),
        "a3": (100, 0.008, 0.02, 0.0, 0.1, 1, 0.0, "rand-m18-n2"),
    }
    for recipe, values in expected.items():
        found = load(recipe=recipe)
        assert (
            found.epochs, found.lr, found.weight_decay, found.smoothing, found.mixup,
            found.aug_repeats, found.drop_path, found.aa,
        ) == values  # fmt: skip
        assert (found.opt, found.cutmix, found.warmup_epochs) == ("lamb", 1.0, 5.0)
        assert (found.bce_loss, found.bce_target_thresh) == (True, 0.2)
        assert (found.batch_size or 0) * found.grad_accum_steps == 2048
        assert found.crop_pct == 0.95
        assert found.train_size == (160 if recipe == "a3" else None)


def test_recipes_of_ours() -> None:
    found = decide(load(recipe="tiny"), photos=100_000, size=64)
    assert (found.model, found.cache) == ("resnest14t", True)
    assert (found.start_size, load(recipe="tiny").img_size) == (32, 48)
    assert load(recipe="tiny", flags={"model": "resnest14d"}).model == "resnest14d"
    bundled, kept = load(recipe="demo"), get_variant(BUNDLED_MODEL)
    assert (bundled.model, bundled.img_size) == (kept.id, kept.preprocessing.size)
    assert (bundled.crop_pct, bundled.interpolation) == (
        kept.preprocessing.crop_pct, kept.preprocessing.interpolation
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"unknown setting 'epoch'. Did you mean epochs"),
        ("lerning_rate = 3", "unknown setting 'lerning_rate'"),
        ('epochs = "3"', "epochs must be a whole number from 1, not '3'"),
        ("epochs = 0", "epochs must be"),
        ("epochs = true", "epochs must be"),
        ("lr = 0", "lr must be a number above 0"),
        ("lr = inf", "lr must be"),
        ("lr = nan", "lr must be"),
        ("smoothing = 1", r"smoothing must be a number in \[0, 1\)"),
        ("val_split = 1.0", "val_split must be"),
        ('opt = "adam"', "opt must be one of sgd, adamw"),
        ("balanced = 1", "balanced must be true or false"),
        ('freeze = "all"', "stages:N"),
        ('command = "finetune"', "resnest finetune"),
        ("epochs = ", "is not TOML"),
    ],
)
def test_bad_files_name_the_file_and_the_setting(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        load(config=file)
    assert str(file) in str(error.value)


def test_bad_flags_name_the_flag() -> None:
    with pytest.raises(UsageError, match=r"--weight-decay: -1.0 is not a number, 0 or more"):
        load(flags={"weight_decay": -1.0})
    with pytest.raises(UsageError, match="DATA"):
        load(data=None)
    with pytest.raises(UsageError, match="Did you mean paper"):
        load(recipe="papers")


def test_whole_numbers_serve_where_numbers_are_meant(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("mixup = 1\nclip_grad = 5\n")
    assert load(config=file) == load(flags={"mixup": 1.0, "clip_grad": 5.0})


def test_args_toml_comes_back_equal(tmp_path: Path) -> None:
    odd = load(
        "finetune",
        data='folder "with" \\ and ü',
        flags={"weights": "a b.pth", "aa": "auto", "balanced": True, "seed": 2**40, "lr": 1e-7},
    )
    for config in (decide(odd), decide(load(recipe="paper")), decide(odd, device="cuda:1")):
        path = tmp_path / "args.toml"
        write_args(path, config)
        assert load(config.command, data=None, config=path) == config
        assert path.read_text("utf-8").startswith("# Repeats this run: resnest ")


def test_what_the_device_decides() -> None:
    cpu, gpu = (decide(load("finetune"), device=device) for device in ("cpu", "cuda"))
    assert (cpu.freeze, gpu.freeze) == ("backbone", "none")
    assert (cpu.aa, gpu.aa) == ("none", "rand-m5-n2")  # no pixels are left to augment
    assert cpu.hflip == 0.5
    assert cpu.epochs is not None
    assert gpu.epochs is not None
    assert cpu.epochs > gpu.epochs
    assert decide(load("train")).freeze == "none"
    assert decide(load("finetune", flags={"freeze": "none"})).aa == "rand-m5-n2"
    assert decide(load("train"), size=64).channels_last
    assert not decide(load("train", flags={"channels_last": False}), size=64).channels_last
    with pytest.raises(UsageError, match="bfloat16"):
        decide(load(flags={"amp": "float16"}))
    assert decide(load(flags={"amp": "float16"}), device="cuda").amp == "float16"
    with pytest.raises(UsageError, match="starts from nothing"):
        decide(load("train", flags={"freeze": "backbone"}))


def test_what_the_data_decide() -> None:
    small, large = (decide(load("train"), photos=photos) for photos in (100, 1_000_000))
    assert small.batch_size is not None
    assert large.batch_size is not None
    assert small.batch_size < large.batch_size
    assert small.epochs is not None
    assert large.epochs is not None
    assert small.epochs > large.epochs
    assert small.lr == pytest.approx(small.lr_base * small.batch_size / 256)
    assert decide(load(flags={"lr": 0.3})).lr == 0.3
    assert decide(load(flags={"epochs": 2})).warmup_epochs == 0.5


def test_a_recipes_warm_up_follows_the_epochs_and_a_users_is_kept() -> None:
    assert decide(load(flags={"epochs": 10, "warmup_epochs": 8.0})).warmup_epochs == 8
    with pytest.raises(UsageError, match="--warmup-epochs 5 leaves nothing of 5 epoch"):
        decide(load(flags={"epochs": 5, "warmup_epochs": 5.0}))


def test_a_recipe_speaks_of_each_optimiser() -> None:
    found = load("finetune", flags={"opt": "sgd"})
    assert (load("finetune").weight_decay, found.weight_decay) == (0.01, 1e-4)
    assert found.lr_base == 0.04
    assert load("train", flags={"opt": "adamw"}).weight_decay == 0.05
    assert load("train", flags={"opt": "adamw", "weight_decay": 0.2}).weight_decay == 0.2


def test_a_folder_that_is_not_utf_8_comes_back(tmp_path: Path) -> None:
    config = decide(load(data="caf\udce9"))
    write_args(tmp_path / "args.toml", config)
    assert load(data=None, config=tmp_path / "args.toml") == config


@pytest.mark.parametrize(
    ("command", "flags", "named"),
    [
        ("finetune", {"mixup": 0.2, "aa": "auto", "workers": 2}, ["--aa", "--mixup", "--workers"]),
        ("finetune", {"mixup": 0.0, "aa": "none", "hflip": 0.2, "drop": 0.1}, []),
        ("finetune", {"mixup": 0.2, "freeze": "none"}, []),
        ("finetune", {"freeze": "none", "momentum": 0.8, "lr_base": 0.2},
         ["--momentum", "--lr-base"]),
        ("train", {"momentum": 0.8, "lr_base": 0.2}, []),
        ("train", {"lr": 0.1, "lr_base": 0.2}, ["--lr-base"]),
        ("train", {"model_ema": False, "model_ema_decay": 0.9}, ["--model-ema-decay"]),
        ("train", {"sched": "constant", "min_lr": 0.1}, ["--min-lr"]),
        ("train", {"min_lr": 0.1}, []),
        ("train", {"multi_label": True, "bce_loss": False}, ["--bce-loss"]),
    ],
)  # fmt: skip
def test_what_was_given_for_nothing_is_told(
    command: str, flags: dict[str, Any], named: list[str]
) -> None:
    found = without_effect(flags, decide(load(command, flags=flags)))
    assert [text.split()[0] for text in found] == named


def test_what_is_off_with_cached_features_is_what_acts_on_pixels() -> None:
    cached = decide(load("finetune", flags={"mixup": 0.2, "cutmix": 1.0, "drop_path": 0.1}))
    assert (cached.mixup, cached.cutmix, cached.drop_path, cached.workers) == (0, 0, 0, 0)
    assert decide(load("finetune", flags={"drop": 0.3})).drop == 0.3


@pytest.mark.parametrize("depth", [1, 900, 5000])
@pytest.mark.parametrize(
    "text",
    [
        lambda n: "lr = " + "[" * n + "]" * n,
        lambda n: "lr = " + "{a=" * n + "1" + "}" * n,
        lambda n: "lr" + ".a" * n + " = 1",
        lambda n: "[lr" + ".a" * n + "]",
        lambda n: "[[command" + ".a" * n + "]]",
        lambda n: "command" + ".a" * n + " = 1",
    ],
)
def test_tables_however_deep_are_told(
    tmp_path: Path, text: Callable[[int], str], depth: int
) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(text(depth))
    with pytest.raises(UsageError, match=r"deep\.toml: (is not TOML: nested|\w+ is an? )") as error:
        load(data="data", config=path)
    assert len(str(error.value)) < 300
