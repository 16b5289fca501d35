"""The options that commands share: each has one name, one meaning and one definition."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])
_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Command(click.Command):
    """A command without arguments, so that an argument is a mistake: the file is an option."""

    allow_extra_args = True

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, unless it was given an argument."""
        if ctx.args:
            cure = ""
            if any(one.name == "file" for one in self.params):
                cure = f" The file is given by --file {ctx.args[0]}."
            ctx.fail(f"Unexpected argument {ctx.args[0]!r}.{cure}")
        return super().invoke(ctx)


def options(*several: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    """Return a decorator that adds several options, shown in this order."""

    def add(function: _Function) -> _Function:
        for one in reversed(several):
            function = one(function)
        return function

    return add


def given(parameter: str) -> bool:
    """True if an option was given on the command line, not by the environment."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.COMMANDLINE


def option_name(parameter: str) -> str:
    """Return what an option is called on the command line."""
    return f"--{parameter.replace('_', '-')}"


def span(text: str) -> timedelta | None:
    """Read a duration, ``90s`` or ``10m``, seconds if it has no unit; None if it is none.

    :raises OverflowError: if it is too long.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text, re.ASCII)
    return timedelta(**{_UNITS[match[2]]: float(match[1])}) if match else None


def seconds(_context: click.Context, _option: click.Parameter, value: str) -> float:
    """Read a duration: the callback of an option."""
    try:
        duration = span(value)
    except OverflowError:
        raise click.BadParameter("so long no calendar reaches.") from None
    if duration is None:
        raise click.BadParameter(f"{value!r} is no duration, such as 90, 90s, 10m or 2h.")
    return duration.total_seconds()


def _option(name: str, metavar: str, variable: str, text: str) -> Callable[[_Function], _Function]:
    """Return an option that may stand in the environment, where `ps` shows no password."""
    return click.option(name, metavar=metavar, envvar=variable, show_envvar=True, help=text)


the_file = _option("--file", "PATH", "SA_READONLY_FILE", "The file.")
the_workers = _option(
    "--workers",
    "DIR",
    "SA_READONLY_WORKERS",
    "The directory where the workers report; else the file's path with .workers.",
)
read_write_url = _option(
    "--read-write", "URL", "SA_READONLY_READ_WRITE_URL", "The read-write database."
)
read_only_url = _option(
    "--read-only",
    "URL",
    "SA_READONLY_READ_ONLY_URL",
    "The read-only database; leave it out if there is none.",
)
read_only_replica_url = _option(
    "--read-only-replica",
    "URL",
    "SA_READONLY_READ_ONLY_REPLICA_URL",
    "Another database that is read while read-only.",
)
standby_url = _option(
    "--standby",
    "URL",
    "SA_READONLY_STANDBY_URL",
    "A PostgreSQL standby of the read-write database, which must have replayed everything.",
)
json_too = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON document."
)
