"""The command on a key in etcd: `init`, `on`, `off`, `wait`, `status` and `run`, and bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import NullPool, create_engine

from sa_readonly.cli import main
from sa_readonly.command import etcd_wait
from sa_readonly.workers import process
from tests.app import once
from tests.doctor import shown
from tests.etcd import Etcd, Proxy, certificates
from tests.etcd_fleet import Fleet, Worker, bare, fleet
from tests.postgres import Server
from tests.test_command_on_off import running

__all__ = ["bare", "fleet"]  # fixtures

RW, RO = "read-write", "read-only"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
VARIABLES = ("", "_CA", "_CERT", "_CERT_KEY", "_USER", "_PASSWORD", "_PASSWORD_FILE")


def command(fleet: Fleet, *arguments: str | Path, **environment: str) -> Result:
    cleared: dict[str, str | None] = dict.fromkeys(f"SA_READONLY_ETCD{name}" for name in VARIABLES)
    cleared |= {"SA_READONLY_FILE": None, "SA_READONLY_FORCE": None}
    told = {"SA_READONLY_ETCD": fleet.etcd.urls, "SA_READONLY_KEY": fleet.store.key}
    return CliRunner().invoke(
        main,
        [str(one) for one in arguments],
        prog_name="sa-readonly",
        env={**cleared, **told, **environment},
    )


def done(fleet: Fleet, *arguments: str | Path, code: int = 0, **environment: str) -> Result:
    result = command(fleet, *arguments, **environment)
    assert result.exit_code == code, f"{result.stdout} {result.stderr} {result.exception!r}"
    return result


def refused(fleet: Fleet, *arguments: str | Path, code: int = 2, **environment: str) -> str:
    result = done(fleet, *arguments, code=code, **environment)
    assert result.stdout == ""
    (line,) = [one for one in result.stderr.splitlines() if one.startswith("Error: ")]
    return line.removeprefix("Error: ")


@contextmanager
def of_host(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as there:
        there.setattr(process, "host", lambda: name)
        yield


def two_hosts(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Have a worker of each of two hosts."""
    for name in ("web1", "web2"):
        with of_host(name, monkeypatch):
            fleet.worker().write()
    return fleet.workers


