"""`sa-readonly wait --url`, on hosts that are servers of their own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from sa_readonly import ConfigurationError, EngineSelector, FileSwitch, Mode
from sa_readonly.cli import main
from sa_readonly.command.fleet import Fleet
from sa_readonly.command.fleet_wait import FleetWait
from sa_readonly.command.hosts import read_hosts
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.wsgi import ReadOnlyMiddleware
from tests.app import once
from tests.forked import Forked
from tests.postgres import wait_until
from tests.test_command_on_off import command, refused, running
from tests.test_command_wait import ONLY, PIPES, STANDBY, Asked, read_until
from tests.web_cases import serving

URL = "http://{host}/-/read-only"


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None: ...


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Host:
    """An application with a file and a directory of its own, behind the middleware."""

    def __init__(self, place: Path, *, details: bool = False) -> None:
        place.mkdir()
        self.file = place / "read-only.txt"
        self.engine = create_engine(f"sqlite:///{place}/rw.db", poolclass=QueuePool)
        self.selector = EngineSelector(
            FileSwitch(self.file, ttl=0), read_write=self.engine, watch=False
        )
        self.asked: list[str] = []
        self.server = Server(("127.0.0.1", 0), Quiet)
        self.page = ReadOnlyMiddleware(self.application, self.selector, details=details)
        self.server.set_app(self.noted)
        self.name = f"127.0.0.1:{self.server.server_port}"

    def noted(self, environ: Any, start: Any) -> Any:
        self.asked.append(environ["HTTP_HOST"])
        return self.page(environ, start)

    def application(self, environ: Any, start: Any) -> Any:
        start("404 Not Found", [])
        return []

    def on(self, reason: str = "Upgrade") -> None:
        self.file.write_text(reason)

    def off(self) -> None:
        self.file.unlink()

    def close(self) -> None:
        self.selector.close()
        self.engine.dispose()


class Stranger:
    """A server that answers whatever a test wants."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            do_GET = answer  # noqa: N815  # the standard library calls it so

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.name = f"127.0.0.1:{self.server.server_port}"


class Fleets:
    """The hosts of a test, and the command."""

    def __init__(self, place: Path, stack: contextlib.ExitStack) -> None:
        self.place, self.stack = place, stack
        self.hosts: list[Host | Stranger] = []
        self.more: list[str] = []  # names beside theirs

    def _start(self, made: Any) -> Any:
        thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
        thread.start()
        self.stack.callback(thread.join)
        self.stack.callback(made.server.server_close)
        self.stack.callback(made.server.shutdown)
        self.hosts.append(made)
        return made

    def host(self, **options: Any) -> Host:
        host = Host(self.place / f"host{len(self.hosts)}", **options)
        self.stack.callback(host.close)
        self._start(host)
        return host

    def stranger(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> Stranger:
        made: Stranger = self._start(Stranger(answer))
        return made

    def listed(self) -> Path:
        path = self.place / "hosts"
        path.write_text("\n".join([*(host.name for host in self.hosts), *self.more]))
        return path

    @property
    def where(self) -> tuple[str, ...]:
        return ("--url", URL, "--hosts", str(self.listed()))

    def command(self, *arguments: str) -> Result:
        return command("wait", *self.where, *arguments)

    def line(self, code: int, *arguments: str) -> str:
        done = self.command(*arguments)
        assert done.exit_code == code, done.output
        return done.stdout.splitlines()[-1]

    def once(self, code: int = 1) -> str:
        return self.line(code, "--timeout", "0")

    def waiting(self, **how: Any) -> FleetWait:
        return FleetWait(Fleet(URL, [*(host.name for host in self.hosts), *self.more]), **how)

    def runs(self, *arguments: str, **options: Any) -> Forked:
        return self.stack.enter_context(
            running("wait", *self.where, *arguments, **{**PIPES, **options})
        )


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleets]:
    with contextlib.ExitStack() as stack:
        yield Fleets(tmp_path, stack)


