"""`sa-readonly wait`, and `on` and `off` that wait, for workers that are processes of their own."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sa_readonly import FileSwitch, Mode
from sa_readonly.command.obstacles import Reply
from sa_readonly.command.waiting import Progress, WorkersWait
from sa_readonly.workers.directory import DirectoryRegistry
from sa_readonly.workers.process import _program
from sa_readonly.workers.protocol import Report
from tests.forked import Forked
from tests.test_command_on_off import ROOT, command, nobody, refused, running
from tests.worker_process import identity, obey

STANDBY = "--standby (SA_READONLY_STANDBY_URL) needs --read-write (SA_READONLY_READ_WRITE_URL)."

ONLY = r" \(only registered workers are known; --expect N tells how many there must be\)"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


class Worker:
    """What a worker does."""

    pid: int
    program: str

    @property
    def called(self) -> str:
        return f"{self.program} pid {self.pid} on {os.uname().nodename}"

    def do(self, *lines: str) -> None:
        raise NotImplementedError

    def writes(self) -> None:
        self.do("withdraw", "report read-write 0")

    def notices(self, connections: str = "0") -> None:
        self.do("closed", f"report read-only {connections}")


class Inside(Worker):
    """One in this process, which is there at once; its lock is as good as another one's."""

    def __init__(self, file: Path) -> None:
        self.pid, self.program = os.getpid(), _program()
        self.file = str(file)
        self.entry = DirectoryRegistry(f"{file}.workers").register(lambda: identity(self.file))

    def do(self, *lines: str) -> None:
        for line in lines:
            obey(self.file, self.entry, line.split())


class Process(Worker):
    """One that is a process of its own."""

    program = "worker_process.py"

    def __init__(self, file: Path) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.popen = Forked("tests.worker_process", f"{file}.workers", str(file), **pipes)
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline().startswith("ok ")
        self.pid = self.popen.pid

    def do(self, *lines: str) -> None:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        for line in lines:
            self.popen.stdin.write(f"{line}\n")
            self.popen.stdin.flush()
            assert self.popen.stdout.readline().startswith("ok ")

    def dies(self) -> None:
        self.popen.kill()
        self.popen.wait(10)


class Site:
    """A file, and the workers that report beside it."""

    def __init__(self, file: Path, stack: ExitStack) -> None:
        self.file = file
        self.stack = stack

    def worker(self) -> Inside:
        worker = Inside(self.file)
        self.stack.callback(worker.entry.close)
        worker.writes()
        return worker

    def process(self) -> Process:
        worker = Process(self.file)
        self.stack.callback(worker.popen.communicate)
        self.stack.callback(worker.popen.kill)
        worker.writes()
        return worker

    def runs(self, *arguments: str, **options: Any) -> Forked:
        where = ("--file", str(self.file))
        return self.stack.enter_context(running(*arguments, *where, **{**PIPES, **options}))

    def told(self, code: int, *arguments: str) -> dict[str, Any]:
        done = command(*arguments, "--json", "--file", self.file)
        assert done.exit_code == code, done.output
        answer: dict[str, Any] = json.loads(done.stdout)
        assert answer["code"] == code
        return answer

    def line(self, code: int, *arguments: str) -> str:
        """The last line of the command, run in this process."""
        done = command(*arguments, "--file", self.file)
        assert done.exit_code == code, done.output
        return done.stdout.splitlines()[-1]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path / "read-only.txt", stack)


