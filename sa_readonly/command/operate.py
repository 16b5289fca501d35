"""Which switch a command is about: the table of kinds of switches says by which options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import click

from ..checks import configured
from ..etcd.switch import EtcdSwitch
from ..mode import FORCE
from ..switch import FileSwitch
from .etcd_place import EtcdPlace, HostRegistry, opened
from .file_place import FilePlace
from .options import Where, given, option_name
from .place import Place
from .terminal import CannotRun, application_log, note

# By the class of a kind of switch, what a command makes of the options.
_PLACES: dict[type, Callable[..., Place]] = {FileSwitch: FilePlace, EtcdSwitch: EtcdPlace}


@contextmanager
def operate(where: Where, as_json: bool) -> Iterator[Place]:
    """Give what a command is about, whatever this shell forces, and log errors only."""
    place = place_of(where, as_json=as_json)
    if forced := os.environ.get(FORCE):
        obeyed = f"Processes that are started here obey it; this command, only the {place.thing}."
        note(f"{FORCE}={forced} is set here. {obeyed}")
    with application_log(_note_errors):
        try:
            yield place
        except KeyboardInterrupt:
            state = place.state()
            there = "is there" if state.read_only else "is not there"
            note(f"Interrupted. {place.name} {there}: the mode is {state.mode}.")
            raise SystemExit(130) from None


def place_of(where: Where, *, as_json: bool) -> Place:
    """Return what the options are about.

    :raises CannotRun: if they make no sense.
    """
    if where.etcd and given("workers"):
        raise click.UsageError("--workers is for --file alone: with --etcd the workers are there.")
    if where.etcd and where.file and given("file"):
        # The workers of this host that have file= register in etcd, and nowhere else.
        return FilePlace(where, as_json=as_json, registry=HostRegistry(opened(keyed(where))))
    kind = configured(where.given())
    if kind.cls is EtcdSwitch:
        where = keyed(where)
    elif where.key and given("key"):
        raise CannotRun("--key is given without --etcd URLS (SA_READONLY_ETCD).")
    elif not where.file:
        raise CannotRun(
            "Give --file PATH, or set the environment variable SA_READONLY_FILE; or --etcd URLS "
            "(SA_READONLY_ETCD) and --key KEY (SA_READONLY_KEY)."
        )
    return _PLACES[kind.cls](where, as_json=as_json)


def keyed(where: Where) -> Where:
    """Return what is about etcd, with the options that it needs.

    :raises CannotRun: if one is missing.
    """
    for kind_needs in configured(where.given()).needs:
        if not getattr(where, kind_needs):
            name = option_name(kind_needs)
            raise CannotRun(f"Give {name} with --etcd (or set SA_READONLY_{kind_needs.upper()}).")
    return replace(where, workers=None)


def _note_errors(line: str) -> None:
    if line.startswith("ERROR "):
        note(line)