def test_two_names_of_one_directory_of_workers_are_one_registry_and_one_made_anew_is_another(
    tmp_path: Path,
) -> None:
    path = tmp_path / "one" / "file.workers"
    path.mkdir(parents=True)
    (tmp_path / "two").symlink_to("one")
    one, two = (DirectoryRegistry(tmp_path / name / path.name) for name in ("one", "two"))
    before = one.scope()
    assert before == two.scope()
    path.rename(tmp_path / "gone")
    path.mkdir()
    assert one.scope() == two.scope() != before


def told(handler: BaseHTTPRequestHandler, **other: Any) -> dict[str, Any]:
    """A page of a host that is drained."""
    asked = parse_qs(urlsplit(handler.path).query)["asked"][0]
    sums = {"workers": 2, "noticed": 2, "drained": 2, "died_without_a_word": 0}
    page = {
        "mode": "read-only",
        "generation": "1.2.3.4",
        "reason": None,
        "until": None,
        "registered": True,
        "registry": "abc",
        "asked": asked,
        "sums": {**sums, "waiting": 0, "settled": 2},
    }
    page["sums"].update({key: other.pop(key) for key in list(other) if key in page["sums"]})
    return {**page, **other}


def send(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    kind: str = "application/json",
    status: int = 200,
    **headers: str,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def paging(**other: Any) -> Callable[[BaseHTTPRequestHandler], None]:
    """What answers with a page that differs so from one of a drained host."""
    return lambda handler: send(handler, json.dumps(told(handler, **dict(other))).encode())


def sending(
    body: bytes, kind: str = "application/json", status: int = 200, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, body, kind, status, **headers)


def raw(body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: handler.wfile.write(body)


def older(handler: BaseHTTPRequestHandler) -> None:
    page = told(handler)
    del page["asked"]
    send(handler, json.dumps(page).encode())


# -- drained, and why not --------------------------------------------------------------------


def test_it_waits_for_every_host_and_names_those_that_are_not_there(fleet: Fleets) -> None:
    one, two = fleet.host(), fleet.host()
    one.on()
    with two.selector.engine().connect() as connection:
        connection.exec_driver_sql("select 1")
        process = fleet.runs()
        line = read_until(process, "not drained")
        assert line.endswith(f"s: {two.name}: it is read-write\n")
        two.on()
        line = read_until(process, "1 of 1 workers")
        assert line.endswith(f"s: {two.name}: 1 of 1 workers is not drained\n")
    stdout, stderr = process.communicate()
    assert re.fullmatch(rf"drained after \d+\.\d s: 2 hosts, 2 workers{ONLY}\n", stdout), stdout
    assert (process.returncode, stderr) == (0, "")


def test_where_the_page_shows_its_workers_they_are_named(fleet: Fleets) -> None:
    host = fleet.host(details=True)
    with host.selector.engine().connect() as connection:
        connection.exec_driver_sql("select 1")
        host.on()
        assert re.search(
            rf": {host.name}: \S+ pid {os.getpid()} on \S+: 1 connection out since \d+ s, no "
            "watcher thread runs there$",
            fleet.once(),
        )


@once
def test_servers_that_are_processes_of_their_own_are_waited_for(fleet: Fleets) -> None:
    with serving("wsgiref") as one, serving("wsgiref") as two:
        fleet.more = [f"127.0.0.1:{site.port}" for site in (one, two)]
        one.on()
        process = fleet.runs("--expect", "2", "--expect-hosts", "2")
        read_until(process, f"{fleet.more[1]}: it is read-write")
        two.on()
        assert re.search(r"drained after .* s: 2 hosts, 2 workers\n", process.communicate()[0])
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (sending(b"", "text/plain", 503), "no status page: HTTP 503 Service Unavailable"),
        (sending(b"{}", status=404), "no status page: HTTP 404 Not Found"),
        (sending(b"{}", status=204), "no status page: HTTP 204 No Content"),
        (
            sending(b"", status=302, Location="https://elsewhere.example/\x1b[31m"),
            r"it redirects to https://elsewhere.example/\x1b[31m, which is not followed: give the "
            "URL itself",
        ),
        (
            sending(b"<p>drained: 8", "text/html"),
            "what answers is text/html and no status page of sa_readonly",
        ),
        (sending(b"drained"), "what answers is no JSON, whatever it says"),
        (sending(b"[" * 100_000), "what answers is no JSON, whatever it says"),
        (sending(b"\xff"), "what answers is no JSON, whatever it says"),
        (sending(b" " * (5 << 20)), "what answers is too long for a status page"),
        *(
            (
                answer,
                "what answers is no status page of this version of sa_readonly: update it there, "
                "or give the URL of the page",
            )
            for answer in (
                *(sending(body) for body in (b"{}", b"[]", b"null", b'{"mode": "read-only"}')),
                *(paging(drained=wrong) for wrong in (True, "2", -1, None, 2.0)),
                paging(mode="drained"),
                paging(mode=["read-only"]),
                paging(registered=1),
                paging(generation=1),
                paging(workers=[1]),
                older,
            )
        ),
        (paging(asked="an older question"), "the answer was made for somebody else: a cache"),
        (paging(asked=None), "the answer was made for somebody else: a cache stands between"),
        (raw(b"SSH-2.0-OpenSSH_9.9\r\n"), "it speaks no HTTP: SSH-2.0-OpenSSH_9.9"),
        (raw(b""), "it speaks no HTTP: Remote end closed connection without response"),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"),
            "what answers is no JSON, whatever it says",
        ),
        (paging(mode="read-write", generation=None), "it is read-write"),
        (
            paging(generation=None),
            "it is read-only by no file, so that nothing is known of its workers",
        ),
        (
            paging(registered=False),
            "the process that answers is not registered: nobody can wait for it",
        ),
        (paging(drained=1), "1 of 2 workers is not drained"),
        (paging(drained=0, waiting=2), "2 of 2 workers are not drained"),
        (paging(waiting=1), "1 of 2 workers is not drained"),
        (paging(waiting=1, died_without_a_word=1), "1 died without a word"),
        (
            paging(drained=1, waiting=2, died_without_a_word=1),
            "1 of 2 workers is not drained, 1 died without a word",
        ),
    ],
)
def test_what_is_not_surely_drained_is_not_drained(
    fleet: Fleets, answer: Callable[[BaseHTTPRequestHandler], None], why: str
) -> None:
    fleet.host().on()
    stranger = fleet.stranger(answer)
    assert f"s: {stranger.name}: {why}" in fleet.once()


