"""From the signature of a command to Typer's command line; and what all commands take: `command`.

A parameter is an option (see `options`), a record of options, or an `Access`, which stands for
--mirror and --offline. --quiet and --debug are every command's, and no function's.
"""

import inspect
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from resnest_cli import output
from resnest_cli.net import Access
from resnest_cli.options import (
    NO_FLAG,
    ModelOptions,
    Option,
    Setting,
    ends,
    parts_of,
    setting_of,
    settings_of,
)


class Without(NamedTuple):
    """Beside a record as a parameter's type: names of fields that are no flags of this command."""

    names: str


class Given(NamedTuple):
    """Beside a mapping as a parameter's type: it holds the settings of `record` that were given."""

    record: type


# In every --help what commands share stands in this order, and a command's own options at OWN.
_SHARED = (
    "inputs model OWN weights trust_onnx labels from_file null_separated recursive frames every "
    "batch_size "
    "workers device engine amp compiled graphs img_size crop_pct interpolation crop_mode exif "
    "max_pixels fast_decode gpu_decode runner ray_address gpus_per_worker concurrency "
    "path_column mirror offline quiet debug"
)
_ORDER = {name: place for place, name in enumerate(_SHARED.split())}
_COMMON = (
    Setting("quiet", bool, False, Option("No messages and bars, errors only.", "-q")),
    Setting("debug", bool, False, Option("Show the traceback of an error.", env=True)),
)
_NET = [
    setting for name, setting in settings_of(ModelOptions).items() if name in {"mirror", "offline"}
]


def epilog(examples: str) -> str:
    """The end of a command's help, of its examples, one a line."""
    return "\n\n  ".join(("Examples:", *examples.strip().splitlines()))


def command(function: Callable[..., None], *, common: bool = True) -> Callable[..., None]:
    """A command as Typer takes it; with --quiet and --debug, unless `common` is False.

    A parameter whose type is a record stands for the flags of its fields, and a `Given` mapping for
    those of another record; any other parameter is an option.
    """
    own, shared, context = list[Setting](), list(_COMMON if common else ()), []
    records = dict[str, tuple[Callable[..., Any], list[Setting]]]()
    for name, parameter in inspect.signature(function).parameters.items():
        kind, marks = parts_of(parameter.annotation)
        if kind is typer.Context:
            context.append(parameter)
        elif kind is Access:
            records[name] = (output.access, _NET)
            shared += _NET
        elif given := next((mark.record for mark in marks if isinstance(mark, Given)), None):
            flags = [_not_given(flag) for flag in _flags(given, "")]
            records[name] = (_those_given, flags)
            own += flags
        elif isinstance(kind, type) and is_dataclass(kind):
            left_out = " ".join(mark.names for mark in marks if isinstance(mark, Without))
            flags = _flags(kind, left_out)
            records[name] = (kind, flags)
            (shared if all(flag.name in _ORDER for flag in flags) else own).extend(flags)
        else:
            default = MISSING if parameter.default is parameter.empty else parameter.default
            own.append(setting_of(name, parameter.annotation, default))
    listed = _in_order(own, shared)
    several = [setting.name for setting in listed if setting.several]

    def run(**values: Any) -> None:
        if common:
            output.set_quiet(values.pop("quiet"))
            output.set_debug(values.pop("debug"))
        values |= {name: tuple(values[name] or ()) for name in several}
        made = {
            name: record(**{flag.name: values.pop(flag.name) for flag in flags})
            for name, (record, flags) in records.items()
        }
        function(**values, **made)

    run.__name__, run.__doc__, run.__annotations__ = function.__name__, function.__doc__, {}
    parameters = [*context, *map(_parameter, listed)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.settings = {setting.name: setting for setting in listed}  # type: ignore[attr-defined]
    return run


def _flags(record: type, left_out: str) -> list[Setting]:
    return [
        setting
        for setting in settings_of(record).values()
        if setting.option is not NO_FLAG and setting.name not in left_out.split()
    ]


def _those_given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _not_given(setting: Setting) -> Setting:
    """The flag of a setting whose value is decided, and checked, with what files say."""
    form = " ".join((*setting.option.flags, setting.option.metavar or ""))
    return setting._replace(default=None, option=setting.option._replace(form=form))


def _in_order(own: list[Setting], shared: list[Setting]) -> list[Setting]:
    shared = sorted(shared, key=lambda setting: _ORDER[setting.name])
    first = [setting for setting in shared if _ORDER[setting.name] < _ORDER["OWN"]]
    # A command's own come before PHOTO..., which takes all that follow.
    arguments = [setting for setting in own if setting.option.argument]
    own = [setting for setting in own if not setting.option.argument]
    listed = [*arguments, *first, *own, *shared[len(first) :]]
    for setting in own:
        after = setting.option.after.split()
        names = [other.name for other in listed if other is not setting]
        if before := [place for place, name in enumerate(names, start=1) if name in after]:
            listed.remove(setting)
            listed.insert(before[-1], setting)
    return listed


def _parameter(setting: Setting) -> inspect.Parameter:
    kind, default = setting.kind, setting.default
    if setting.several:
        kind, default = list[str], None
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind | None if default is None else kind, _typer_option(setting)],
    )


