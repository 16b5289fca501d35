"""``sa-readonly doctor`` as a command: exit codes, forms of output, environment."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from sqlalchemy import URL, make_url

from sa_readonly.command.doctor import doctor
from sa_readonly.command.probe import reason_of
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
        "The read-write database postgresql+psycopg2://me@127.0.0.1:1/shop can't be examined: "
    )
    assert done.stderr.endswith("connections? Check its address and password, and that it runs.\n")
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
        ("--read-write", "sqlite://", "--isolation-level", "SERIALISABLE"),
        ("--read-write", "sqlite://", "--pooler", "statement"),
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
    assert all(
        set(one) == {"severity", "code", "what", "meaning", "cure"} for one in told["findings"]
    )
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


@pytest.mark.parametrize("password", ["hush", SECRET, "two  words\t", "it's\\back.", "ss", "é"])
def test_what_a_driver_says_of_a_password_is_masked_in_each_form(password: str) -> None:
    url = URL.create("postgresql", username="me", password=password, host="h")
    dsn = f"password={password}"
    for said in (dsn, f"{dsn} host=h", repr(dsn), shown(url), f"u:{quote(password, safe='')}@h"):
        masked = reason_of(OSError(said), url).replace("password", "")
        assert "***" in masked
        for part in password.split():
            assert quote(part.rstrip(".")) not in masked
            assert part.rstrip(".") not in masked


@pytest.mark.parametrize("password", ["s", "ss", "cce"])
def test_a_short_password_is_not_given_away_by_a_mask_within_words(password: str) -> None:
    said = "Access denied for user 'shop'@'localhost' (using password: YES)"
    assert reason_of(OSError(said), make_url(f"mysql://u:{password}@h")) == said


def test_urls_and_paths_may_stand_in_the_environment(tmp_path: Path) -> None:
    url = shown(sqlite_database(tmp_path / "one"))
    done = CliRunner().invoke(
        doctor,
        env={
            "SA_READONLY_READ_WRITE_URL": url,
            "SA_READONLY_READ_ONLY_URL": url,
            "SA_READONLY_READ_ONLY_REPLICA_URL": url,
            "SA_READONLY_FILE": str(tmp_path / "flag"),
            "SA_READONLY_WORKERS": str(tmp_path / "reports"),
        },
    )
    assert done.exit_code == 1, done.output
    assert "The read-only database is the read-write database itself" in done.stdout
    assert "The read-only replica is the read-write database itself" in done.stdout
    assert f"{tmp_path}/flag is not there" in done.stdout
    assert f"{tmp_path}/reports is not there yet" in done.stdout


def test_a_plain_argument_is_an_error_that_names_the_option_for_the_file() -> None:
    done = run("/var/lib/shop/read-only.txt")
    assert done.exit_code == 2
    assert "The file is given by --file /var/lib/shop/read-only.txt." in done.stderr