def test_a_host_that_refuses_or_is_unknown_is_not_drained(fleet: Fleets) -> None:
    fleet.host().on()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"127.0.0.1:{listener.getsockname()[1]}"
    fleet.more = [closed, "nowhere.invalid", "no..host"]
    line = fleet.once()
    assert f"{closed}: it can't be reached: Connection refused; " in line
    assert "nowhere.invalid: it can't be reached: " in line
    assert "no..host: " in line


def test_the_dead_are_ignored_where_that_is_wanted(fleet: Fleets) -> None:
    fleet.stranger(paging(waiting=1, died_without_a_word=1))
    line = fleet.line(0, "--ignore-dead")
    assert re.fullmatch(
        rf"drained after \d+\.\d s: 1 host, 2 workers, ignoring 1 that died{ONLY}", line
    )


def test_where_nobody_is_registered_it_exits_with_3_at_once(fleet: Fleets) -> None:
    host = fleet.host()
    host.on()
    nobody = fleet.stranger(paging(workers=0, noticed=0, drained=0, settled=0))
    done = fleet.command()
    assert done.exit_code == 3
    assert re.fullmatch(
        rf"not known after \d+\.\d s: nobody is registered on {nobody.name}, so nothing is known\n",
        done.stdout,
    )
    assert done.stderr == "Nothing was changed: each host stays as it is.\n"
    host.off()
    assert f"{host.name}: it is read-write" in fleet.once()


