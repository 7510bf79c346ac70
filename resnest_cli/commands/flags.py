"""From the signature of a command to Typer's command line; and what all commands take: `command`.

A parameter is an option (see `options`), a record of options, or an `Access`, which stands for
--mirror and --offline. --quiet and --debug are every command's, and no function's.
"""

import inspect
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from resnest_cli import output
from resnest_cli.commands.completion import COMPLETED
from resnest_cli.errors import UsageError
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
from resnest_cli.text import did_you_mean

_ALL = "--help-all"
# All that Typer finds wrong with a command line: its UsageError, which it does not name.
_TYPERS: Any = typer.BadParameter.__mro__[1]


class Without(NamedTuple):
    """Beside a record as a parameter's type: names of fields that are no flags of this command."""

    names: str


class Given(NamedTuple):
    """Beside a mapping as a parameter's type: it holds the settings of `record` that were given."""

    record: type


# What commands share stands in every help in this order, under these headings, and a command's own
# options at OWN.
_SHARED = {
    "Options": "inputs model OWN",
    "Model": "weights trust_onnx labels",
    "Inputs": "from_file null_separated recursive frames every",
    "Machine": "batch_size workers device engine amp compiled graphs",
    "Photos": "img_size crop_pct interpolation crop_mode exif max_pixels fast_decode gpu_decode",
    "Ray": "runner ray_address gpus_per_worker concurrency path_column",
    "Network": "mirror offline",
    "Messages": "quiet debug",
}
_ORDER = {name: place for place, name in enumerate(" ".join(_SHARED.values()).split())}
_HEADINGS = {name: heading for heading, names in _SHARED.items() for name in names.split()}
_COMMON = (
    Setting("quiet", bool, False, Option("No messages and bars, errors only.", "-q")),
    Setting("debug", bool, False, Option("Show the traceback of an error.", env=True)),
)
_NET = [
    setting for name, setting in settings_of(ModelOptions).items() if name in {"mirror", "offline"}
]


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
    completed = COMPLETED.get(setting.name)
    if option.argument:
        return typer.Argument(metavar=option.metavar, help=option.help, autocompletion=completed)
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
        autocompletion=completed,
        rich_help_panel=option.panel or _HEADINGS.get(setting.name),
    )


class CommandLine:
    """Beside a class of Typer's commands: how values are read, help is laid out, errors are said.

    The epilog is examples, a line each. `page` is the command's page of the manual, `first` are the
    names of the options that --help shows, where it does not show all.
    """

    page: str = ""
    first: tuple[str, ...] = ()

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, --help too.

        Values are converted without pydantic, which Typer uses and whose import takes 50 ms; what
        is not written as usual is left to Typer.
        """
        settings = getattr(self.callback, "settings", {})  # type: ignore[attr-defined]
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            parameter.process_value = _quick(parameter, settings.get(parameter.name))
            if parameter.param_type_name == "argument":
                shown = _argument(parameter) if parameter.required else f"[{_argument(parameter)}]"
                parameter.get_usage_pieces = lambda _, shown=shown: [shown]
        return parameters

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Reads the command line; raises UsageError in our words."""
        with in_our_words():
            return super().make_context(*given, **more)  # type: ignore[misc]

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Reads the arguments; --help-all shows all options and ends, as --help does."""
        if self.first and _ALL in args[: args.index("--") if "--" in args else None]:
            self.first = ()
            args = ["--help"]
        return super().parse_args(ctx, args)  # type: ignore[misc]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """What people read first stands first: use, examples, then options under headings."""
        self.format_usage(ctx, formatter)  # type: ignore[attr-defined]
        self.format_help_text(ctx, formatter)  # type: ignore[attr-defined]
        with formatter.section("Examples"):
            for line in self.epilog.strip().splitlines():  # type: ignore[attr-defined]
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        self.format_options(ctx, formatter)
        page = self.page or getattr(ctx.parent and ctx.parent.command, "page", "")
        formatter.write(f"\nThe manual: resnest guide {page}".rstrip() + "\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, then options by their `rich_help_panel`, or those of `first` alone."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        hidden = 0
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            argument = parameter.param_type_name == "argument"
            panel = getattr(parameter, "rich_help_panel", None)
            if self.first and not argument and parameter.name not in self.first:
                hidden += 1
                continue
            heading = "Arguments" if argument else (not self.first and panel) or "Options"
            name = _argument(parameter) if argument else record[0]
            groups.setdefault(heading, []).append((name, record[1]))
        if hidden:
            groups["Options"].append((_ALL, f"Show all options, {hidden} more."))
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records, col_max=int(0.38 * formatter.width))


class Command(CommandLine, TyperCommand):
    """A command."""


class Group(CommandLine, TyperGroup):
    """A command with commands of its own."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named first."""
        with in_our_words():
            return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands, with the whole first line of their help, and the options."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, (one.help or "").partition("\n\n")[0]) for name, one in commands if one]
            )
        super().format_options(ctx, formatter)


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


def _argument(parameter: Any) -> str:
    """What an argument is called in help: PHOTO..., DATA."""
    return str(parameter.metavar or parameter.name.upper()).strip("[]")


def load(name: str) -> Any:
    """A command: the function, or the group of functions, of its name in the module of its name."""
    module = import_module(f"resnest_cli.commands.{name}")
    found = getattr(module, name)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name, cls=Command)(found)
        found = app
    made: Any = typer.main.get_command(found)
    made.page, made.epilog = getattr(module, "PAGE", name), module.EXAMPLES
    made.first = tuple(getattr(module, "FIRST", "").split())
    return made


@contextmanager
def in_our_words() -> Iterator[None]:
    """Raises what Typer says about a command line as `UsageError`."""
    try:
        yield
    except _TYPERS as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        raise UsageError(_said(error)) from None


def _said(error: Any) -> str:
    """What is wrong with a command line, and where help is."""
    help_ = f" `{error.ctx.command_path} --help` shows what there is." if error.ctx else ""
    option = getattr(error, "option_name", "")
    parameter: Any = getattr(error, "param", None)
    if type(error).__name__ == "MissingParameter":
        return f"name the {_argument(parameter).strip('.')}.{help_}"
    words = error.format_message().rstrip(".")
    if words.startswith("No such option"):
        known = [name for one in error.ctx.command.params for name in one.opts]
        near = did_you_mean(option, [*known, "--help", _ALL])
        return f"no such option {option}.{near or help_}"
    if option:  # "Option '--labels' requires an argument"
        return f"{option} {words.split(' ', 2)[2]}."
    if parameter is not None:
        return f"{(parameter.opts or [parameter.name])[0]}: {error.message.rstrip('.')}."
    end = "" if words.endswith("?") else f".{help_}"
    return f"{words[:1].lower()}{words[1:]}{end}"


def _quick(parameter: Any, setting: Setting | None) -> Callable[[Any, Any], Any]:
    def process(context: Any, value: Any) -> Any:
        if value is None and not parameter.required:
            return () if parameter.multiple or parameter.nargs == -1 else None
        if setting is not None and (value or not parameter.required):
            with suppress(ValueError):
                return _converted(setting, value)
        try:
            return type(parameter).process_value(parameter, context, value)
        except typer.BadParameter:
            if setting is None or (wanted := setting.wanted()) is None or value is None:
                raise
            raise UsageError(f"{setting.flags[0]}: {value} is {wanted}.") from None

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
