"""`<file>.history`: what each command adds to it, and what can be in its way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from sa_readonly import FileSwitch
from sa_readonly.command import history_file, record
from sa_readonly.command.file_place import FilePlace
from sa_readonly.command.history_file import LIMIT, FileHistory
from sa_readonly.command.terminal import Failed
from sa_readonly.oneswitch import asked
from sa_readonly.workers import process
from sa_readonly.workers.counts import Begun
from tests.app import SECONDS, App, Book, once
from tests.by_url import end_lingering
from tests.postgres import wait_until
from tests.test_command_on_off import command, file, refused, told
from tests.worker_app import lite, read

__all__ = ["file", "lite"]  # fixtures

HERE = {"user": record._user(), "host": process.host()}


def lines(file: Path) -> list[dict[str, Any]]:
    """What the command tells of the history, each without its time, its user and its host."""
    shown: list[dict[str, Any]] = told("history", "--file", file)["history"]
    for line in shown:
        assert datetime.now(timezone.utc) - datetime.fromisoformat(line.pop("at")) < timedelta(
            minutes=5
        )
        assert {name: line.pop(name) for name in HERE} == HERE
    return shown


def kept(file: Path) -> list[dict[str, Any]]:
    """The lines as they are in the file."""
    return [json.loads(line) for line in Path(f"{file}.history").read_bytes().splitlines()]


def dids(file: Path) -> list[str]:
    return [line["did"] + " found" * line.get("found", False) for line in lines(file)]


def an_hour_earlier(file: Path) -> None:
    """Have the last line say that it was written an hour before."""
    history = Path(f"{file}.history")
    *before, last = map(json.loads, history.read_bytes().splitlines())
    last["at"] = (datetime.fromisoformat(last["at"]) - timedelta(hours=1)).isoformat()
    history.write_text("".join(json.dumps(line) + "\n" for line in [*before, last]))


# -- what is told ----------------------------------------------------------------------------


def test_a_history_in_which_nothing_stands_is_told_and_is_no_error(file: Path) -> None:
    done = command("history", "--file", file)
    said = f"Nothing stands in {file}.history yet.\n"
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", said)
    assert lines(file) == []


def test_each_on_off_and_wait_is_a_line(file: Path) -> None:
    until = "2999-01-31T22:30:00+00:00"
    command("on", "--file", file, "--reason", "Upgrade", "--until", until)
    generation = FileSwitch(file).state.generation
    assert command("wait", "--file", file).exit_code == 3
    command("off", "--file", file)
    on, wait, off = lines(file)
    text = {"reason": "Upgrade", "until": until, "generation": generation}
    assert on == {"did": "on", "changed": True, **text, "forced": []}
    assert wait.pop("seconds") < 5
    assert wait.pop("message").endswith(" s: nobody is registered, so nothing is known")
    assert wait == {
        **text,
        "did": "wait",
        "mode": "read-only",
        "code": 3,
        "not_drained": [],
    }
    assert 0 <= off.pop("seconds") < 60
    assert off == {"did": "off", "changed": True, **text, "not_drained": [], "forced": []}


def test_an_off_tells_how_long_it_was_read_only_through_each_new_text(file: Path) -> None:
    command("on", "--file", file)
    history = Path(f"{file}.history")
    history.write_bytes(history.read_bytes().replace(b'"at": "20', b'"at": "19'))
    command("on", "--file", file, "--until", "+1h")
    command("wait", "--file", file, "--timeout", "0")
    command("off", "--file", file)
    command("on", "--file", file)
    command("off", "--file", file)
    first, second = [line["seconds"] for line in kept(file) if line["did"] == "off"]
    assert first > 1e9
    assert 0 <= second < 60


def test_what_changed_nothing_and_what_was_refused(file: Path) -> None:
    command("off", "--file", file)
    assert command("on", "--file", file, "--reason", "x" * 5000).exit_code == 2
    command("on", "--file", file)
    command("on", "--file", file)
    assert [(line["did"], line["changed"]) for line in lines(file)] == [
        *(("off", False), ("on", True), ("on", False))
    ]


def test_it_was_read_only_from_the_first_on_and_not_from_the_one_that_edited_the_text(
    file: Path,
) -> None:
    command("on", "--file", file)
    an_hour_earlier(file)
    command("on", "--file", file, "--reason", "it takes longer")
    command("off", "--file", file)
    assert 3600 <= kept(file)[-1]["seconds"] < 3660
    command("on", "--file", file)
    command("off", "--file", file)
    assert kept(file)[-1]["seconds"] < 60


def test_a_file_that_was_found_counts_from_its_own_time(file: Path) -> None:
    command("on", "--file", file)
    an_hour_earlier(file)
    file.write_text("by hand")
    command("off", "--file", file)
    assert kept(file)[-1]["seconds"] < 60


def test_a_file_made_removed_or_edited_otherwise_is_added_by_the_next_command(file: Path) -> None:
    file.write_text("by hand")
    assert dids(file) == ["on found"]
    assert kept(file)[0]["reason"] == "by hand"
    assert kept(file)[0]["generation"] == FileSwitch(file).state.generation
    command("off", "--file", file)
    assert dids(file) == ["on found", "off"]
    command("on", "--file", file)
    file.unlink()
    command("wait", "--file", file, "--timeout", "0")
    file.write_text("by hand")
    command("on", "--file", file, "--reason", "mine now")
    file.write_text("edited")
    assert dids(file) == [
        *("on found", "off", "on", "off found", "wait", "on found", "on", "on found")
    ]


def test_an_on_whose_switch_can_not_be_looked_at_afterwards_is_a_line(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: FilePlace) -> None:
        raise Failed("it is away")

    monkeypatch.setattr(FilePlace, "state", fails)
    command("on", "--file", file)
    (line,) = kept(file)
    assert (line["did"], line["changed"], line["generation"]) == ("on", True, None)


def test_what_two_commands_found_out_at_once_is_told_once(file: Path) -> None:
    command("on", "--file", file)
    history = FileHistory(str(file))
    (on,) = kept(file)
    # Another command looked between the flip and its line, and one more just after that.
    found = {"did": "on", "found": True, "generation": on["generation"]}
    history.append(record.encoded(found) * 2)
    assert dids(file) == ["on"]
    command("off", "--file", file)
    assert dids(file) == ["on", "off"]


def test_what_is_told_in_words(file: Path) -> None:
    command("on", "--file", file, "--reason", "Up\x1b[2J\ngrade")
    command("off", "--file", file)
    file.touch()
    shown = command("history", "--file", file).stdout.splitlines()
    by = f"by {HERE['user']} on {HERE['host']}"
    assert [line[26:] for line in shown[:2]] == [
        f"on {by}: Up\\x1b[2J / grade",
        f"off {by}: read-only for 0:00:00",
    ]
    assert shown[2][26:].startswith(f"on, which no command noted: found {by}: since 2")


def test_a_user_of_sudo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "alice")
    assert record._user() == "alice as root"
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert record._user() == "user 4000000000"


def test_a_line_that_would_be_too_long_is_shortened() -> None:
    line = record.encoded(
        {"did": "wait", "message": "\u2028" * 9999, "not_drained": ["\0" * 9999] * 20}
    )
    assert len(line) <= record.LONGEST
    found = record.decoded(line)
    assert found is not None
    assert (found["did"], len(found["message"]), len(found["not_drained"])) == ("wait", 300, 5)


# -- processes that are forced to write ------------------------------------------------------


def test_an_off_tells_what_forced_processes_began_and_who_was_not_drained(
    lite: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = datetime.now(timezone.utc)
    monkeypatch.setattr("sa_readonly.workers.reporting._MINOR", 0)
    monkeypatch.setenv("SA_READONLY_FORCE", "read-write")
    lite.start(ttl=0.05, watch=True)
    read(lite)
    monkeypatch.delenv("SA_READONLY_FORCE")
    command("on", "--file", lite.path)
    for _ in range(3):
        with lite.sessions.begin() as session:
            session.add(Book(title="x"))

    def reported() -> list[int]:  # by this thread, or by the one that is just at it
        lite.selector.check()
        registry = lite.selector.registry
        assert registry is not None
        return [one.report.begun for one in registry.read() if one.report is not None]

    wait_until(lambda: reported() == [4], "the report")
    command("off", "--file", lite.path)
    off = lines(lite.path)[-1]
    (forced,) = off["forced"]
    (why,) = off["not_drained"]
    assert why.endswith(f"pid {os.getpid()} on {process.host()}: forced to read-write")
    assert forced["worker"] in why
    assert forced["transactions"] == 4
    first, last = (datetime.fromisoformat(forced[name]) for name in ("first", "last"))
    assert began <= first < last <= datetime.now(timezone.utc)
    shown = command("history", "--file", lite.path).stdout.splitlines()[-1]
    assert f"forced to read-write: {forced['worker']}, 4 transactions from " in shown


def test_transactions_of_engines_by_url_and_under_autocommit_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", "read-write")
    options = f"plugin=sa_readonly&sa_readonly_file={tmp_path}/read-only.txt"
    engine = create_engine(f"sqlite:///{tmp_path}/a.db?{options}")
    for level in ("SERIALIZABLE", "AUTOCOMMIT"):
        with engine.connect().execution_options(isolation_level=level) as connection:
            connection.execute(text("select 1"))
    shared = asked(engine)
    assert shared is not None
    report = shared.report().report
    assert report is not None
    assert report.begun == 2
    engine.dispose()
    end_lingering()


def test_a_transaction_of_a_signal_handler_is_counted_in_the_middle_of_another() -> None:
    begun = Begun()

    def interrupted() -> None:
        with begun._lock:
            begun.one()

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert (thread.is_alive(), begun.number) == (False, 1)


def test_nothing_is_counted_where_nothing_is_forced(lite: App) -> None:
    lite.start()
    with lite.sessions.begin() as session:
        session.add(Book(title="x"))
    report = lite.selector.report().report
    assert report is not None
    assert (report.begun, report.begun_first, report.begun_last) == (0, None, None)
    assert lite.engines["rw"].dialect._sa_readonly_begun is None


# -- what is in its way ----------------------------------------------------------------------


def _link(path: Path) -> None:
    (path.parent / "secret").write_text("secret\n")
    path.symlink_to("secret")


def _hard_link(path: Path) -> None:
    (path.parent / "secret").write_text("secret\n")
    os.link(path.parent / "secret", path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_link, "Too many levels of symbolic links"),
        (_hard_link, "it has another name, too, and may be another file"),
        (os.mkfifo, "it is no regular file"),
        (Path.mkdir, "Is a directory"),
    ],
)
def test_what_is_no_history_is_not_followed_and_stops_no_flip(
    file: Path, make: Callable[[Path], object], why: str
) -> None:
    make(Path(f"{file}.history"))
    done = command("on", "--file", file, "--reason", "Upgrade")
    assert done.exit_code == 0
    assert f"The line of {file}.history is lost, and nothing else ({why}).\n" in done.stderr
    assert command("off", "--file", file).exit_code == 0
    assert not file.exists()
    secret = file.parent / "secret"
    assert not secret.exists() or secret.read_text() == "secret\n"
    if make is not _hard_link:
        shown = refused(command("history", "--file", file), 1)
        assert shown.startswith(f"{file}.history can't be read: ")


def test_a_huge_file_in_its_place_is_put_aside_and_no_more_than_two_mib_are_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(f"{file}.history", "wb") as huge:
        huge.truncate(1 << 40)
    asked: list[int] = []
    real = os.read
    monkeypatch.setattr(
        os,
        "read",
        lambda fd, size: asked.append(size) or real(fd, size),  # type: ignore[func-returns-value]  # noted by the way
    )
    assert command("on", "--file", file).exit_code == 0
    assert dids(file) == ["on"]
    assert max(asked) == 2 * LIMIT
    assert os.stat(f"{file}.history").st_size < 1000


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\n",
        b"[" * 30000 + b"\n",
        b'{"did": "on"}\n{"did": "on", "at": 1}\n{"did": ["on"], "at": "2029-01-01"}\n[]\n',
        b'{"did": "on", "at": "2029-01-01", "generation": {"a": [1]}, "until": 3}\n',
        b'{"did": "off", "at": "2029-01-01", "forced": [1, {}], "not_drained": 3}\n',
        b'{"did": "off", "at": "2029-01-01", "forced": [{"first": {}}], "seconds": NaN}\n',
        b'{"did": "wait", "at": "2029-01-01", "message": ["x"]}\n',
        b'{"did": "on", "at": "2029-01-01", "generation": ' + b"[" * 990 + b"]" * 990 + b"}\n",
        b'{"did": "off", "at": "2029-01-01", "seconds": 1e999}\n',
        b'{"at": "2029-01-01", "did": "o',
    ],
)
def test_lines_of_another_hand_harm_no_command_and_no_other_line(
    file: Path, content: bytes
) -> None:
    Path(f"{file}.history").write_bytes(content)
    assert command("on", "--file", file).exit_code == 0
    assert command("off", "--file", file).exit_code == 0
    done = command("history", "--file", file)
    assert done.exit_code == 0, done.exception
    for line in told("history", "--file", file)["history"]:
        json.dumps(line, allow_nan=False)
    assert [line.split()[2] for line in done.stdout.splitlines()[-2:]] == ["on", "off"]


@once
def test_it_is_rotated_at_one_mib_and_the_one_before_is_read_too(file: Path) -> None:
    history = FileHistory(str(file))
    line = record.encoded({"did": "wait", "message": "x" * 1000})
    for _ in range(LIMIT // len(line) + 1):
        history.append(line)
    first, second = (Path(f"{file}.history{end}") for end in (".1", ""))
    assert LIMIT - len(line) < first.stat().st_size <= LIMIT
    assert second.stat().st_size == len(line)
    assert len(lines(file)) == LIMIT // len(line) + 1
    # Where there is something else in its place, it is not made longer than that.
    first.unlink()
    first.mkdir()
    second.write_bytes(b"\n" * LIMIT)
    assert "is lost" in command("on", "--file", file).stderr
    assert second.stat().st_size == LIMIT


def test_a_lock_that_is_held_for_ever_holds_up_no_command(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl  # noqa: PLC0415  # not on Windows

    monkeypatch.setattr(history_file, "_PAUSE", 0.001)
    command("on", "--file", file)
    with open(f"{file}.history", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert command("off", "--file", file).exit_code == 0
        assert dids(file) == ["on", "off"]


def test_only_users_of_the_directorys_group_may_read_it(file: Path) -> None:
    for mode, expected in ((0o755, 0o640), (0o2770, 0o660), (0o700, 0o600), (0o777, 0o600)):
        file.parent.chmod(mode)
        command("off", "--file", file)
        found = Path(f"{file}.history")
        assert found.stat().st_mode & 0o777 == expected
        found.unlink()


# -- a full disk -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["open", "write", "short write", "fsync"])
def test_a_full_disk_loses_the_line_says_so_and_stops_no_flip(
    file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    command("on", "--file", file)
    before = Path(f"{file}.history").read_bytes()
    fails = step.rpartition(" ")[2]
    real = getattr(os, fails)

    def full(first: Any, *more: Any) -> Any:
        there = first if step == "open" else os.readlink(f"/proc/self/fd/{first}")
        if not str(there).endswith(".history") or (step == "open" and not more[0] & os.O_CREAT):
            return real(first, *more)
        if step == "short write":
            return real(first, more[0][:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, fails, full)
        done = command("off", "--file", file)
    assert done.exit_code == 0
    assert not file.exists()
    assert done.stderr == (
        f"The line of {file}.history is lost, and nothing else (No space left on device).\n"
    )
    assert Path(f"{file}.history").read_bytes() == before
    assert dids(file) == ["on", "off found"]


@contextmanager
def mounted(directory: Path, size: str) -> Iterator[Path]:
    directory.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED on a full disk: no tmpfs can be mounted ({done.stderr.strip()})")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def _fill(disk: Path, but: int) -> None:
    """Fill the disk, but so many blocks."""
    free = os.statvfs(disk)
    with (disk / "filler").open("ab") as filler:
        filler.write(b"x" * (free.f_bavail - but) * free.f_bsize)


@once
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED on a full disk: only root may mount a tmpfs")
    with mounted(tmp_path / "disk", "64k") as disk:
        file = disk / "read-only.txt"
        _fill(disk, 1)  # for the file itself, which the flip takes first
        done = command("on", "--file", file, "--reason", "Upgrade")
        assert done.exit_code == 0, done.stderr
        lost = f"The line of {file}.history is lost, and nothing else (No space left on device).\n"
        assert lost in done.stderr
        assert file.read_text() == "Upgrade\n"
        assert os.statvfs(disk).f_bavail == 0
        assert command("wait", "--file", file).stderr.count(lost) == 1
        # What `off` has removed has room for the line of the `off`, and for what was not noted.
        assert command("off", "--file", file).stderr == ""
        assert dids(file) == ["on found", "off"]
        _fill(disk, 0)
        Path(f"{file}.history").write_bytes(b"\n" * 4095)  # the rest of its only block
        done = command("off", "--file", file)
        assert (done.exit_code, done.stderr) == (0, lost)
        assert Path(f"{file}.history").read_bytes() == b"\n" * 4095


# -- the end of the command ------------------------------------------------------------------

STEPS = ("open", "write", "fsync", "replace", "unlink", "ftruncate", "fchmod", "close", "read")


def _killed_at(step: int, when: str, *arguments: str | Path) -> int:
    """Run the command in a child that kills itself at a call, before or after that is done.

    A write that is killed has written half. Return the exit code: -9, or how many calls there were.
    """
    numbers = count()

    def watched(name: str) -> Any:
        real = getattr(os, name)

        def function(first: Any, *more: Any, **options: Any) -> Any:
            where = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
            if "read-only.txt" not in where and ".sa_readonly-" not in where:
                return real(first, *more, **options)
            number = next(numbers)
            if number == step and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if number == step and name == "write":
                more = (more[0][: len(more[0]) // 2], *more[1:])
            try:
                return real(first, *more, **options)
            finally:
                if number == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        return function

    pid = os.fork()
    if pid == 0:
        try:
            for name in STEPS:
                setattr(os, name, watched(name))
            assert command(*arguments).exit_code == 0
            os._exit(next(numbers))
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _survives(file: Path, did: str, *, full: bool) -> int:
    """Kill a command at each step; what was there before is whole, and the flip is told.

    :param full: whether the command rotates the history.
    """
    steps = ((step, when) for step in range(1000) for when in ("before", "after"))
    for number, (step, when) in enumerate(steps):
        for path in file.parent.iterdir():
            path.unlink()
        command("on", "--file", file, "--reason", "before")
        if did == "on":
            command("off", "--file", file)
        if full:
            with open(f"{file}.history", "ab") as history:
                history.write(b" " * (LIMIT - history.tell() - 1) + b"\n")
        before = kept_whole(file)
        code = _killed_at(step, when, did, "--file", file)
        if code >= 0:
            assert code == step
            return number
        assert code == -signal.SIGKILL
        moved = file.exists() is (did == "on")
        shown = lines(file)
        assert kept_whole(file)[: len(before)] == before
        turned = [line["did"] for line in shown[len(before) :]]
        assert turned == ([did] if moved else []), (step, when, shown)
        # The next commands go on, whatever was left.
        command(did, "--file", file)
        command("off", "--file", file)
        assert lines(file)[-1]["did"] == "off"
        assert len({line["generation"] for line in lines(file) if line["did"] == "on"}) == 1 + (
            did == "on"
        )
    raise AssertionError("it never came to its end")


def kept_whole(file: Path) -> list[dict[str, Any]]:
    """The lines that are whole, as they are in the file."""
    content = FileHistory(str(file)).read()
    return [line for line in map(record.decoded, content) if line is not None]


@once
@pytest.mark.parametrize("full", [False, True], ids=["", "rotating"])
@pytest.mark.parametrize("did", ["on", "off"])
def test_it_survives_kill_9_of_the_command_at_each_step(file: Path, did: str, full: bool) -> None:
    assert _survives(file, did, full=full) > 20


@pytest.mark.parametrize("did", ["on", "off"])
def test_a_line_that_a_killed_command_left_half_written_costs_no_other(
    file: Path, did: str
) -> None:
    file.write_text("by hand")
    history = Path(f"{file}.history")
    command("off", "--file", file)
    whole = history.read_bytes()
    history.write_bytes(whole + record.encoded({"did": "on"})[:40])
    command("on", "--file", file)
    assert dids(file) == ["on found", "off", "on"]
    answer = told("history", "--file", file)
    assert answer["damaged"] == 1
    assert history.read_bytes().startswith(whole)