# -- one moment for all ----------------------------------------------------------------------


def test_a_file_that_is_another_one_at_each_look_is_not_drained(fleet: Fleets) -> None:
    looks = iter(range(1000))
    fleet.stranger(
        lambda handler: send(
            handler, json.dumps(told(handler, generation=f"{next(looks)}")).encode()
        )
    )
    line = fleet.line(1, "--timeout", "0.5")
    assert line.endswith("s: a file was replaced meanwhile, or a host restarted")


def test_a_load_balancer_is_found_out(fleet: Fleets) -> None:
    looks = iter(range(1000))
    balancer = fleet.stranger(
        lambda handler: send(
            handler, json.dumps(told(handler, registry=f"{next(looks) % 2}")).encode()
        )
    )
    line = fleet.line(1, "--timeout", "1")
    assert f"{balancer.name}: several hosts answer there by turns, as behind a load" in line


def test_a_host_that_turns_back_ends_the_wait(fleet: Fleets) -> None:
    one, two = fleet.host(), fleet.host()
    one.on()
    waiting = fleet.waiting()
    assert f"{two.name}: it is read-write" in str(waiting.round())
    one.off()
    progress = waiting.round()
    assert (progress.code, progress.over, progress.late) == (1, True, False)
    said = f"{one.name}: somebody has turned it back meanwhile"
    assert re.fullmatch(rf"not drained after \d\.\d s: {said}", str(progress))


def test_a_host_that_was_read_only_by_no_file_has_not_turned_back(fleet: Fleets) -> None:
    pages = [{"generation": None}, {"mode": "read-write", "generation": None}, {}, {}]
    fleet.stranger(
        lambda handler: send(handler, json.dumps(told(handler, **pages.pop(0))).encode())
    )
    waiting = fleet.waiting()
    assert "it is read-only by no file" in str(waiting.round())  # as one that can't look
    assert [waiting.round().moved, waiting.round().holds] == [False, True]


def test_what_happens_while_the_server_is_asked_is_seen(fleet: Fleets) -> None:
    one, two = fleet.host(), fleet.host()
    one.on()
    two.on()
    assert fleet.waiting(server=Asked(lambda: None)).round().holds
    replaced = fleet.waiting(server=Asked(lambda: FileSwitch(one.file).enable("Another"))).round()
    assert (replaced.code, replaced.over) == (1, False)
    gone = fleet.waiting(server=Asked(one.off)).round()
    assert (gone.code, gone.moved, gone.over) == (1, True, True)


# -- hosts that hang -------------------------------------------------------------------------


def test_a_host_that_hangs_keeps_no_other_from_being_asked(
    fleet: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FleetWait, "patience", 0.1)
    over = threading.Event()
    host = fleet.host()

    def hang(_: BaseHTTPRequestHandler) -> None:
        over.wait(60)

    hanging = fleet.stranger(hang)
    fleet.stack.callback(over.set)
    host.on()
    waiting = fleet.waiting()
    alone = re.compile(rf"s: {hanging.name}: no answer since \d+ s$")
    for count in (1, 2, 3):
        wait_until(lambda: alone.search(str(waiting.round())), "the other to answer in time")
        assert len(host.asked) >= count
    over.set()
    wait_until(lambda: "it speaks no HTTP" in str(waiting.round()), "the answer")


def test_a_host_that_hangs_does_not_keep_the_command_from_ending(fleet: Fleets) -> None:
    over = threading.Event()
    fleet.stranger(lambda _: over.wait(60))
    fleet.stack.callback(over.set)
    process = fleet.runs()
    read_until(process, "no answer since")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert time.monotonic() - began < Fleet.limit / 2  # its thread hangs for longer


