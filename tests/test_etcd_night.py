"""Eight workers of two hosts go through the night of docs/fleet.md, by command alone."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import make_url

from sa_readonly.cli import main
from sa_readonly.command.doctor.etcd import examine_etcd
from sa_readonly.command.options import Where
from tests.app import LONG, longer, once
from tests.doctor import shown
from tests.etcd import Etcd
from tests.forked import Forked
from tests.postgres import Pair, Server
from tests.test_command_on_off import running

pytestmark = longer
DOCS = Path(__file__).parent.parent / "docs" / "fleet.md"
KEY = "/shop/read-only"
HOSTS = ("web1", "web2")
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


class Night:
    """The commands of a part of the docs, one after the other, beside workers."""

    def __init__(self, etcd: Etcd, urls: list[str], stack: ExitStack) -> None:
        self.etcd, self.urls, self.stack = etcd, urls, stack
        self.workers: list[Forked] = []
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SA_READONLY_")},
            "SA_READONLY_ETCD": etcd.urls,
            "SA_READONLY_KEY": KEY,
        }
        self.told: list[str] = []

    def start(self, each: int) -> None:
        arguments = (self.etcd.urls, KEY)
        for host in HOSTS:
            for _ in range(each):
                worker = Forked("tests.etcd_worker", *arguments, host, *self.urls, "0.2", **PIPES)
                self.workers.append(worker)
        for worker in self.workers:
            self.stack.callback(self._end, worker)
        assert [worker.stdout.readline() for worker in self.workers] == ["ready\n"] * 2 * each
        assert self.all("write") == ["ok"] * 2 * each

    def _end(self, worker: Forked) -> None:
        worker.send_signal(signal.SIGCONT)
        worker.kill()
        worker.__exit__()

    def say(self, worker: Forked, word: str) -> str:
        worker.stdin.write(f"{word}\n")
        worker.stdin.flush()
        return str(worker.stdout.readline().strip())

    def all(self, word: str) -> list[str]:
        return [self.say(worker, word) for worker in self.workers]

    def command(self, line: str, **environment: str) -> tuple[int, str]:
        """Run it, as a process of its own where time is no matter; return its code and output."""
        _, *arguments = shlex.split(line, comments=True)
        if not LONG:
            cleared = {name: None for name in os.environ if name.startswith("SA_READONLY_")}
            given = {**cleared, **self.environment, **environment}
            result = CliRunner().invoke(main, arguments, prog_name="sa-readonly", env=given)
            return result.exit_code, result.output
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with running(*arguments, env={**self.environment, **environment}, **pipes) as process:
            stdout, stderr = process.communicate()
        self.told += [f"$ {line}", *stdout.splitlines(), *stderr.splitlines()]
        assert process.returncode is not None
        return process.returncode, stdout + stderr

    def play(self, blocks: list[tuple[str, list[str]]], **environment: str) -> list[int]:
        """Run the commands of the docs; each line that they show must be among those printed."""
        codes = []
        for line, expected in blocks:
            code, printed = self.command(line, **environment)
            codes.append(code)
            said = [alike(one) for one in printed.splitlines()]
            missing = [one for one in expected if one != "..." and alike(one) not in said]
            assert missing == [], printed
        return codes


def alike(line: str) -> str:
    """A line without what differs from night to night."""
    line = re.sub(r"etcd     .*", "etcd", line)
    line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", "TIME", line)
    line = re.sub(r"(?:shop|etcd_worker)\.py", "PROGRAM", line)
    return re.sub(r"\d+(?:\.\d+)?(?= s\b)|(?<=pid )\d+|(?<=session )\d+|\d{3,}", "N", line).strip()


def blocks(part: str) -> list[tuple[str, list[str]]]:
    """The commands of a section and what is shown after each."""
    section = DOCS.read_text().partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found:
                found[-1][1].append(line)
    return [(line, shown) for line, shown in found if line.startswith("sa-readonly ")]


@pytest.fixture
def night(etcd: Etcd, pg_server: Server, pg_pair: Pair) -> Iterator[Night]:
    urls = [shown(pg_pair.read_write), shown(pg_pair.read_only)]
    pg_server.query("CREATE TABLE written (n integer)", database=pg_pair.read_write.database)
    with ExitStack() as stack:
        yield Night(etcd, urls, stack)


def test_the_night_of_the_docs_goes_as_they_show(night: Night) -> None:
    assert night.play(blocks("The beginning")) == [0]
    night.start(4 if LONG else 1)
    commands = blocks("The night")
    if not LONG:  # two workers cost less than eight
        commands = [(fewer(line), [fewer(one) for one in shown]) for line, shown in commands]
    back = len(commands) - 1
    assert night.play(commands[:back]) == [0] * back
    refused = night.all("write")
    assert all(answer.startswith("refused: Upgrade to") for answer in refused)
    assert night.play(commands[back:]) == [0]
    assert set(night.all("write")) == {"ok"}


@once
def test_a_worker_that_hangs_is_drained_by_the_servers_word(
    night: Night, pg_server: Server
) -> None:
    assert night.play(blocks("The beginning")) == [0]
    night.start(4)
    stopped = night.workers[4]
    night.say(stopped, "check_out")  # it has passed its check, and has sent no statement
    stopped.send_signal(signal.SIGSTOP)
    told = {"SA_READONLY_READ_WRITE_URL": night.urls[0]}
    on, wait, asked, again = blocks("A worker that hangs")
    assert night.play([on, wait]) == [0, 1]
    assert night.play([asked], **told) == [4]
    (pid,) = {found for line in night.told for found in re.findall(r"backend\((\d+)\)", line)}
    pg_server.query(f"SELECT pg_terminate_backend({pid})")
    assert night.play([again], **told) == [0]
    stopped.send_signal(signal.SIGCONT)
    stopped.stdin.write("insert\n")
    stopped.stdin.close()
    assert stopped.stdout.read() == ""  # its connection is gone
    database = str(make_url(night.urls[0]).database)
    assert pg_server.query("SELECT count(*) FROM written", database=database) == [(8,)]


@once
def test_a_worker_that_hangs_outside_a_transaction_wakes_and_passes_no_check(
    night: Night,
) -> None:
    assert night.play(blocks("The beginning")) == [0]
    night.start(1)
    stopped = night.workers[1]
    stopped.send_signal(signal.SIGSTOP)
    assert night.command("sa-readonly on --reason Upgrade")[0] == 0
    assert night.command("sa-readonly wait --ignore-dead --timeout 40")[0] == 0
    stopped.send_signal(signal.SIGCONT)
    assert night.say(stopped, "write").startswith("refused: ")
    assert night.command("sa-readonly wait --expect 2 --expect-hosts 2")[0] == 0


def fewer(text: str) -> str:
    return (
        text.replace("--expect 8", "--expect 2")
        .replace("8 workers", "2 workers")
        .replace("workers: 8, noticed: 8, drained: 8", "workers: 2, noticed: 2, drained: 2")
        .replace("workers: 8, noticed: 8", "workers: 2, noticed: 2")
    )


# -- users -----------------------------------------------------------------------------------


def test_the_commands_of_the_docs_give_workers_and_operators_their_rights(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = DOCS.read_text().partition("\n### Users\n")[2]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert commands is not None
    etcd.clear()
    try:
        for line in commands[1].splitlines():
            # a password is asked for at the terminal, unless it is given so
            etcd.ctl(*re.sub(r"^(etcdctl user add \S+)$", r"\1:root", line).split()[1:])
        monkeypatch.setenv("SA_READONLY_ETCD_PASSWORD", "root")
        found = {}
        for user in ("shop", "shop-ops"):
            where = Where(etcd=etcd.urls, key=KEY, user=user)
            found[user] = {one.code for one in examine_etcd(where)}
        assert "etcd-rights-in-order" in found["shop"]
        assert "etcd-user-can-flip" in found["shop-ops"]
        assert not any("missing" in code for codes in found.values() for code in codes)
    finally:
        etcd.no_users()
