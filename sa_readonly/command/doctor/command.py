"""The command itself: which databases are examined, in which order, and the exit code."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import click
from rich.console import Console
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from ...engines.poolers import POOLERS
from .. import probe
from ..options import (
    Command,
    Where,
    given,
    json_too,
    options,
    read_only_replica_url,
    read_only_url,
    read_write_url,
    seconds,
    standby_url,
    the_switch,
)
from ..server import Server, ServerError
from .databases import Database, compare, protection
from .etcd import examine_etcd
from .file import examine_environment, examine_file
from .findings import Finding, capital, note, ok, ordered, plain, summary, table, warning
from .mysql import examine_mysql
from .plugin import examine_plugin, reworded
from .postgresql import examine_postgresql
from .sqlite import examine_sqlite

_LEVELS = ("AUTOCOMMIT", "READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
_Examine = Callable[[URL, str], Database]


def examine(
    read_write: str,
    read_only: str | None = None,
    file: str | None = None,
    *,
    read_only_replica: str | None = None,
    standby: str | None = None,
    workers: str | None = None,
    pooler: str | None = None,
    isolation_level: str | None = None,
) -> list[Finding]:
    """Examine the databases and the switch's file. Nothing is written.

    :param read_write: the URL of the read-write database.
    :param read_only: that of the read-only database; None if none is given to the selector either.
    :param file: the path of the switch's file.
    :param read_only_replica: the URL of another database that is read while read-only.
    :param standby: that of the standby that ``sa-readonly wait`` is given.
    :param workers: the workers' directory, if it is not ``<file>.workers``.
    :param pooler: what ``EngineSelector(pooler=)`` is given.
    :param isolation_level: that of the engines that are read while read-only, if they have one.
    :raises UnreachableError: if a database can't be examined.
    """
    rw = probe.parse_url(read_write, "read-write")
    readers: dict[str, URL] = {}
    if read_only:
        readers["the read-only database"] = probe.parse_url(read_only, "read-only")
    if read_only_replica:
        readers["the read-only replica"] = probe.parse_url(read_only_replica, "read-only replica")
    examiners: dict[str, _Examine] = {
        "postgresql": partial(examine_postgresql, pooler=pooler, isolation_level=isolation_level),
        "mysql": examine_mysql,
        "mariadb": examine_mysql,
        "sqlite": examine_sqlite,
    }

    def examine_one(url: URL, name: str) -> Database:
        try:
            return examiners.get(probe.dialect_of(url).name, _examine_other)(url, name)
        except (SQLAlchemyError, OSError, sqlite3.Error) as error:
            what = f"{capital(name)} {probe.shown_url(url)} can't be examined"
            cure = "Check its address and password, and that it runs."
            told = probe.sentence(f"{what}: {probe.reason_of(error, url)}")
            raise probe.UnreachableError(f"{told} {cure}") from error

    findings = probe.run(
        [rw, *readers.values()],
        lambda: _examine_all(examine_one, rw, readers, read_only=bool(read_only)),
    )
    if standby:
        findings.append(_examine_standby(read_write, standby))
    if file is not None:
        findings += examine_file(file, workers)
    return [*findings, *examine_environment(os.environ)]


def _examine_all(
    examine_one: _Examine, url: URL, readers: dict[str, URL], *, read_only: bool
) -> list[Finding]:
    read_write = examine_one(url, "the read-write database")
    findings = [*read_write.findings, *read_write.write_findings]
    if not read_only:
        findings.append(
            note(
                "no-read-only-database",
                "No read-only database is given.",
                "The application goes on reading from the read-write database, which must stay up.",
                "Give --read-only, and read_only= to the selector: a standby is the best.",
            )
        )
        findings += protection(read_write, read_write)
    for name, reader_url in readers.items():
        if reader_url == url:
            reader = replace(read_write, name=name)
        else:
            reader = examine_one(reader_url, name)
            findings += reader.findings
        findings += compare(read_write, reader)
    return findings


def _examine_standby(read_write: str, standby: str) -> Finding:
    """Tell whether `wait` takes the standby: it is asked as `wait` asks, before it waits."""
    try:
        Server(read_write, standby).check()
    except ServerError as error:
        return warning(
            "standby-refused",
            str(error),
            "`sa-readonly wait` and `sa-readonly on --wait` that are given these URLs of "
            "--read-write and --standby end with exit code 2, and change nothing.",
            "Do as it says, or leave out --standby (SA_READONLY_STANDBY_URL).",
        )
    return ok(
        "standby-accepted",
        "The server of --standby can be asked what it has replayed.",
        "`sa-readonly wait` with --read-write and --standby can tell that it has everything.",
    )


def _examine_other(url: URL, name: str) -> Database:
    engine = probe.make_engine(url)
    try:
        probe.connect(engine).close()
    finally:
        engine.dispose()
    kind = probe.dialect_of(url).name
    return Database(
        url,
        name,
        kind,
        probe.shown_url(url),
        account="the account of its URL",
        abilities=["what it may write can't be told"],
        bypass=f"It has no lock at the server for {kind}: what a function writes, or a raw cursor, "
        "gets through.",
        cure="Connect with an account that may only read. The doctor can't examine this database.",
    )


@click.command(cls=Command)
@options(read_write_url, read_only_url, read_only_replica_url, standby_url, the_switch)
@click.option(
    "--pooler",
    type=click.Choice(POOLERS),
    help="What EngineSelector(pooler=) is given, where a pooler is in between.",
)
@click.option(
    "--isolation-level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    metavar="LEVEL",
    help="The isolation_level of the engines that are read while read-only, if they have one.",
)
@click.option(
    "--plugin-url",
    metavar="URL",
    envvar="SA_READONLY_PLUGIN_URL",
    show_envvar=True,
    help="A URL with plugin=sa_readonly: is it in force? The rest is examined by what it says.",
)
@click.option(
    "--ttl",
    metavar="SECONDS",
    callback=seconds,
    default="1",
    show_default=True,
    help="With --etcd: the ttl of the EtcdSwitch.",
)
@json_too
def doctor(
    *,
    read_write: str | None,
    plugin_url: str | None,
    where: Where,
    ttl: float,
    as_json: bool,
    **of_databases: str | None,
) -> None:
    """Examine what protects this installation, and write nothing.

    Exits with 1 where a write could reach a database while read-only, with 0 otherwise, and with 2
    where a database or etcd can't be reached. With --etcd alone, it examines that.
    """
    found: list[Finding] = []
    of_url: list[Finding] = []
    known: dict[str, Any] = {}
    try:
        if plugin_url:
            finding, known = examine_plugin(plugin_url)
            of_url.append(finding)
            where = replace(where, **known.get("etcd", {})) if not where.etcd else where
            read_write = read_write or known["read_write"]
            of_databases["read_only"] = of_databases["read_only"] or known.get("read_only")
        # A file of the environment is another switch than etcd; one that is given is that of a
        # host.
        file = where.file if not where.etcd or given("file") else None
        file, workers = file or known.get("file"), where.workers or known.get("workers")
        if not read_write and (of_databases["standby"] or not where.etcd):
            raise click.UsageError("Give --read-write URL, or set SA_READONLY_READ_WRITE_URL.")
        if where.etcd:
            found += examine_etcd(where, ttl)
        if read_write:
            found += examine(read_write, file=file, workers=workers, **of_databases)
        else:
            found += examine_environment(os.environ)
        findings = ordered([*of_url, *(map(reworded, found) if of_url else found)])
    except probe.UnreachableError as error:
        if of_url and not as_json:  # it needs no database
            click.echo(plain(of_url))
        click.echo(str(error), err=True)
        sys.exit(2)
    worst = findings[0].severity if findings else "ok"
    if as_json:
        document = {"severity": worst, "findings": [asdict(one) for one in findings]}
        click.echo(json.dumps(document, indent=2))
    else:
        console = Console()
        if console.is_terminal:
            console.print(table(findings))
        else:
            click.echo(plain(findings))
        click.echo(summary(findings))
    sys.exit(int(worst == "danger"))