@pytest.mark.parametrize("every", [0.05, None], ids=["a byte now and then", "nothing"])
def test_an_answer_that_does_not_come_in_time_is_none(
    fleet: Fleets, monkeypatch: pytest.MonkeyPatch, every: float | None
) -> None:
    monkeypatch.setattr(Fleet, "limit", 0.3)
    over, hung_up = threading.Event(), threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            while not over.wait(every):
                handler.wfile.write(b"H")
        except OSError:
            hung_up.set()

    slow = fleet.stranger(drip)
    try:
        assert re.search(
            rf"{slow.name}: (it does not answer within 0.3|no answer since \d+) s",
            fleet.line(1, "--timeout", "1"),
        )
        if every is not None:
            wait_until(hung_up.is_set, "it to hang up")
    finally:
        over.set()


def test_one_that_takes_longer_than_a_look_is_drained_all_the_same(
    fleet: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FleetWait, "patience", 0.05)
    fleet.host().on()

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.3)  # which is what it does; nobody waits by it
        paging()(handler)

    fleet.stranger(slowly)
    assert fleet.line(0).startswith("drained after ")


def test_a_hundred_hosts_are_asked_at_once(fleet: Fleets) -> None:
    fleet.host().on()
    page = paging()
    fleet.stranger(page)
    port = fleet.hosts[1].server.server_port
    fleet.more = [f"127.0.0.{n}:{port}" for n in range(2, 100)]
    fleet.hosts[1].server.server_close()
    line = fleet.once()
    assert line.count("can't be reached") == 20
    assert line.endswith("; and 79 more")


# -- how many --------------------------------------------------------------------------------


def test_two_names_of_one_host_are_one(fleet: Fleets) -> None:
    host = fleet.host()
    host.on()
    port = host.server.server_port
    fleet.more = [f"localhost:{port}"]
    assert fleet.line(0, "--expect-hosts", "1").startswith("drained")
    line = fleet.once()
    same = rf"\({host.name} and localhost:{port} are one\)"
    assert re.search(rf"s: 1 of 2 expected hosts are known {same}$", line)
    line = fleet.line(1, "--expect-hosts", "1", "--expect", "2", "--timeout", "0")
    assert line.endswith("s: 1 of 2 expected workers are registered")
    line = fleet.line(0, "--expect-hosts", "1", "--expect", "1")
    assert re.fullmatch(rf"drained after \d+\.\d s: 1 host {same}, 1 worker", line)


def test_workers_of_all_hosts_are_expected_together(fleet: Fleets) -> None:
    for registry in ("one", "two"):
        fleet.stranger(paging(registry=registry))
    assert fleet.line(0, "--expect", "4").endswith(": 2 hosts, 4 workers")
    line = fleet.line(1, "--expect", "5", "--timeout", "0")
    assert line.endswith("4 of 5 expected workers are registered")


# -- read-write again ------------------------------------------------------------------------


def test_it_waits_until_every_host_writes_again(fleet: Fleets) -> None:
    fleet.host()
    host = fleet.host()
    host.on()
    waiting = fleet.waiting(mode=Mode.READ_WRITE)
    line = rf"not read-write after \d\.\d s: {host.name}: it is read-only \(Upgrade\)"
    assert re.fullmatch(line, str(waiting.round()))
    host.off()
    assert re.fullmatch(
        rf"read-write after \d\.\d s: 2 hosts, 2 workers{ONLY}", str(waiting.round())
    )
    fleet.stranger(paging(mode="read-write", generation=None, waiting=1, drained=0))
    line = fleet.line(1, "--mode", "read-write", "--timeout", "0")
    assert line.endswith("1 of 2 workers is not read-write")


# -- all addresses of a name -----------------------------------------------------------------


