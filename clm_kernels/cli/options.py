"""Command-line options made from a dataclass, so that its fields are written down once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from typing import Annotated, Any, get_type_hints

import typer

from ..finetune.config import PARTS, TrainConfig
from .brief import COMMON, PANELS


def config_options(names: Iterable[str] | None = None, repeated: Iterable[str] = ()) -> Callable:
    """Gives a command the fields of the parts of `TrainConfig` (or some of them) as options, beside its own parameters.

    The command takes the config that they make as its first argument. Where it has them all, ``--help`` shows the common
    ones, and ``--help-all`` the rest too.

    Args:
        names: of the fields; all by default.
        repeated: fields that may be given several times; what was given of them is the command's second argument, by name.
    """
    hints = {name: hint for part in PARTS.values() for name, hint in get_type_hints(part).items()}
    known = {spec.name: spec for part in PARTS.values() for spec in fields(part)}
    specs: list[Field] = [known[name] for name in (known if names is None else names)]

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def run(context: typer.Context, **given: Any) -> Any:
            options = {spec.name: given.pop(spec.name) for spec in specs}
            said = {name for name in options if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"}
            given.pop("help_all", None)
            lists = {name: options[name] for name in repeated if name in said}
            config = TrainConfig(**{name: options[name] for name in said if name not in lists})
            return command(config, *([lists] if repeated else []), **given)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[2 if repeated else 1 :]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        options = [
            _parameter(spec, list[str] if spec.name in repeated else hints[spec.name], brief=names is None) for spec in specs
        ]
        parameters = [context, *options, *own, *([_HELP_ALL] if names is None else [])]
        run.__signature__ = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters])
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        del run.__wrapped__
        return run

    return decorate


def _help_all(context: typer.Context, asked: bool) -> None:
    if asked:
        full = {spec.name: _help(spec) for part in PARTS.values() for spec in fields(part)}
        groups = {spec.name: spec.metadata["group"] for part in PARTS.values() for spec in fields(part)}
        for parameter in context.command.params:
            parameter.hidden, parameter.help = False, full.get(parameter.name, parameter.help)
            parameter.rich_help_panel = groups.get(parameter.name, parameter.rich_help_panel)
        typer.echo(context.get_help())
        raise typer.Exit


_HELP_ALL = inspect.Parameter(
    "help_all", inspect.Parameter.KEYWORD_ONLY, default=False,
    annotation=Annotated[bool, typer.Option("--help-all", callback=_help_all, is_eager=True, hidden=True, help="Show all options and exit.")],
)  # fmt: skip


def _parameter(spec: Field, hint: type, brief: bool) -> inspect.Parameter:
    flag = f"--{spec.name.replace('_', '-')}"
    both = hint == bool | None or (hint is bool and spec.default)
    names = [f"{flag}/--no-{flag[2:]}"] if both else [flag]
    group = spec.metadata["group"]
    unsaid = ("", None, False, *((1, "none", spec.name.replace("_column", "")) if brief else ()))
    option = typer.Option(
        *names, help=COMMON.get(spec.name) if brief else _help(spec), rich_help_panel=PANELS.get(group, group) if brief else group,
        metavar="<str>" if hint == list[str] else None, show_default=spec.default not in unsaid, hidden=brief and spec.name not in COMMON,
    )  # fmt: skip
    default = [] if hint == list[str] else spec.default
    return inspect.Parameter(spec.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, option])


def _help(spec: Field) -> str:
    choices = ", ".join(spec.metadata["choices"])
    return spec.metadata["help"] + (f" ({choices})" if choices else "")
