"""`sa-readonly on`, `off` and `status`, without workers."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sa_readonly import FileSwitch
from sa_readonly.cli import main
from tests.forked import Forked
from tests.workers import fail

ROOT = Path(__file__).parent.parent
COMMANDS = ["on", "off", "status", "wait"]
NEXT = "Processes notice within their ttl; each logs it once."


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "read-only.txt"


def command(*arguments: str | Path, **environment: str) -> Result:
    cleared: dict[str, str | None] = {"SA_READONLY_FILE": None, "SA_READONLY_FORCE": None}
    return CliRunner().invoke(
        main, [str(a) for a in arguments], prog_name="sa-readonly", env={**cleared, **environment}
    )


def told(*arguments: str | Path, **environment: str) -> dict[str, Any]:
    done = command(*arguments, "--json", **environment)
    assert done.exit_code == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def refused(done: Result, code: int) -> str:
    assert (done.exit_code, done.stdout) == (code, "")
    assert isinstance(done.exception, SystemExit)
    return " ".join(done.stderr.split("Error: ")[1].split())


def nobody(file: Path) -> str:
    return (
        f"Nobody is registered in {file}.workers: whether any process obeys is not known. If the "
        "application's workers report elsewhere, give --workers DIR.\n"
    )


@contextmanager
def running(*arguments: str | Path, **options: Any) -> Iterator[Forked]:
    """The command in a process of its own, which is killed if it hangs."""
    with Forked("sa_readonly.cli", *map(str, arguments), **options) as process:
        hangs = Timer(60, process.kill)
        hangs.start()
        try:
            yield process
        finally:
            hangs.cancel()
            process.kill()


def python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_on_creates_the_file_and_off_removes_it_for_a_real_process(file: Path) -> None:
    environment = {**os.environ, "SA_READONLY_FILE": str(file)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    with running("on", "--reason", "Upgrade", "--until", "+30m", **pipes) as process:
        stdout, stderr = process.communicate()
    assert process.returncode == 0
    assert stderr == nobody(file)
    assert re.fullmatch(
        rf"file     {re.escape(str(file))}\n"
        r"mode     read-only\n"
        r"reason   Upgrade\n"
        r"until    \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d\n"
        r"since    \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d\n"
        rf"workers  {re.escape(str(file))}\.workers\n"
        r"changed  yes\n"
        rf"{re.escape(NEXT)} `sa-readonly wait` tells .*\n",
        stdout,
    ), stdout
    assert FileSwitch(file).state.reason == "Upgrade"
    with running("off", "--json", **pipes) as process:
        stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")
    assert json.loads(stdout)["changed"] is True
    assert not file.exists()


def test_json_tells_the_whole_state_and_nothing_else(file: Path) -> None:
    answer = told("on", "--file", file, "--reason", "Upgrade", "--until", "2999-01-31T23:30+01:00")
    state = FileSwitch(file).state
    assert state.since is not None
    at = answer.pop("at")
    assert state.since <= datetime.fromisoformat(at) <= datetime.now(timezone.utc)
    assert answer == {
        "file": str(file),
        "workers_directory": f"{file}.workers",
        "mode": "read-only",
        "reason": "Upgrade",
        "until": "2999-01-31T22:30:00+00:00",
        "overdue": False,
        "since": state.since.isoformat(),
        "generation": state.generation,
        "announced": None,
        "sums": {
            "workers": 0,
            "noticed": 0,
            "drained": 0,
            "died_without_a_word": 0,
            "waiting": 0,
            "settled": 0,
        },
        "held": {"now": 0, "longest": None},
        "workers": [],
        "changed": True,
        "forced": None,
    }


def test_a_relative_path_is_told_as_an_absolute_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert told("status", "--file", file.name)["file"] == str(file)


def test_file_goes_before_the_environment_variable(file: Path) -> None:
    other = str(file.with_name("other.txt"))
    assert told("status", SA_READONLY_FILE=other)["file"] == other
    assert told("status", "--file", file, SA_READONLY_FILE=other)["file"] == str(file)


def test_on_again_changes_nothing_when_the_text_is_the_same_or_not_given(file: Path) -> None:
    text = ["--reason", "Upgrade\r\nof 18 ", "--until", "2999-01-31T23:30"]
    assert told("on", "--file", file, *text)["changed"] is True
    before = file.stat()
    for again in (text, []):
        answer = told("on", "--file", file, *again)
        assert (answer["changed"], answer["reason"]) == (False, "Upgrade\nof 18")
    assert file.stat() == before


def test_what_is_not_given_of_the_text_stays(file: Path) -> None:
    told("on", "--file", file, "--reason", "Upgrade", "--until", "+30m")
    answer = told("on", "--file", file, "--reason", "Failover")
    assert (answer["changed"], answer["reason"]) == (True, "Failover")
    assert answer["until"] is not None
    answer = told("on", "--file", file, "--until", "2999-01-31T22:30Z")
    assert (answer["changed"], answer["reason"]) == (True, "Failover")
    assert answer["until"] == "2999-01-31T22:30:00+00:00"


def test_off_where_nothing_is_is_no_error_and_changes_nothing(file: Path) -> None:
    answer = told("off", "--file", file)
    assert (answer["changed"], answer["mode"], answer["since"]) == (False, "read-write", None)


def test_status_exits_with_0_in_either_mode_and_changes_nothing(file: Path) -> None:
    assert (told("status", "--file", file)["mode"], file.exists()) == ("read-write", False)
    file.write_text("Upgrade\n")
    before = file.stat()
    answer = told("status", "--file", file)
    assert (answer["mode"], answer["changed"]) == ("read-only", False)
    assert file.stat() == before


def test_what_is_past_until_is_overdue(file: Path) -> None:
    file.write_text("until: 2020-01-31T22:30Z\n")
    assert told("status", "--file", file)["overdue"] is True
    assert re.search(
        r"^until    2020-.* \(overdue\)$", command("status", "--file", file).stdout, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("given", "seconds"), [("+90s", 90), ("+30m", 1800), ("+2h", 7200), ("+1d", 86400)]
)
def test_until_takes_a_duration_from_now(file: Path, given: str, seconds: int) -> None:
    earliest = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=seconds)
    until = datetime.fromisoformat(told("on", "--file", file, "--until", given)["until"])
    assert earliest <= until <= datetime.now(timezone.utc) + timedelta(seconds=seconds)


def test_until_without_an_offset_is_local_time(file: Path) -> None:
    code = "from sa_readonly.cli import main; main()"
    arguments = ["on", "--json", "--file", str(file), "--until", "2999-01-31T23:30"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "TZ": "XXX-05:30"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["until"] == "2999-01-31T18:00:00+00:00"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("2020-01-31T22:30Z", "2020-01-31T22:30Z is not in the future: it means 20"),
        ("+0m", "+0m is not in the future: it means 20"),
        ("tomorrow", "'tomorrow' is neither an ISO 8601 time, such as 2030-01-31T23:30 (local"),
        ("+5", "'+5' is neither an ISO 8601 time"),
        ("+99999999999d", "so far from now no calendar reaches."),
        pytest.param("+" + "9" * 5000 + "s", "so far from now no calendar reaches.", id="digits"),
    ],
)
def test_until_that_is_past_or_no_time_is_refused(file: Path, given: str, error: str) -> None:
    said = refused(command("on", "--file", file, "--until", given), 2)
    assert said.startswith(f"Invalid value for '--until': {error}")
    assert not file.exists()


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("until: 2030-01-31", "reason has a line that would be read as until."),
        pytest.param("x" * 5000, "reason is too long: 5001 bytes", id="long"),
        ("\udcff", "'utf-8' codec can't encode"),
    ],
)
def test_a_reason_that_cannot_be_read_back_is_refused(file: Path, reason: str, error: str) -> None:
    said = refused(command("on", "--file", file, "--reason", reason), 2)
    assert said.startswith(f"The file is not written: {error}")
    assert not file.exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_path_the_command_exits_with_2_and_says_how_to_give_it(name: str) -> None:
    for done in (command(name), command(name, "--file", ""), command(name, SA_READONLY_FILE="")):
        said = (
            "Give --file PATH, or set the environment variable SA_READONLY_FILE; or --etcd URLS "
            "(SA_READONLY_ETCD) and --key KEY (SA_READONLY_KEY)."
        )
        assert refused(done, 2) == said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_that_is_given_as_an_argument_is_answered_with_the_option(
    file: Path, name: str
) -> None:
    for arguments in ([file], ["--file", "another", file], [file, "--json"]):
        said = refused(command(name, *arguments), 2)
        assert said == f"Unexpected argument '{file}'. The file is given by --file {file}."
    assert not file.exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_directory_that_does_not_exist_is_a_usage_error(file: Path, name: str) -> None:
    said = refused(command(name, "--file", file.parent / "nope" / "read-only.txt"), 2)
    assert said.startswith(f"The directory {file.parent}/nope of the file ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_that_cannot_be_looked_at_exits_with_1_and_says_why(file: Path, name: str) -> None:
    said = refused(command(name, "--file", file.with_name("x" * 300)), 1)
    assert "can't be looked at: " in said
    assert "File name too long" in said


def test_a_working_directory_that_is_gone_is_told_without_a_traceback(tmp_path: Path) -> None:
    code = (
        "import os, sys; from sa_readonly.cli import main; gone = sys.argv.pop();"
        "os.mkdir(gone); os.chdir(gone); os.rmdir(gone); main()"
    )
    done = python(code, "status", "--file", "read-only.txt", tmp_path / "gone")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: read-only.txt can't be made absolute: ")


def test_a_directory_at_the_path_is_read_only_and_neither_replaced_nor_removed(file: Path) -> None:
    file.mkdir()
    assert told("status", "--file", file)["mode"] == "read-only"
    assert told("on", "--file", file)["changed"] is False
    for what, arguments in (("written", ["on", "--reason", "Upgrade"]), ("removed", ["off"])):
        said = refused(command(*arguments, "--file", file), 1)
        expected = rf"{re.escape(str(file))} can't be {what} \(.+\): the mode is read-only\..*"
        assert re.fullmatch(expected, said)
        if sys.platform == "linux":
            assert said.endswith(". Remove it by hand.")
    assert file.is_dir()


def test_without_permission_on_and_off_exit_with_1_and_say_so() -> None:
    # Not in tmp_path, into which only its owner may look.
    code = (
        "import os, sys; from sa_readonly.cli import main;os.geteuid() or os.setuid(65534); main()"
    )
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "read-only.txt")
        os.chmod(directory, 0o555)
        done = python(code, "on", "--file", file)
        cure = f"Run it as a user that may write in {directory}, as root say."
        said = f"{file} can't be written (Permission denied): the mode is read-write. {cure}"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {said}\n")
        os.chmod(directory, 0o755)
        file.touch()
        os.chmod(directory, 0o555)
        done = python(code, "off", "--file", file)
        said = f"{file} can't be removed (Permission denied): the mode is read-only. {cure}"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {said}\n")
        os.chmod(directory, 0o755)


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "Make room on its disk. Or turn it on without a reason: touch {}"),
        (errno.EROFS, "Its file system is mounted to be read only: mount it otherwise."),
    ],
)
def test_a_disk_that_takes_no_file_is_told_with_its_cure(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int, cure: str
) -> None:
    fail("fsync", monkeypatch, number)
    said = refused(command("on", "--file", file, "--reason", "Upgrade"), 1)
    why = f"{file} can't be written ({os.strerror(number)}): the mode is read-write."
    assert said == f"{why} {cure.format(file)}"
    assert not file.exists()


@pytest.mark.parametrize(("name", "mode"), [("on", "read-write"), ("off", "read-only")])
def test_a_file_that_somebody_else_moves_in_between_is_told_and_exits_with_1(
    file: Path, name: str, mode: str
) -> None:
    # The directory is opened to be brought to the disk: after the change, before the look.
    code = """