class Name:
    """A name with several addresses; the system's resolver is left out of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.addresses: list[str] | None = list(addresses)
        self.real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)

    def resolve(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        if host != "app.internal":
            return self.real(host, port, *_, **__)
        if self.addresses is None:
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        kind = (socket.SOCK_STREAM, 6, "")
        return [(socket.AF_INET, *kind, (address, port)) for address in self.addresses]


def all_addresses(port: int, *arguments: str, **environment: str) -> Result:
    scheme = "HTTPS" if "SSL_CERT_FILE" in environment else "http"
    url = f"{scheme}://app.internal:{port}/-/read-only"
    return command("wait", "--url", url, "--all-addresses", *arguments, **environment)


def listening(stack: contextlib.ExitStack, port: int, address: str, page: Any) -> None:
    """Serve at another address, at the same port."""

    class Handler(BaseHTTPRequestHandler):
        do_GET = page  # noqa: N815  # the standard library calls it so

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer((address, port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)


def test_every_address_of_a_name_is_asked_by_that_name(
    fleet: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = fleet.host()
    host.on()
    port = host.server.server_port
    listening(fleet.stack, port, "127.0.0.2", paging(drained=1))
    name = Name(monkeypatch, "127.0.0.1", "127.0.0.1")
    line = all_addresses(port).stdout
    known = r" \(only the addresses that the name has are known; --expect-hosts N tells how many "
    assert re.fullmatch(
        rf"drained after \d+\.\d s: 1 host, 1 worker{known}there must be\)\n", line
    ), line
    assert set(host.asked) == {f"app.internal:{port}"}
    name.addresses = ["127.0.0.1", "127.0.0.2"]
    line = all_addresses(port, "--timeout", "0").stdout
    assert line.endswith(f"s: 127.0.0.2:{port}: 1 of 2 workers is not drained\n")
    name.addresses = ["127.0.0.1"]
    line = all_addresses(port, "--timeout", "0", "--expect-hosts", "2").stdout
    assert line.endswith("s: 1 of 2 expected hosts are known\n")
    name.addresses = None
    line = all_addresses(port, "--timeout", "0").stdout
    assert "the addresses of app.internal are not known: it can't be reached" in line


def test_who_has_lost_its_address_meanwhile_is_asked_all_the_same(
    fleet: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = fleet.host()
    port = host.server.server_port
    listening(fleet.stack, port, "127.0.0.2", paging())
    name = Name(monkeypatch, "127.0.0.1", "127.0.0.2")
    waiting = FleetWait(Fleet(f"http://app.internal:{port}/-/read-only"))
    assert f"127.0.0.1:{port}: it is read-write" in str(waiting.round())
    name.addresses = ["127.0.0.2"]
    assert f"127.0.0.1:{port}: it is read-write" in str(waiting.round())
    host.on()
    name.addresses = None
    progress = waiting.round()
    assert progress.code == 1
    assert re.search(r"s: the addresses of app.internal are not known: \S+", str(progress))
    name.addresses = ["127.0.0.2"]
    assert waiting.round().holds


def certificate(place: Path, name: str) -> Path:
    """A certificate that vouches for itself, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("NOT TESTED: there is no openssl to make a certificate.")
    path = place / f"{name}.pem"
    whole = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    whole += [
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName=DNS:{name}",
    ]
    made = subprocess.run(
        [*whole, "-keyout", path, "-out", place / "certificate"], capture_output=True, check=True
    )
    assert made.returncode == 0
    path.write_bytes(path.read_bytes() + (place / "certificate").read_bytes())
    return path


