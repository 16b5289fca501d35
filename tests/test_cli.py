"""The command as a whole; each of its commands has tests of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sa_readonly.cli import main

ROOT = Path(__file__).parent.parent


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="sa-readonly")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_the_commands(option: str) -> None:
    done = command(option)
    assert done.exit_code == 0
    assert "Usage: sa-readonly" in done.stdout
    names = re.findall(r"^  ([a-z]+) +[A-Z]", done.stdout, re.MULTILINE)
    assert names == [
        *(
            "announce",
            "demo",
            "doctor",
            "history",
            "init",
            "off",
            "on",
            "rehearsal",
            "run",
            "status",
            "wait",
        )
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_of_the_docs_completes_in_each_shell(shell: str) -> None:
    page = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    assert f"_SA_READONLY_COMPLETE={shell}_source sa-readonly" in page

    def asked(what: str, **more: str) -> str:
        environment = {"_SA_READONLY_COMPLETE": f"{shell}_{what}", **more}
        return CliRunner(env=environment).invoke(main, prog_name="sa-readonly").stdout

    script = asked("source")
    assert "sa-readonly" in script
    assert f"_SA_READONLY_COMPLETE={shell}_complete" in script
    word = "sa-readonly st" if shell != "fish" else "sa-readonly"
    told = asked("complete", COMP_WORDS=word, COMP_CWORD="st" if shell == "fish" else "1")
    assert "status" in told
    assert "doctor" not in told


def test_the_module_can_be_run_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "sa_readonly.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == command("--help").stdout


def test_the_version_is_that_of_the_package() -> None:
    try:
        expected = version("sa-readonly")
    except PackageNotFoundError:
        expected = "(not installed: run from a checkout)"
    assert command("--version").stdout == f"sa-readonly {expected}\n"


def test_an_unknown_command_is_a_usage_error() -> None:
    done = command("demmo")
    assert done.exit_code == 2
    assert "No such command 'demmo'" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("\x1b[2J",), ("--\x1b[2J",), ("status", "--\x1b[2J"), ("status", "\x1b[2J\n")]
)
def test_a_mistake_is_told_in_one_line_that_steers_no_terminal(arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    *usage, error = done.stderr.splitlines()
    assert r"\x1b[2J" in error
    assert error.startswith("Error: ")
    assert error.isprintable()
    assert [line.partition(" ")[0] for line in usage] == ["Usage:", "Try", ""]


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_command_says_how_to_get_it(missing: str) -> None:
    done = python(
        f"import sys; sys.modules[{missing!r}] = None\nfrom sa_readonly.cli import main\nmain()"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    needs = f"the command needs {missing}, which is not installed"
    assert done.stderr == f"sa-readonly: {needs}: pip install 'sa-readonly[cli]'\n"


def test_importing_the_package_imports_no_extra_starts_no_thread_and_opens_no_file() -> None:
    # SQLAlchemy first: what it does is not ours. What is imported is read, and nothing else.
    done = python(
        """
import sys, threading
import sqlalchemy.orm
before = set(sys.modules)
threads = threading.active_count()
opened, suspicious = [], []

def audit(event, arguments):
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
        if "__pycache__" not in str(arguments[0]):
            opened.append(arguments[0])
    elif event in ("_thread.start_new_thread", "_thread.start_joinable_thread", "os.fork",
                   "socket.__new__", "sqlite3.connect", "subprocess.Popen", "os.mkdir"):
        suspicious.append(event)

sys.addaudithook(audit)
import sa_readonly
assert opened == [], opened
assert suspicious == [], suspicious
assert threading.active_count() == threads
unwanted = set(
    "click rich asyncio greenlet asyncpg aiosqlite aiomysql asyncmy psycopg psycopg2 pymysql flask "
    "django starlette fastapi pyramid werkzeug aiohttp prometheus_client".split()
)
found = {name.partition(".")[0] for name in set(sys.modules) - before} & unwanted
assert not found, found
for name in ("cli", "command", "testing", "web"):
    assert f"sa_readonly.{name}" not in sys.modules
"""
    )
    assert done.returncode == 0, done.stderr