def at_each_round(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """Have something happen before each further round of a wait, in the place of a pause."""
    left = list(steps)
    rest = etcd_wait.EtcdWait._rest

    def step(wait: Any, seconds: float) -> None:
        if left:
            left.pop(0)()
        else:
            rest(wait, seconds)

    monkeypatch.setattr(etcd_wait.EtcdWait, "_rest", step)


def rounds(result: Result) -> list[str]:
    """The lines of a wait without times."""
    lines = result.stdout.splitlines()
    return [re.sub(r"^[\d-]+ [\d:+]+ | after [\d.]+ s", "", line) for line in lines]


# -- the night -------------------------------------------------------------------------------


def test_a_night_of_two_hosts_by_command(bare: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert done(bare, "init", "--fence", "9").stdout == (
        f"{bare.store.marker} is there, with a fence of 9 s.\n"
    )
    workers = two_hosts(bare, monkeypatch)
    assert done(bare, "status").stdout.endswith("workers: 2, noticed: 2, drained: 0\n")
    shown = done(bare, "on", "--reason", "Upgrade").stdout
    assert re.search(rf"^key      {bare.store.key}\n", shown, re.MULTILINE)
    assert "\nfence    9 s\nmode     read-only\nreason   Upgrade\n" in shown
    at_each_round(monkeypatch, *(worker.look for worker in workers))
    waited = rounds(done(bare, "wait", "--expect", "2", "--expect-hosts", "2"))
    assert [re.findall(r"on (web\d): has not noticed", line) for line in waited] == [
        ["web1", "web2"],
        ["web2"],
        [],
    ]
    assert waited[1].endswith("; 1 of 2 expected hosts are there")
    assert waited[2] == "drained: 2 workers on 2 hosts"
    assert "on web1: read-only, drained\n" in done(bare, "status").stdout
    assert (
        "(Upgrade): no-such-command is not run"
        in done(bare, "run", "--", "no-such-command", code=75).stderr
    )
    assert "changed  yes" in done(bare, "off").stdout
    at_each_round(monkeypatch, *(worker.look for worker in workers))
    back = rounds(done(bare, "wait", "--mode", RW))[-1]
    assert back.startswith("read-write: 2 workers on 2 hosts (only registered workers")
    assert all(worker.writes() for worker in workers)


def test_on_and_off_wait_and_tell_all_as_json(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = two_hosts(fleet, monkeypatch)
    at_each_round(monkeypatch, *(worker.look for worker in workers))
    told = json.loads(done(fleet, "on", "--reason", "Upgrade", "--wait", "--json").stdout)
    assert (told["file"], told["key"], told["fence"]) == (None, fleet.store.key, 10.0)
    assert (told["etcd"], told["code"], told["drained"]) == ([fleet.etcd.urls], 0, True)
    assert (told["changed"], told["generation"]) == (True, fleet.read().generation)
    assert [one["host"] for one in told["workers"]] == ["web1", "web2"]
    assert [one["drained"] for one in told["workers"]] == [True, True]
    at_each_round(monkeypatch, *(worker.look for worker in workers))
    told = json.loads(done(fleet, "off", "--wait", "--json").stdout)
    assert (told["mode"], told["holds"], told["generation"]) == (RW, True, None)


def test_on_tells_that_another_operator_was_there_and_that_it_made_the_marker(
    bare: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = done(bare, "on", "--reason", "one")
    assert f"{bare.store.marker} was missing" in result.stderr
    assert "wait` goes by 60 s" in result.stderr
    assert "Nobody is registered" in result.stderr
    assert f"{bare.store.key} is there already" in done(bare, "on").stderr
    paused: list[float] = []
    monkeypatch.setattr("sa_readonly.command.init.sleep", paused.append)
    assert "This waits 66 s, until" in done(bare, "init", "--fence", "5").stderr
    assert paused == [pytest.approx(66)]
    result = done(bare, "on", "--until", "+1h")
    assert (bare.read().key.text.reason, bare.read().marker.fence) == ("one", 5.0)
    assert "changed  yes" in result.stdout
    assert "already" not in result.stderr


def test_hosts_are_expected_and_a_file_of_the_environment_is_not_meant(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.worker().write()
    shown = done(fleet, "on", SA_READONLY_FILE=str(tmp_path / "read-only.txt")).stdout
    assert shown.startswith(f"key      {fleet.store.key}\n")
    assert list(tmp_path.iterdir()) == []
    fleet.workers[0].look()
    late = rounds(done(fleet, "wait", "--expect-hosts", "2", "--timeout", "0", code=1))
    assert late == ["not drained: 1 of 2 expected hosts are there"]
    forced = done(fleet, "status", SA_READONLY_FORCE=RW)
    assert "Processes that are started here obey it; this command, only the key." in forced.stderr


def test_off_names_the_hosts_that_a_file_holds_and_wait_answers_for_that_file(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "read-only.txt"
    with of_host("web2", monkeypatch):
        fleet.worker().write()
    worker = fleet.worker(file=file)
    worker.write()
    done(fleet, "on")
    shown = done(fleet, "on", "--file", file, "--reason", "a disk").stdout
    assert shown.startswith(f"file     {file}\nmode     read-only\nreason   a disk\n")
    assert done(fleet, "wait", "--file", file, "--timeout", "0", code=1)
    for one in fleet.workers:
        one.look()
    waited = rounds(done(fleet, "wait", "--file", file))
    assert waited[-1].startswith("drained: 1 worker (only")  # of this host
    assert rounds(done(fleet, "wait"))[-1].startswith("drained: 2 workers on 2 hosts")
    assert f"{process.host()} stays read-only, 1 worker, by a file there" in (
        done(fleet, "off").stderr
    )
    assert [one.look() for one in fleet.workers] == [RW, RO]
    done(fleet, "off", "--file", file)
    assert worker.look() == RW
    done(fleet, "wait", "--file", file, "--mode", RW)


# -- what is lost ----------------------------------------------------------------------------


@once
def test_what_is_lost_is_drained_by_the_operators_word_once_the_fence_is_over(
    bare: Fleet, pg_server: Server
) -> None:
    bare.init(0.31)
    worker = bare.worker(proxied=True, ttl=0.1)
    with worker.sessions() as session:
        session.connection()
        worker.cut_off()
        bare.client.delete(f"{bare.store.workers}{worker.entry._process}/alive")
        bare.on()
        url = shown(pg_server.url())
        first = done(bare, "wait", "--timeout", "0", code=1)
        assert "lost: read-write, with no connections out when it last reported" in first.stdout
        assert "for 0.3 s more one that can't be reached may be given" in first.stdout
        waited = rounds(done(bare, "wait", "--ignore-dead"))
        assert "for 0.3 s more" in waited[0]
        assert waited[-1].startswith("drained: 0 workers on 0 hosts, 1 lost and ignored")
        late = rounds(done(bare, "wait", "--timeout", "0.5", code=1))
        assert late[-1].endswith("or give --ignore-dead where you know that there are none")
        told = {"SA_READONLY_READ_WRITE_URL": url}
        late = rounds(done(bare, "wait", "--timeout", "0.5", code=1, **told))
        assert "the server's word counts for what is lost with --no-pooler only" in late[-1]
        held = create_engine(pg_server.url(), poolclass=NullPool).connect()
        late = rounds(done(bare, "wait", "--no-pooler", "--timeout", "0.9", code=4, **told))
        assert late[-1].startswith("the workers are drained, but the server disagrees: 1 session")
        held.close()
        waited = rounds(done(bare, "wait", "--no-pooler", **told))
        assert waited[-1].startswith(
            "drained: 0 workers on 0 hosts, 1 lost and by the server's word; the server agrees"
        )


# -- etcd ------------------------------------------------------------------------------------


def test_wait_goes_on_while_etcd_is_away_and_says_so(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.worker().write()
    fleet.on()
    with Proxy(fleet.etcd.node.port) as proxy:

        def away() -> None:
            proxy.refuses = True
            proxy.cut()

        def back() -> None:
            proxy.refuses = False

        at_each_round(monkeypatch, away, back, fleet.workers[0].look)
        waited = rounds(done(fleet, "wait", "--etcd", proxy.url))
        assert "has not noticed" in waited[0]
        assert waited[1].startswith("not drained: etcd can't be asked: ")
        assert "has not noticed" in waited[2]
        assert waited[3].startswith("drained: 1 worker on 1 host")
        away()
        told = json.loads(
            done(fleet, "wait", "--etcd", proxy.url, "--timeout", "0", "--json", code=1).stdout
        )
        assert re.match(r"not drained after 0\.\d s: etcd can't be asked", told["message"])
        assert refused(fleet, "status", "--etcd", proxy.url, code=1).startswith("etcd can't be")
        result = done(fleet, "run", "--etcd", proxy.url, "--", "no-such-command", code=75)
        assert "It is read-only (etcd can't be asked" in result.stderr


def test_wait_ends_where_the_key_goes_meanwhile(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.worker().write()
    assert rounds(done(fleet, "wait", code=1)) == [
        "not drained: the key is not there, it is read-write; turn it on first"
    ]
    fleet.on()
    at_each_round(monkeypatch, fleet.off)
    assert rounds(done(fleet, "wait", code=1))[-1] == (
        "not drained: the key has gone meanwhile, somebody turned it off"
    )
    fleet.client.delete(fleet.store.marker)
    assert rounds(done(fleet, "wait", code=1))[-1] == (
        "not drained: the marker is missing; turn it on first"
    )
    told = done(fleet, "off", code=1)
    assert "The mode is read-only all the same: the marker is missing" in told.stderr
    assert "mode     read-only\n" in told.stdout


def test_wait_notices_at_once_what_a_worker_acknowledges(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()
    environment = {
        **os.environ,
        "SA_READONLY_ETCD": fleet.etcd.urls,
        "SA_READONLY_KEY": fleet.store.key,
    }
    with running("wait", env=environment, **PIPES) as waiting:
        assert "has not noticed" in waiting.stdout.readline()
        worker.look()
        assert "drained after" in waiting.stdout.readline()


def test_run_waits_until_the_key_is_gone(fleet: Fleet) -> None:
    fleet.on()
    environment = {
        **os.environ,
        "SA_READONLY_ETCD": fleet.etcd.urls,
        "SA_READONLY_KEY": fleet.store.key,
    }
    with running("run", "--wait", "30", "--", "echo", "ran", env=environment, **PIPES) as job:
        fleet.off()
        assert job.stdout.readline() == "ran\n"


def test_wait_reads_on_where_etcd_is_compacted_meanwhile(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.worker()
    worker.write()
    fleet.on()

    def compacted() -> None:
        fleet.client.put("/other", "x")
        fleet.etcd.compact(fleet.client.get("/").revision)

    at_each_round(monkeypatch, compacted, worker.look)
    waited = rounds(done(fleet, "wait"))
    assert ["has not noticed" in waited[0], waited[-1][:17]] == [True, "drained: 1 worker"]


def test_status_goes_on_watching_while_etcd_is_away(fleet: Fleet) -> None:
    with Proxy(fleet.etcd.node.port) as proxy:
        environment = {
            **os.environ,
            "SA_READONLY_ETCD": proxy.url,
            "SA_READONLY_KEY": fleet.store.key,
        }
        with running("status", "--watch", env=environment, **PIPES) as watching:
            assert "mode: read-write; " in watching.stdout.readline()
            proxy.refuses = True
            proxy.cut()
            assert "etcd can't be asked: " in watching.stderr.readline()
            fleet.on("Upgrade")
            proxy.refuses = False
            assert "mode: read-only; reason: Upgrade" in watching.stdout.readline()


# -- bad input -------------------------------------------------------------------------------


def test_a_fleet_that_was_never_initialised_is_one_clear_error(bare: Fleet) -> None:
    for name in ("status", "off", "wait"):
        assert refused(bare, name).startswith(f"No fleet was initialised at {bare.store.key} in")
    result = done(bare, "run", "--", "no-such-command", code=75)
    assert "No fleet was initialised" in result.stderr
    assert bare.client.range("").count == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--etcd", "http://no-such-host.invalid:2379"], "http://no-such-host.invalid:2379: the "),
        (["--etcd", "etcd1:2379"], "'etcd1:2379' is no URL of etcd. Give one such as https:"),
        (["--etcd", "http://u:secret@h"], "An URL of etcd takes neither a user nor a password."),
        (["--key", "myapp/mode"], "key is 'myapp/mode'. Give a name that begins with a slash,"),
        (["--key", ""], "Give --key with --etcd (or set SA_READONLY_KEY)."),
        (["--ca", "/no/ca.pem"], "ca=, cert= and cert_key= are for https"),
        (["--etcd", "https://h", "--ca", "/no/ca.pem"], "ca='/no/ca.pem' can't be read: No such"),
        (["--user", "shop"], "A user of etcd and a password are given together. Set SA_READONLY_"),
        (["--user", "shop", "--password-file", "/no"], "--password-file /no can't be read: No suc"),
        (["--workers", "/tmp/x"], "--workers is for --file alone: with --etcd the workers are th"),
    ],
)
def test_bad_input_is_one_clear_error_of_each_command(
    bare: Fleet, arguments: list[str], error: str
) -> None:
    for name in ("status", "on", "off", "wait"):
        assert refused(bare, name, *arguments).startswith(error)
    if "--workers" not in arguments:
        assert refused(bare, "init", *arguments).startswith(error)
        assert refused(bare, "run", *arguments, "--", "no-such-command").startswith(error)
    assert bare.client.range("").count == 0


def test_the_word_of_one_server_is_not_taken_for_that_of_several(
    fleet: Fleet, pg_server: Server
) -> None:
    assert refused(fleet, "wait", "--no-pooler") == "--no-pooler needs --read-write."
    url = pg_server.url()
    both = f"{url.host}:{url.port}"
    several = url.update_query_dict({"host": [both, both]})
    told = {"SA_READONLY_READ_WRITE_URL": shown(several)}
    assert refused(fleet, "wait", "--no-pooler", **told).startswith(
        f"--read-write leads to several servers: {both}, {both}. A worker"
    )
    fleet.on()
    done(fleet, "wait", code=3, **told)  # what has acknowledged needs no server's word


def test_what_makes_no_sense_for_a_fleet_is_refused(bare: Fleet, tmp_path: Path) -> None:
    assert refused(bare, "init", "--fence", "61").startswith("--fence 61 makes no sense.")
    assert refused(bare, "init", "--fence", "0").startswith("--fence 0 makes no sense.")
    bare.init()
    assert "the fleet was initialised" in refused(bare, "init", code=1)
    file = str(tmp_path / "read-only.txt")
    nothing = {"SA_READONLY_ETCD": ""}
    assert refused(bare, "status", "--key", "/x", **nothing).startswith("--key is given without")
    assert refused(bare, "status", SA_READONLY_ETCD="").startswith("Give --file PATH, or set")
    assert refused(bare, "init", SA_READONLY_ETCD="").startswith("Give --etcd URLS")
    assert refused(bare, "wait", "--file", file, "--no-pooler", **nothing) == (
        "--no-pooler needs --etcd."
    )


def test_with_users_a_password_is_taken_from_the_environment_or_a_file_and_told_nowhere(
    fleet: Fleet, tmp_path: Path
) -> None:
    store, secret = fleet.store, "pass word s3cr3t"
    rights = [("READWRITE", store.key, False), ("READWRITE", store.marker, False)]
    fleet.etcd.users(
        ops=(secret, [*rights, ("READWRITE", store.workers, True)]),
        shop=(secret, [("READ", store.key, False), ("READ", store.marker, False)]),
    )
    try:
        (tmp_path / "password").write_text(secret + "\n")
        (tmp_path / "wrong").write_text("guessed\n")
        by_file = ["--user", "ops", "--password-file", tmp_path / "password"]
        shown = done(fleet, "on", *by_file)
        told = {"SA_READONLY_ETCD_USER": "ops", "SA_READONLY_ETCD_PASSWORD": secret}
        shown_too = done(fleet, "off", "--json", **told)
        assert secret not in shown.output + shown_too.output
        wrong = ["--user", "ops", "--password-file", tmp_path / "wrong"]
        for name in ("status", "on", "off", "wait", "init"):
            error = refused(fleet, name, *wrong)
            assert "etcd does not let the user 'ops' in: " in error
            assert "Check the user's name and password" in error
            assert "guessed" not in error
        told["SA_READONLY_ETCD_USER"] = "shop"
        assert "permission denied" in refused(fleet, "on", **told)
        error = refused(fleet, "on", SA_READONLY_ETCD_PASSWORD=secret)
        assert error.endswith("Give --user NAME, or set SA_READONLY_ETCD_USER.")
    finally:
        fleet.etcd.no_users()


def test_a_wrong_ca_is_one_clear_error_and_the_right_one_is_none() -> None:
    pytest.importorskip("trustme")
    with certificates() as theirs, certificates() as others, Etcd(tls=theirs) as etcd:
        place = TlsFleet(etcd, "/tls/mode")
        for name in ("init", "status", "on", "off", "wait"):
            error = refused(place, name, "--ca", others.ca)
            assert "its certificate is not accepted" in error
        done(place, "init", "--ca", theirs.ca)
        done(place, "on", SA_READONLY_ETCD_CA=theirs.ca)


class TlsFleet(Fleet):
    def __init__(self, etcd: Etcd, key: str) -> None:
        self.etcd = etcd
        self.store = SimpleNamespace(key=key)  # type: ignore[assignment]  # all that is asked for