def test_the_certificate_is_for_the_name_and_trusted(
    fleet: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = fleet.host()
    host.on()
    port = host.server.server_port
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trusted = certificate(fleet.place, "app.internal")
    context.load_cert_chain(trusted)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    host.server.socket = context.wrap_socket(host.server.socket, server_side=True)
    monkeypatch.setattr(host.server, "handle_error", lambda *_: None)  # clients that hang up
    Name(monkeypatch, "127.0.0.1")
    done = all_addresses(port, SSL_CERT_FILE=str(trusted))
    assert done.exit_code == 0, done.output
    assert set(names) == {"app.internal"}
    other = certificate(fleet.place, "other.internal")
    line = all_addresses(port, "--timeout", "0", SSL_CERT_FILE=str(other)).stdout
    refused = r"its certificate is refused: self.signed certificate \(SSL_CERT_FILE names the"
    assert re.search(refused, line)
    url = ("--url", "https://{host}/-/read-only", "--hosts", str(fleet.listed()))
    done = command("wait", *url, "--timeout", "0", SSL_CERT_FILE=str(trusted))
    assert "its certificate is refused: IP address mismatch" in done.stdout


# -- the list, and usage ---------------------------------------------------------------------


def test_a_list_has_one_host_a_line_with_or_without_a_port() -> None:
    lines = """
# the fleet
web1
web1.example:8443   # with a port
WEB1

192.0.2.7
[2001:DB8::7]:8443
2001:db8::8
"""
    hosts = ["web1", "web1.example:8443", "192.0.2.7", "[2001:DB8::7]:8443", "[2001:db8::8]"]
    assert read_hosts(lines.splitlines()) == hosts
    urls = [target.url for target in Fleet("https://{host}/-/read-only", hosts)._targets]
    assert urls[2:4] == ["https://192.0.2.7/-/read-only", "https://[2001:DB8::7]:8443/-/read-only"]


NO_HOSTS = """
web1 web2 | web1: | web1:0 | web1:99999 | web1:x | http://web1 | web1/x | a@web1 | web[01:20] | wéb
[web1] | [::1 | [1::2::3]:80 | [192.0.2.7] | fe80::1%eth0 | ,
"""


@pytest.mark.parametrize("line", re.split(r" \| |\n", NO_HOSTS.strip()))
def test_a_line_that_is_no_host_is_refused(line: str) -> None:
    with pytest.raises(ConfigurationError, match="Line 2 is no host: "):
        read_hosts(["web1", line])


def test_the_list_may_come_from_standard_input(fleet: Fleets) -> None:
    host = fleet.host()
    host.on()
    arguments = ["wait", "--url", URL, "--hosts", "-"]
    done = CliRunner().invoke(main, arguments, input=f"\ufeff{host.name}\r\n")
    assert done.exit_code == 0, done.output
    assert ": 1 host, 1 worker" in done.stdout


def test_an_ipv6_host_is_asked(fleet: Fleets) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("NOT TESTED: this machine has no IPv6.")

    class Six(Server):
        address_family = socket.AF_INET6

    host = Host(fleet.place / "six")
    fleet.stack.callback(host.close)
    host.server.server_close()
    host.server = Six(("::1", 0), Quiet)
    host.server.set_app(host.noted)
    host.name = f"[::1]:{host.server.server_port}"
    fleet._start(host)
    host.on()
    assert fleet.line(0).startswith("drained after")
    assert set(host.asked) == {host.name}


LIST = ("--hosts", "{list}")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--url", URL], "With --url give either --hosts FILE and {host} in the URL, or --all-"),
        (["--url", URL, *LIST, "--all-addresses"], "With --url give either --hosts FILE and"),
        (["--url", URL, "--all-addresses"], "Either {host} in the URL or all addresses of a name."),
        (["--url", "http://lb/-/read-only", *LIST], "The URL has no {host} where its host is"),
        (["--url", "http://lb/{host}", *LIST], "The URL has no {host} where its host is"),
        (["--url", "ftp://{host}/", *LIST], "'ftp://web1/' is no URL to ask."),
        (["--url", "{host}", *LIST], "The URL has no {host} where its host is"),
        (["--url", "http://", "--all-addresses"], "'http://' is no URL to ask."),
        (["--url", "http://{host}:x/", *LIST], "'http://web1:x/' is no URL to ask."),
        (["--url", "http://{host}/ x", *LIST], "is no URL to ask."),
        (["--url", "http://a:b@{host}/", *LIST], "The URL takes neither a user and a password nor"),
        (["--url", "http://{host}/#x", *LIST], "The URL takes neither a user and a password nor"),
        (["--url", URL, "--hosts", "{empty}"], "The list names no host, so nothing would be"),
        (["--url", URL, "--hosts", "{missing}"], "No such file or directory."),
        (["--url", URL, "--hosts", "{binary}"], "is no text."),
        (["--url", URL, *LIST, "--expect-hosts", "2"], "The list names 1, 2 are expected."),
        (["--url", URL, *LIST, "--file", "x"], "--file is not for --url: each host has its own."),
        (["--url", URL, *LIST, "--workers", "x"], "--workers is not for --url: each host has its"),
        (
            ["--url", URL, *LIST, "--mode", "read-write", "--ignore-dead"],
            "--ignore-dead is for --mode read-only only.",
        ),
        (
            ["--url", URL, *LIST, "--standby", "x"],
            STANDBY,
        ),
        (["--file", "x", *LIST], "--hosts needs --url."),
        (["--file", "x", "--all-addresses"], "--all-addresses needs --url."),
        (["--file", "x", "--expect-hosts", "2"], "--expect-hosts needs --url or --etcd."),
    ],
)
def test_what_does_not_fit_is_a_usage_error(
    tmp_path: Path, arguments: list[str], error: str
) -> None:
    texts = {"list": b"web1\n", "empty": b"# nobody\n\n", "binary": b"\xff\xfe"}
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
    paths = {f"{{{name}}}": str(tmp_path / name) for name in (*texts, "missing")}
    given = [paths.get(argument, argument) for argument in arguments]
    assert error in refused(command("wait", *given), 2)


