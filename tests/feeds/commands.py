"""The command line with any arguments and environment, in this process."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
from click.testing import CliRunner
from hypothesis import strategies as st

from sa_readonly.cli import main
from tests.feeds import Feed
from tests.feeds.texts import CONTENT, STEERS

FILES = [
    "read-only.txt",
    "none/read-only.txt",
    ".",
    "hosts",
    "data.db",
    "",
    " read-only.txt",
    "a/b",
]
DATABASES = [
    "sqlite:///data.db",
    "sqlite://",
    "x",
    "sqlite:///none/x.db",
    "sqlite+x://",
    "x://[",
    "://",
]
URLS = [
    "http://127.0.0.1:1/{host}",
    "http://{host}/",
    "http://",
    "x",
    "",
    "http://[",
    "ftp://{host}",
]
ETCD = ["http://127.0.0.1:1", "x", "http://", "https://[::1", "http://127.0.0.1:99999", ","]
VALUES = {
    "file": FILES,
    "workers": FILES,
    "hosts": FILES,
    "password_file": FILES,
    "ca": FILES,
    "cert": FILES,
    "cert_key": FILES,
    "read_write": DATABASES,
    "read_only": DATABASES,
    "read_only_replica": DATABASES,
    "standby": DATABASES,
    "plugin_url": DATABASES,
    "url": URLS,
    "etcd": ETCD,
    "key": ["/key", "key", "/", "", "/k/"],
    "timeout": ["0", "0s", "-1", "x", "1e9", "9" * 400, "0.0m", "\u0661"],
    "wait": ["0", "0s", "-1", "x", "9" * 400],
    "ttl": ["1", "0", "-1", "nan", "inf", "9" * 400],
    "fence": ["10", "0", "61", "x", "9" * 400],
    "until": ["+1h", "+0s", "2030-01-01", "tomorrow", "+", "+9999999999d", "9999-12-31"],
    "reason": ["upgrade", "", "until: 2030-01-01", "x" * 5000, "\udcff", "a\nb", "\x1b[2J"],
    "expect": ["1", "0", "x", "9" * 400],
    "expect_hosts": ["1", "0", "-1"],
    "threads": ["1", "x", "65"],
    "seconds": ["0", "nan", "inf", "x"],
    "mode": ["read-write", "read-only", "READ-ONLY", ""],
    "pooler": ["session", "x"],
    "isolation_level": ["AUTOCOMMIT", "autocommit", "x", ""],
}  # fmt: skip
ANY = st.text(st.characters(exclude_characters="\0"), max_size=8) | st.sampled_from(
    [
        "--",
        "-",
        "---",
        "-\u00e9",
        "--x\ny",
        "\udcff",
        "-h",
        "--help",
        "--version",
        "--json",
        "=",
        "",
    ]
)
FORCED = ["", "", "", "read-only", "read-write", "x"]


def _arguments(draw: Any, option: click.Parameter) -> list[str]:
    name = option.opts[0]
    if not isinstance(option, click.Option):
        return []
    if option.is_flag:
        return [name]
    listed = VALUES.get(str(option.name), ["x"])  # the first one is good
    value = draw(st.one_of(st.just(listed[0]), st.just(listed[0]), st.sampled_from(listed), ANY))
    return [f"{name}={value}"] if draw(st.booleans()) else [name, value]


@st.composite
def lines(draw: Any) -> dict[str, Any]:
    """A command line, what is set in its environment, and what is in the file that is there."""
    name = draw(st.sampled_from(sorted(main.commands)))
    options = [one for one in main.commands[name].params if one.name != "help"]
    line = []
    for option in draw(st.lists(st.sampled_from(options), max_size=3)):
        line += _arguments(draw, option)
    if draw(st.booleans()):  # it is about something
        line += ["--file", "read-only.txt"] if draw(st.integers(0, 3)) else ["--etcd", ETCD[0]]
    if draw(st.sampled_from([False, False, False, False, True])):
        line.insert(draw(st.integers(0, len(line))), draw(ANY))
    if "--wait" in line or name == "wait":
        line.append("--timeout=0")
    if "--watch" in line or name == "demo":  # which would go on, and for seconds
        line.append("--threads=1")
    if name == "run" and draw(st.booleans()):
        line += ["--", draw(ANY), draw(ANY)]
    variables = [one.envvar for one in options if isinstance(one, click.Option) and one.envvar]
    environment = {"SA_READONLY_FORCE": draw(st.sampled_from(FORCED))}
    if variables and draw(st.booleans()):
        variable = draw(st.sampled_from(variables))
        environment[str(variable)] = draw(ANY)
    return {
        "line": [name, *line] if draw(st.integers(0, 9)) else [*line, name],
        "environment": environment,
        "file": draw(st.none() | CONTENT),
    }


def _there(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def _would_run(command: tuple[str, ...]) -> None:
    raise SystemExit(0)


@contextmanager
def interrupted(seconds: float) -> Iterator[None]:
    """As by Ctrl-C, if it hangs for so long."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


CODES = {0, 1, 2, 3, 4, 75}
"""All that the commands' help tells of: no other is that of a command that is not run."""


AROUND = ("Usage: ", "Try ", "SA_READONLY_FORCE=")
"""The beginnings of lines that stand before the one that tells what is wrong."""


def command_lines(directory: Path) -> Feed:
    (directory / "hosts").write_text("127.0.0.1:1\n")
    home = os.getcwd()
    names = [one.envvar for each in main.commands.values() for one in each.params if one.envvar]
    unset: dict[str, Any] = dict.fromkeys(map(str, names))

    def check(given: dict[str, Any]) -> str:
        with tempfile.TemporaryDirectory(dir=directory) as place:
            os.chdir(place)
            try:
                return _check(Path(place), given)
            finally:
                os.chdir(home)

    def _check(place: Path, given: dict[str, Any]) -> str:
        (place / "hosts").write_text("127.0.0.1:1\n")
        if given["file"] is not None:
            (place / "read-only.txt").write_bytes(given["file"])
        before = _there(place)
        line = given["line"]
        with mock.patch("sa_readonly.command.run._execute", _would_run), interrupted(20):
            done = CliRunner().invoke(
                main, line, prog_name="sa-readonly", env={**unset, **given["environment"]}
            )
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise AssertionError(line) from done.exception
        assert done.exit_code in CODES, (line, done.exit_code)
        assert "Traceback" not in done.output
        if done.exit_code == 2:
            told = [one for one in done.stderr.split("\n") if one and not one.startswith(AROUND)]
            assert len(told) == 1, done.stderr
            assert done.stderr.endswith(f"{told[0]}\n"), done.stderr
            # The doctor tells of a URL with the plugin though its database can't be reached.
            assert done.stdout == "" or "[plugin-" in done.stdout, done.stdout
            assert _there(place) == before
        assert not STEERS.search(done.output.replace("\n", "")), done.output
        return f"{done.exit_code}"

    return Feed("command lines", lines(), check)