import os, sys
from sa_readonly.cli import main
from tests.forked import Forked
file, name = sys.argv[-1], sys.argv[1]
def somebody_else(event, arguments):
    if event == "open" and arguments[0] == os.path.dirname(file):
        os.unlink(file) if name == "on" else os.close(os.open(file, os.O_CREAT))
sys.addaudithook(somebody_else)
main()
"""
    if name == "off":
        file.touch()
    done = python(code, name, "--file", file)
    assert done.returncode == 1
    said = f"Error: The mode is {mode} all the same: somebody else has just moved it.\n"
    assert done.stderr == said
    assert f"mode     {mode}\n" in done.stdout
    assert NEXT not in done.stdout


@pytest.mark.parametrize("forced", ["read-write", "read-only", "nonsense"])
def test_a_mode_forced_in_the_shell_is_told_and_changes_nothing(file: Path, forced: str) -> None:
    for name, mode in (("status", "read-write"), ("on", "read-only"), ("off", "read-write")):
        done = command(name, "--file", file, SA_READONLY_FORCE=forced)
        assert done.exit_code == 0
        assert f"mode     {mode}\n" in done.stdout
        said = done.stderr.removesuffix(nobody(file)) if name == "on" else done.stderr
        assert said.startswith(f"SA_READONLY_FORCE={forced} is set here.")
        assert said.count("\n") == 1
    assert told("status", "--file", file, SA_READONLY_FORCE=forced)["forced"] == forced


def test_the_switch_of_the_command_logs_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for arguments in (["on"], ["on", "--reason", "Upgrade"], ["status"], ["off"]):
        done = command(*arguments, "--file", file)
        assert (done.exit_code, done.stderr) == (0, nobody(file) * (arguments[0] == "on"))
    assert caplog.records == []
    FileSwitch(file).enable()  # and afterwards a switch logs as before
    assert caplog.records != []


def test_what_would_steer_the_terminal_or_is_not_in_its_encoding_is_escaped(file: Path) -> None:
    file.write_bytes(b"Gr\xc3\xbc\xc3\x9fe\nof \x1b[31mred\n")
    done = command("status", "--file", file)
    assert "reason   Grüße\n         of \\x1b[31mred\n" in done.stdout
    runner = CliRunner(charset="ascii")
    done = runner.invoke(main, ["status", "--file", str(file)])
    assert "reason   Gr\\xfc\\xdfe\n" in done.stdout
    odd = os.fsdecode(os.fsencode(file) + b"\xff")
    assert "read-only.txt\\udcff\n" in command("status", "--file", odd).stdout
