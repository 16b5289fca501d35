"""The options that commands share: each has one name, one meaning and one definition."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from ..mode import now

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


def from_now(text: str) -> datetime | None:
    """Read a time that is told from now, ``+30m`` or ``+2h``, to the second; None if it is none."""
    if not re.match(r"\+\d", text, re.ASCII) or text[-1] not in "smhd":
        return None
    try:
        duration = span(text[1:])
        return None if duration is None else (now() + duration).replace(microsecond=0)
    except OverflowError:
        raise click.BadParameter("so far from now no calendar reaches.") from None


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
    "A standby, or replica by GTID, of the read-write database: it must have replayed everything.",
)
json_too = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON document."
)


# -- which switch ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Where:
    """Which switch a command is about, as it was given.

    :param file: the path of a file.
    :param workers: the directory where its workers report, or None for the one beside the file.
    :param etcd: the URLs of etcd.
    :param key: the key there.
    :param user: the user of etcd.
    :param password_file: the path of a file that holds the user's password.
    :param ca: as :class:`.EtcdSwitch` has them, and so ``cert`` and ``cert_key``.
    """

    file: str | None = None
    workers: str | None = None
    etcd: str | None = None
    key: str | None = None
    user: str | None = None
    password_file: str | None = None
    ca: str | None = None
    cert: str | None = None
    cert_key: str | None = None

    def given(self) -> dict[str, Any]:
        """Return what was given, by its name."""
        return {name: value for name, value in vars(self).items() if value}


_ETCD = (
    _option(
        "--etcd",
        "URLS",
        "SA_READONLY_ETCD",
        "In the place of a file: the members of etcd, such as https://etcd1:2379,https://etcd2:2379.",
    ),
    _option("--key", "KEY", "SA_READONLY_KEY", "The key in etcd, such as /myapp/read-only."),
    _option(
        "--user",
        "NAME",
        "SA_READONLY_ETCD_USER",
        "A user of etcd. The password is that of SA_READONLY_ETCD_PASSWORD, or of --password-file.",
    ),
    _option(
        "--password-file",
        "PATH",
        "SA_READONLY_ETCD_PASSWORD_FILE",
        "A file that holds the password alone.",
    ),
    _option("--ca", "PATH", "SA_READONLY_ETCD_CA", "The trusted certificates; else the system's."),
    _option("--cert", "PATH", "SA_READONLY_ETCD_CERT", "A client certificate."),
    _option("--cert-key", "PATH", "SA_READONLY_ETCD_CERT_KEY", "Its key, if in another file."),
)


def _switch(*several: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    """Return a decorator that adds options, whose values the function takes as one, ``where``."""

    def add(function: _Function) -> _Function:
        @functools.wraps(function)
        def called(**given: Any) -> Any:  # click calls it by names
            named = {name: given.pop(name) for name in vars(Where()) if name in given}
            return function(where=Where(**named), **given)

        made: Any = called
        return options(*several)(made)

    return add


the_etcd = _switch(*_ETCD)
the_switch = _switch(the_file, the_workers, *_ETCD)
the_switch_alone = _switch(the_file, *_ETCD)