def read_until(process: Forked, text: str) -> str:
    """The next line that has the text; the command is killed if it doesn't come."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"it ended without {text!r}")


# -- drained, and why not --------------------------------------------------------------------


def test_on_waits_until_every_worker_has_noticed_and_holds_no_connection(site: Site) -> None:
    one, two = site.process(), site.process()
    process = site.runs("on", "--wait")
    line = read_until(process, "not drained")
    assert f"{one.called}: has not noticed" in line
    assert f"{two.called}: has not noticed" in line
    one.notices()
    assert f"{one.called}" not in read_until(process, "not drained")
    two.notices("2 14")
    assert re.search(
        rf"s: {re.escape(two.called)}: 2 connections out since 1[4-9] s$",
        read_until(process, "connections"),
    )
    two.notices()
    stdout, stderr = process.communicate()
    assert re.fullmatch(rf"drained after \d+\.\d s: 2 workers{ONLY}\n", stdout), stdout
    assert (process.returncode, stderr) == (0, "")


def test_off_waits_until_every_worker_writes_again(site: Site) -> None:
    worker = site.worker()
    site.file.touch()
    worker.notices()
    process = site.runs("off", "--wait")
    assert f"{worker.called}: has not noticed" in read_until(process, "not read-write")
    worker.writes()
    stdout, stderr = process.communicate()
    assert re.fullmatch(rf"read-write after \d+\.\d s: 1 worker{ONLY}\n", stdout), stdout
    assert (process.returncode, stderr) == (0, "")


def test_what_has_held_already_holds_at_once_and_on_again_is_no_error(site: Site) -> None:
    worker = site.worker()
    site.file.touch()
    worker.notices()
    for arguments in (["on", "--wait"], ["wait"], ["wait", "--timeout", "0"]):
        assert site.line(0, *arguments).startswith("drained after 0.")
    assert site.told(0, "on", "--wait")["changed"] is False


def test_when_time_is_up_it_exits_with_1_names_who_is_not_and_says_that_the_file_stays(
    site: Site,
) -> None:
    worker = site.worker()
    done = command("on", "--wait", "--timeout", "0.3", "--file", site.file)
    assert done.exit_code == 1
    assert re.fullmatch(
        rf"not drained after 0\.[3-9] s: {re.escape(worker.called)}: has not noticed",
        done.stdout.splitlines()[-1],
    )
    stays = f"{site.file} stays: the application is read-only until `sa-readonly off`."
    assert done.stderr == f"Time is up. {stays}\n"
    assert site.file.exists()


def test_a_worker_killed_without_a_word_is_unknown_unless_it_is_to_be_ignored(site: Site) -> None:
    killed, other = site.process(), site.process()
    site.file.touch()
    other.notices()
    killed.dies()
    died = rf"not drained after .* s: {re.escape(killed.called)}: unknown: died without a word"
    assert re.fullmatch(died, site.line(1, "wait", "--timeout", "0"))
    line = site.line(0, "wait", "--ignore-dead")
    assert re.fullmatch(rf"drained after .* s: 1 worker, ignoring 1 that died{ONLY}", line)


def test_a_worker_that_died_before_the_file_was_made_is_not_held_against_it(site: Site) -> None:
    site.process().dies()
    other = site.process()  # whose registration sweeps, so that one more must die
    site.process().dies()
    process = site.runs("on", "--wait")
    read_until(process, "has not noticed")
    other.notices()
    assert process.wait() == 0


def test_a_stopped_worker_is_named_and_not_taken_for_dead(site: Site) -> None:
    worker = site.process()
    worker.popen.send_signal(signal.SIGSTOP)
    line = site.line(1, "on", "--wait", "--timeout", "0", "--ignore-dead")
    assert line.endswith(f"{worker.called}: has not noticed")
    process = site.runs("wait")
    read_until(process, "has not noticed")
    worker.popen.send_signal(signal.SIGCONT)
    worker.notices()
    assert process.wait() == 0


def test_an_entry_that_is_damaged_is_named_and_never_drained(site: Site) -> None:
    worker = site.worker()
    site.file.touch()
    worker.notices()
    (report,) = Path(f"{site.file}.workers").glob("*.json")
    report.write_bytes(report.read_bytes()[:-9])
    line = site.line(1, "wait", "--timeout", "0")
    assert line.endswith(
        f"a process pid {worker.pid} on {os.uname().nodename}: its report is damaged"
    )


def test_a_file_that_is_replaced_must_be_noticed_anew(site: Site) -> None:
    worker = site.worker()
    command("on", "--file", site.file)
    worker.notices()
    assert site.line(0, "wait").startswith("drained")
    command("on", "--reason", "Another", "--file", site.file)
    assert site.line(1, "wait", "--timeout", "0").endswith(f"{worker.called}: has not noticed")


def test_the_last_line_names_twenty_workers_and_counts_the_others(site: Site) -> None:
    registry = DirectoryRegistry(f"{site.file}.workers")
    for _ in range(23):
        site.stack.callback(registry.register(lambda: None).close)
    line = site.line(1, "on", "--wait", "--timeout", "0")
    assert line.count("has not reported") == 20
    assert line.endswith("; and 3 more")
    assert len(site.told(1, "wait", "--timeout", "0")["workers"]) == 23


# -- nobody, and how many --------------------------------------------------------------------


def test_where_nobody_is_registered_it_exits_with_3_at_once_and_the_file_stays(site: Site) -> None:
    done = command("on", "--wait", "--file", site.file)
    assert done.exit_code == 3
    line = r"not known after 0\.\d s: nobody is registered, so nothing is known"
    assert re.fullmatch(line, done.stdout.splitlines()[-1])
    stays = f"{site.file} stays: the application is read-only until `sa-readonly off`.\n"
    assert done.stderr == nobody(site.file) + stays
    assert (
        site.line(3, "off", "--wait") == "not known after 0.0 s: nobody is registered, so "
        "nothing is known"
    )


def test_who_is_expected_is_waited_for_also_where_nobody_is_registered(site: Site) -> None:
    site.file.touch()
    line = site.line(3, "wait", "--expect", "2", "--timeout", "0.1")
    assert line.endswith("nobody is registered, 2 are expected, so nothing is known")
    process = site.runs("wait", "--expect", "2")
    read_until(process, "nobody is registered")
    site.worker().notices()
    assert "1 of 2 expected workers are registered" in read_until(process, "1 of 2")
    site.worker().notices()  # of the same process, which counts once
    other = site.process()
    other.notices()
    stdout, _ = process.communicate()
    assert re.fullmatch(r"drained after \d+\.\d s: 2 workers\n", stdout.splitlines(True)[-1])
    assert process.returncode == 0


def test_the_dead_do_not_count_as_expected(site: Site) -> None:
    one, two = site.process(), site.process()
    site.file.touch()
    one.notices()
    two.notices()
    assert site.line(0, "wait", "--expect", "2").endswith(": 2 workers")
    two.dies()
    line = site.line(1, "wait", "--expect", "2", "--timeout", "0", "--ignore-dead")
    assert line.endswith(": 1 of 2 expected workers are registered")


def test_those_of_whom_only_the_dead_are_left_are_nobody(site: Site) -> None:
    worker = site.process()
    site.file.touch()
    worker.notices()
    worker.dies()
    assert "nobody is registered" in site.line(3, "wait")


# -- the switch moves ------------------------------------------------------------------------


def test_a_wait_that_meets_an_off_says_so_and_ends_with_1(site: Site) -> None:
    site.worker()
    process = site.runs("on", "--wait")
    read_until(process, "has not noticed")
    command("off", "--file", site.file)
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (1, "")
    said = "the file has gone meanwhile, somebody turned it off"
    assert re.fullmatch(rf"not drained after \d+\.\d s: {said}\n", stdout)


def test_a_wait_for_read_write_that_meets_an_on_says_so_and_ends_with_1(site: Site) -> None:
    worker = site.worker()
    site.file.touch()
    worker.notices()
    process = site.runs("off", "--wait")
    read_until(process, "has not noticed")
    command("on", "--file", site.file)
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (1, "")
    said = "the file is there again, somebody turned it on"
    assert re.fullmatch(rf"not read-write after \d+\.\d s: {said}\n", stdout)


def test_a_wait_for_the_mode_that_is_not_set_ends_with_1_at_once(site: Site) -> None:
    site.worker()
    line = site.line(1, "wait")
    assert line.endswith("the file is not there, it is read-write; turn it on first")
    site.file.touch()
    line = site.line(1, "wait", "--mode", "read-write")
    assert line.endswith("the file is there, it is read-only; turn it off first")


def test_a_file_that_cannot_be_looked_at_is_told_until_it_can(tmp_path: Path) -> None:
    home, workers = tmp_path / "home", tmp_path / "workers"
    home.mkdir()
    file = home / "read-only.txt"
    file.touch()
    switch = FileSwitch(file)
    entry = DirectoryRegistry(workers).register(switch.identify)
    with running("wait", "--file", file, "--workers", workers, **PIPES) as process:
        read_until(process, "has not reported")
        home.rename(tmp_path / "unmounted")
        assert "the file can't be looked at: [Errno 2]" in read_until(process, "can't be")
        (tmp_path / "unmounted").rename(home)
        read_until(process, "has not reported")
        entry.closed()
        entry.report(lambda: Report(Mode.READ_ONLY, switch.identify()))
        assert process.wait() == 0
    entry.close()


# -- ended by the operator -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, 143, "Ended.")],
)
def test_ended_by_a_signal_it_says_that_the_file_stays(
    site: Site, number: signal.Signals, code: int, word: str
) -> None:
    site.worker()
    process = site.runs("on", "--wait")
    read_until(process, "has not noticed")
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert process.returncode == code
    assert re.fullmatch(r"not drained after .*: has not noticed\n", stdout)
    stays = f"{site.file} stays: the application is read-only until `sa-readonly off`."
    assert stderr == f"{word} {stays}\n"
    assert site.file.exists()


def test_interrupted_with_json_it_still_prints_its_one_document(site: Site) -> None:
    worker = site.worker()
    code = """
