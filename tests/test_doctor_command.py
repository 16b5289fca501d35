"""``sa-readonly doctor`` as a command: exit codes, forms of output, configuration."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.doctor import ROOT, SECRET, as_role, reader, run, shown, sqlite_database
from tests.postgres import Pair, Server, Standby

__all__ = ["reader"]  # a fixture


def test_the_exit_code_is_1_where_a_write_could_get_through(pg_pair: Pair) -> None:
    done = run("--read-write", pg_pair.read_write, "--read-only", pg_pair.read_only)
    assert done.exit_code == 1
    assert done.stdout.startswith("danger   The read-only database is writable")
    assert "A write could reach a database while read-only (1 danger" in done.stdout


def test_the_exit_code_is_0_where_none_could(pg_server: Server, pg_standby: Standby) -> None:
    done = run("--read-write", pg_server.url(), "--read-only", pg_standby.url())
    assert done.exit_code == 0
    assert "No way was found" in done.stdout


def test_a_database_that_can_not_be_reached_is_one_sentence_and_exit_code_2() -> None:
    done = run("--read-write", "postgresql+psycopg2://me:hush@127.0.0.1:1/shop")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "The read-write database postgresql+psycopg2://me@127.0.0.1:1/shop can't be looked at: "
    )
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.output


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_no_driver_shows_a_traceback(pg_server: Server, driver: str) -> None:
    pytest.importorskip(driver)
    pytest.importorskip("greenlet")
    for url in (
        pg_server.url("nothing", driver),
        pg_server.url(driver=driver).set(port=1),
        pg_server.url(driver=driver).update_query_dict({"no_such_key": "x"}),
    ):
        done = run("--read-write", url)
        assert done.exit_code == 2, done.exception
        assert done.stderr.startswith("The read-write database ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--read-write", "postgresql://me:hush@host:port/shop"),
        ("--read-write", "mysql+pymysql://me:hush@127.0.0.1:1/shop?no_such_key=x"),
        ("--read-write", "no url"),
        ("--read-write", "nosuch://me:hush@host/shop"),
        ("--read-write", "sqlite:///no/such/file"),
        ("--config", "/no/such/file"),
    ],
)
def test_what_can_not_be_done_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr
    assert "hush" not in done.output
    assert "Traceback" not in done.output


def test_json_has_the_worst_severity_and_every_finding(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    done = run("--read-write", url, "--file", str(tmp_path / "read-only.txt"), "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 1
    assert set(told) == {"severity", "findings"}
    assert told["severity"] == "danger"
    assert all(set(one) == {"severity", "what", "meaning", "cure"} for one in told["findings"])
    severities = [one["severity"] for one in told["findings"]]
    assert severities == sorted(severities, key=["danger", "warning", "note", "ok"].index)


def test_on_a_terminal_there_is_a_table(tmp_path: Path) -> None:
    url = sqlite_database(tmp_path / "one")
    parent, child = pty.openpty()
    with subprocess.Popen(
        [
            *(sys.executable, "-c", "from sa_readonly.command.doctor import doctor; doctor()"),
            *("--read-write", shown(url)),
        ],
        cwd=ROOT,
        stdout=child,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(child)
        told = b""
        with contextlib.suppress(OSError):  # the terminal's other end was closed
            while more := os.read(parent, 4096):
                told += more
    os.close(parent)
    assert process.returncode == 1
    for words in ("What it means", "Cure", "danger", "┃"):
        assert words in told.decode()


def test_no_password_is_ever_printed(pg_server: Server, pg_pair: Pair, reader: str) -> None:
    urls = [
        as_role(pg_pair.read_write, reader),
        as_role(pg_pair.read_write, "nobody_there"),
        as_role(pg_pair.read_write, reader).set(port=1),
        as_role(pg_pair.read_write, reader).set(host="no.such.host.invalid"),
        pg_pair.read_write.set(port=1).update_query_dict({"password": SECRET, "sslmode": "wrong"}),
        make_url(f"mysql+pymysql://me:{SECRET.replace('@', '%40')}@127.0.0.1:1/x"),
    ]
    for url in urls:
        for more in ((), ("--json",)):
            done = run("--read-write", url, "--read-only", url, *more)
            assert done.exit_code in (0, 1, 2)
            assert not done.exception or isinstance(done.exception, SystemExit)
            for form in (SECRET, "s3cr3t", shown(url)):
                assert form not in done.output


def configuration(kind: str, url: str, directory: Path) -> str:
    if kind == "json":
        return json.dumps(
            {"sa_readonly": {"file": f"{directory}/flag", "read_write": {"primary": {"url": url}}}}
        )
    if kind == "toml":
        return f'[sa_readonly]\nfile = "{directory}/flag"\nread_write.primary.url = "{url}"\n'
    return (
        "[loggers]\nkeys = root\n[app:main]\nsa_readonly.file = %(here)s/flag\n"
        f"sa_readonly.read_write.primary.url = {url}\n"
    )


@pytest.mark.parametrize("kind", ["ini", "json", "toml"])
def test_a_configuration_file_gives_urls_and_the_file(tmp_path: Path, kind: str) -> None:
    if kind == "toml" and sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    url = shown(sqlite_database(tmp_path / "one"))
    config = tmp_path / f"app.{kind}"
    config.write_text(configuration(kind, f"{url}?timeout=%35", tmp_path))
    done = run("--config", str(config))
    assert done.exit_code == 1, done.output
    assert f"{tmp_path}/flag is not there" in done.stdout


def test_a_configuration_that_can_not_be_read_shows_no_line_of_it(tmp_path: Path) -> None:
    for name in ("app.ini", "app.json"):
        config = tmp_path / name
        config.write_text("sa_readonly.read_write.primary.url postgresql://me:hush@host/shop")
        done = run("--config", str(config))
        assert done.exit_code == 2
        assert name in done.stderr
        assert "hush" not in done.output


def test_a_configuration_without_the_keys_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "app.ini").write_text("[app]\nkey = value\n")
    assert (
        "no key that begins with sa_readonly." in run("--config", str(tmp_path / "app.ini")).stderr
    )