def _typer_option(setting: Setting) -> Any:
    """What Typer wants to know of an option beside its type and default."""
    option = setting.option
    if option.argument:
        return typer.Argument(metavar=option.metavar, help=option.help)
    least, most = ends(option.bounds)
    assert option.bounds[:1] != "(", "Typer knows no open bounds"
    assert option.bounds[-1:] != ")" or math.isinf(most), "Typer knows no open bounds"
    return typer.Option(
        *setting.flags,
        metavar=option.metavar or {int: "N", float: "X"}.get(setting.kind),
        help=option.help,
        min=setting.kind(least) if math.isfinite(least) else None,
        max=setting.kind(most) if math.isfinite(most) else None,
        envvar=f"RESNEST_{setting.name.upper()}" if option.env else None,
        parser=option.parser,
        rich_help_panel=option.panel,
    )


class QuickParameters:
    """Beside a class of Typer's commands: converts values without pydantic, which Typer uses and
    whose import takes 50 ms. What is not written as usual is left to Typer, which says what is
    wrong with it.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, --help too."""
        settings = getattr(self.callback, "settings", {})  # type: ignore[attr-defined]
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            parameter.process_value = _quick(parameter, settings.get(parameter.name))
        return parameters


class Command(QuickParameters, TyperCommand):
    """A command whose help has a heading for each group of options, where they come in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, then options by their `rich_help_panel`; those without one first."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None)
                heading = "Arguments" if argument else panel or "Options"
                groups.setdefault(heading, []).append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


class Group(QuickParameters, TyperGroup):
    """A command with commands of its own."""


class LazyGroup(Group):
    """Commands that are loaded when they are named; help needs no more than the first `lines`."""

    lines: ClassVar[dict[str, str]]

    def __init__(self, **given: Any) -> None:
        commands = {name: TyperCommand(name, help=line) for name, line in self.lines.items()}
        super().__init__(**given | {"commands": commands})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named first, as its module has it."""
        if args[0] in self.lines:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """A command: the function, or the group of functions, of its name in the module of its name."""
    module = import_module(f"resnest_cli.commands.{name}")
    found = getattr(module, name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=Command, epilog=epilog(module.EXAMPLES))(found)
    return typer.main.get_command(app)


def _quick(parameter: Any, setting: Setting | None) -> Callable[[Any, Any], Any]:
    def process(context: Any, value: Any) -> Any:
        if value is None and not parameter.required:
            return () if parameter.multiple or parameter.nargs == -1 else None
        if setting is not None and (value or not parameter.required):
            with suppress(ValueError):
                return _converted(setting, value)
        return type(parameter).process_value(parameter, context, value)

    return process


def _converted(setting: Setting, value: Any) -> Any:
    """The value of a text, or of several; raises ValueError where it is not written as usual."""
    if setting.option.parser is not None:
        return setting.option.parser(value)
    if setting.several:  # texts, whatever becomes of them
        return list(value)
    if get_origin(setting.kind) is list:
        one = setting._replace(kind=get_args(setting.kind)[0])
        return [_converted(one, text) for text in value]
    if not isinstance(value, str) or setting.kind is str:  # a default, or a switch
        return value
    if setting.kind in {int, float} and not value.isascii():  # Python knows digits of all scripts
        raise ValueError(value)
    converted: Any = value if get_args(setting.kind) else setting.kind(value)
    if setting.kind is Path:
        refused = converted.exists() and not os.access(converted, os.R_OK)
    elif setting.kind is bool:
        refused = True
    else:
        bounded = get_args(setting.kind) or setting.option.bounds
        refused = bool(bounded) and setting.refused(converted) is not None
    if refused:
        raise ValueError(value)
    return converted