import sys
from sa_readonly.cli import main
def told(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".lock"):
        print("looked", file=sys.stderr, flush=True)
sys.addaudithook(told)
main()
"""
    whole = [sys.executable, "-c", code, "on", "--wait", "--json", "--file", str(site.file)]
    with subprocess.Popen(whole, cwd=ROOT, text=True, **PIPES) as process:
        assert process.stderr is not None
        for _ in range(8):  # three looks come before it waits
            assert process.stderr.readline() == "looked\n"
        process.send_signal(signal.SIGINT)
        answer = json.loads(process.communicate()[0])
    assert (process.returncode, answer["code"], answer["holds"]) == (130, 130, False)
    assert answer["message"].endswith(f"{worker.called}: has not noticed")


# -- JSON, status and the terminal -----------------------------------------------------------


def test_json_is_one_document_that_tells_each_worker_and_the_verdict(site: Site) -> None:
    worker = site.process()
    answer = site.told(1, "on", "--wait", "--timeout", "0.2", "--reason", "Upgrade")
    assert {name: answer[name] for name in ("changed", "mode", "reason")} == {
        "changed": True,
        "mode": "read-only",
        "reason": "Upgrade",
    }
    assert (answer["awaited"], answer["holds"], answer["drained"]) == ("read-only", False, False)
    worker.notices("1 14")
    answer = site.told(1, "wait", "--timeout", "0", "--expect", "1")
    (one,) = answer["workers"]
    assert re.fullmatch(r"1 connection out since 1[4-9] s", one["why"])
    told = ("host", "pid", "program", "mode", "connections", "liveness", "noticed", "drained")
    assert [one[name] for name in told] == [
        *(os.uname().nodename, worker.popen.pid, "worker_process.py", "read-only"),
        *(1, "alive", True, False),
    ]
    assert answer["sums"] == {
        "workers": 1,
        "noticed": 1,
        "drained": 0,
        "died_without_a_word": 0,
        "waiting": 1,
        "settled": 0,
    }
    worker.notices()
    answer = site.told(0, "wait", "--expect", "1")
    assert (answer["holds"], answer["drained"], answer["settled"]) == (True, True, 1)
    assert (answer["changed"], answer["expected"], answer["server"]) == (False, 1, None)
    assert 0 <= answer["seconds"] < 10
    assert re.fullmatch(r"drained after \d\.\d s: 1 worker", answer["message"])
    assert answer["workers"][0]["why"] is None


def test_status_tells_each_worker_and_the_sums_in_either_mode(site: Site) -> None:
    one, two = site.process(), site.process()
    lines = command("status", "--file", site.file).stdout.splitlines()
    assert sorted(lines[-3:-1]) == sorted(f"{w.called}: read-write" for w in (one, two))
    assert lines[-1] == "workers: 2, noticed: 2, drained: 0"
    site.file.touch()
    one.notices()
    lines = command("status", "--file", site.file).stdout.splitlines()
    assert f"{one.called}: read-only, drained" in lines
    assert f"{two.called}: read-write, has not noticed" in lines
    assert lines[-1] == "workers: 2, noticed: 1, drained: 1"
    two.dies()
    assert site.line(0, "status").endswith("drained: 1, died without a word: 1")


def test_status_watches_the_workers_too(site: Site) -> None:
    worker = site.worker()
    site.file.touch()
    process = site.runs("status", "--watch")
    read_until(process, "workers: 1, noticed: 0, drained: 0")
    worker.notices("2")
    read_until(process, "workers: 1, noticed: 1, drained: 0")
    worker.notices()
    read_until(process, "workers: 1, noticed: 1, drained: 1")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0


def test_on_a_terminal_a_table_lives_and_the_last_line_stands_below_it(site: Site) -> None:
    worker = site.worker()
    kept = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    ours, theirs = pty.openpty()
    terminal = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    environment = {**kept, "TERM": "xterm-256color", "COLUMNS": "150", "LINES": "30"}
    process = site.runs("on", "--wait", env=environment, **terminal)
    os.close(theirs)
    output = ""

    def read(text: str) -> None:
        nonlocal output
        while text not in output:
            output += os.read(ours, 4096).decode()

    read("has not noticed")
    assert "0 of 1 drained" in output
    read("Ctrl-C ends the waiting; the mode stays as it is.")
    worker.notices()
    read("1 of 1 drained")
    read("drained after ")
    read("how many there must be)")
    assert process.wait() == 0
    os.close(ours)


# -- where the workers are, and usage --------------------------------------------------------


def test_the_workers_directory_is_given_or_in_the_environment_or_beside_the_file(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = str(site.file.with_name("one")), str(site.file.with_name("two"))

    def told(*arguments: str, **environment: str) -> str:
        done = command("status", "--json", "--file", site.file, *arguments, **environment)
        return str(json.loads(done.stdout)["workers_directory"])

    assert told() == f"{site.file}.workers"
    assert told(SA_READONLY_WORKERS=one) == one
    assert told("--workers", two, SA_READONLY_WORKERS=one) == two
    monkeypatch.chdir(site.file.parent)
    assert told("--workers", "one") == one


def test_a_workers_directory_that_cannot_be_used_is_told_and_never_drained(site: Site) -> None:
    other = site.file.with_name("other")
    other.mkdir()
    Path(f"{site.file}.workers").symlink_to(other)
    line = site.line(1, "on", "--wait", "--timeout", "0")
    assert "is a symlink, which is not followed." in line
    shutil.rmtree(other)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["on", "--timeout", "5"], "--timeout needs --wait."),
        (["on", "--expect", "5"], "--expect needs --wait."),
        (["on", "--ignore-dead"], "--ignore-dead needs --wait."),
        (["on", "--read-write", "x"], "--read-write needs --wait."),
        (["on", "--standby", "x"], "--standby needs --wait."),
        (["off", "--timeout", "5"], "--timeout needs --wait."),
        (
            ["on", "--wait", "--standby", "x"],
            STANDBY,
        ),
        (
            ["wait", "--mode", "read-write", "--read-write", "x"],
            "--read-write is for --mode read-only only.",
        ),
        (
            ["wait", "--mode", "read-write", "--ignore-dead"],
            "--ignore-dead is for --mode read-only only.",
        ),
        (["wait", "--expect", "0"], "Invalid value for '--expect': 0 is not in the range x>=1."),
        (
            ["wait", "--timeout", "soon"],
            "Invalid value for '--timeout': 'soon' is no duration, such as 90, 90s, 10m or 2h.",
        ),
        (
            ["wait", "--timeout", "9" * 400],
            "Invalid value for '--timeout': so long no calendar reaches.",
        ),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error_and_change_nothing(
    site: Site, arguments: list[str], error: str
) -> None:
    assert refused(command(*arguments, "--file", site.file), 2) == error
    assert not site.file.exists()


# -- between the workers and the server ------------------------------------------------------


class Asked:
    """A server that agrees, while something happens."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self.happens = happens

    def ask(self) -> Reply:
        self.happens()
        return Reply()


def test_what_happens_while_the_server_is_asked_is_seen(site: Site) -> None:
    worker = site.worker()
    switch = FileSwitch(site.file)
    registry = DirectoryRegistry(f"{site.file}.workers")

    def look(happens: Callable[[], object]) -> Progress:
        switch.enable()
        worker.notices()
        asked = Asked(happens)
        return WorkersWait(switch.identify, registry, server=asked, timeout=0).round()

    assert look(lambda: None).holds
    gone = look(switch.disable)
    assert (gone.code, gone.moved, gone.over) == (1, True, True)
    replaced = look(lambda: switch.enable("Another"))
    assert (replaced.code, replaced.moved) == (1, False)
    assert "has not noticed" in str(replaced)
    held = look(lambda: worker.notices("1"))
    assert "1 connection out" in str(held)