def test_the_file_of_the_environment_is_not_meant(fleet: Fleets) -> None:
    fleet.host().on()
    done = command("wait", *fleet.where, SA_READONLY_FILE="/nowhere/read-only.txt")
    assert done.exit_code == 0, done.output


# -- JSON and the terminal -------------------------------------------------------------------


def test_json_is_one_document_that_tells_each_host(fleet: Fleets) -> None:
    one, two = fleet.host(), fleet.stranger(sending(b"", status=500))
    one.on()
    done = fleet.command("--json", "--timeout", "0", "--expect-hosts", "2")
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert {key: answer[key] for key in ("url", "awaited", "holds", "drained", "code")} == {
        "url": URL,
        "awaited": "read-only",
        "holds": False,
        "drained": False,
        "code": 1,
    }
    assert (answer["expected"], answer["expected_hosts"], answer["settled"]) == (None, 2, 1)
    assert [host["host"] for host in answer["hosts"]] == [one.name, two.name]
    there, not_there = answer["hosts"]
    assert (there["mode"], there["reason"], there["why"]) == ("read-only", "Upgrade", None)
    assert (there["drained"], there["sums"]["drained"]) == (True, 1)
    assert there["generation"] == one.selector.state.generation
    assert not_there["why"] == "no status page: HTTP 500 Internal Server Error"
    assert (not_there["mode"], not_there["sums"]) == (None, None)
    assert answer["message"].startswith("not drained after ")


@once
def test_on_a_terminal_a_table_of_hosts_lives(fleet: Fleets) -> None:
    host = fleet.host()
    kept = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    ours, theirs = pty.openpty()
    terminal = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    environment = {**kept, "TERM": "xterm-256color", "COLUMNS": "150", "LINES": "30"}
    process = fleet.runs(env=environment, **terminal)
    os.close(theirs)
    output = ""

    def read(text: str) -> None:
        nonlocal output
        while text not in output:
            output += os.read(ours, 4096).decode()

    read("0 of 1 hosts drained")
    read("Host")
    read(host.name)
    read("it is read-write")
    host.on()
    read("1 of 1 hosts drained")
    read("drained after ")
    read("how many there must be)")
    assert process.wait() == 0
    os.close(ours)
