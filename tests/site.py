"""Pages of the site, as they are written: the tutorial in one shell, units, logs."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession, refusals

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"```(?P<kind>python|sh|text)\n(?P<body>.*?)```", re.DOTALL)
SAVED = re.compile(r"[Ss]ave this as `(?P<name>[\w.]+)`")
END = "-- that was all --"
# Times, processes, the host and the folder are other ones each time; so is a line's padding.
VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d:?\d\d| UTC)?"), "<time>"),
    (re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"), "<time>"),
    (re.compile(r"\d+(\.\d+)? (s|ms|min|h)\b"), "<while>"),
    (re.compile(r"\b\d{2,}\b"), "<number>"),
    (re.compile(r"/\S*/guestbook/"), "<folder>/"),
    (re.compile(r" on [\w.-]+:"), " on <host>:"),
    (re.compile(r"[ \t]+"), " "),
)


def alike(text: str) -> list[str]:
    for pattern, name in VARIES:
        text = pattern.sub(name, text)
    # Whether a process has noticed before the first question is chance.
    lines = [line.strip() for line in text.splitlines() if " not noticed" not in line]
    return [line for line in lines if line]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
    subprocess.run([*pip, str(wheels), str(source)], check=True)
    # As for a reader, save that our own package comes from here.
    environ = {name: value for name, value in os.environ.items() if "VIRTUAL_ENV" not in name}
    environ |= {"PIP_FIND_LINKS": str(wheels), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    (tmp_path / "empty").mkdir()
    with subprocess.Popen(
        ["bash"],
        cwd=tmp_path / "empty",
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        process.wait(timeout=30)
    pid = tmp_path / "empty" / "guestbook" / "gunicorn.pid"
    if pid.exists():  # a step failed
        subprocess.run(["kill", pid.read_text().strip()], check=False)


def pasted(shell: subprocess.Popen[str], block: str) -> str:
    """What the shell prints until the block has come to its end."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{block}\necho '{END}'\n")
    shell.stdin.flush()
    printed = []
    for line in shell.stdout:
        if line.strip() == END:
            break
        printed.append(line)
    return "".join(printed)


@pytest.mark.skipif(not shutil.which("curl"), reason="NOT TESTED: the tutorial needs curl.")
def test_the_tutorial_runs_as_it_is_written(shell: subprocess.Popen[str], tmp_path: Path) -> None:
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    printed = ""
    for block in BLOCK.finditer(page):
        if block["kind"] == "sh":
            printed = pasted(shell, block["body"])
        elif block["kind"] == "python":
            named = [*SAVED.finditer(page, 0, block.start())][-1]["name"]
            (tmp_path / "empty" / "guestbook" / named).write_text(block["body"])
        else:
            assert alike(printed) == alike(block["body"])


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


# -- systemd and Compose ---------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="NOT TESTED: no systemd-analyze.")
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    run = tmp_path / "there"  # in the place of programs of another machine
    run.write_text("#!/bin/sh\n")
    run.chmod(0o755)
    units = []
    for block in blocks("systemd.md", "ini"):
        named = re.match(r"# /etc/systemd/system/(\S+)\n", block)
        if named:
            text_ = re.sub(r"^ExecStart=\S+", f"ExecStart={run}", block, flags=re.MULTILINE)
            (tmp_path / named[1]).write_text(text_.replace("User=shop", "User=root"))
            units.append(tmp_path / named[1])
    assert [unit.suffix for unit in units] == [".service", ".service", ".timer"]
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        check=False,
        capture_output=True,
        text=True,
    )
    ours = [line for line in found.stderr.splitlines() if "shop" in line]
    assert (ours, found.returncode) == ([], 0), found.stderr


def test_compose_has_a_standby_one_file_for_all_and_workers_of_each_container() -> None:
    yaml = pytest.importorskip("yaml")
    (block,) = blocks("compose.md", "yaml")
    compose = yaml.safe_load(block)
    services = compose["services"]
    assert set(services) == {"primary", "standby", "shop"}
    named = {mount.split(":")[0] for one in services.values() for mount in one.get("volumes", ())}
    assert {name for name in named if not name.startswith(".")} == set(compose["volumes"])
    folder = services["shop"]["volumes"][0].partition(":")[2]
    file = services["shop"]["environment"]["SA_READONLY_FILE"]
    assert file.startswith(f"{folder}/")
    # Of each container's own: in one that is shared nobody can tell if the others' live.
    assert [one.partition(":")[0] for one in services["shop"]["tmpfs"]] == [f"{file}.workers"]


# -- logs ------------------------------------------------------------------------------------


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[SimpleNamespace]:
    file = tmp_path / "read-only.txt"
    selector = EngineSelector(file, read_write=create_engine(f"sqlite:///{tmp_path}/main.db"))
    with selector:
        session = sessionmaker(selector, class_=RoutingSession)
        with session.begin() as one:
            one.execute(text("CREATE TABLE entry (id INTEGER)"))
        yield SimpleNamespace(file=file, selector=selector, session=session)


def refused(routed: SimpleNamespace, **options: Any) -> ReadOnlyError:
    with pytest.raises(ReadOnlyError) as caught, routed.session(**options) as session:
        session.execute(text("INSERT INTO entry VALUES (1)"))
    return caught.value


def test_sentry_is_sent_no_event_of_what_an_operator_wished(routed: SimpleNamespace) -> None:
    sentry = pytest.importorskip("sentry_sdk")
    sent: list[Any] = []

    class Kept(sentry.transport.Transport):  # type: ignore[name-defined,misc]  # it may be missing
        def capture_envelope(self, envelope: Any) -> None:
            sent.append(envelope)

    code = next(one for one in blocks("logs.md", "python") if "before_send(" in one)
    # It would import each library that it knows, some of which warn.
    dsn = (
        "before_send=before_send, auto_enabling_integrations=False, transport=Kept, "
        "dsn='http://key@127.0.0.1:9/1'"
    )
    exec(code.replace("before_send=before_send", dsn), {"Kept": Kept})
    sentry.capture_exception(refused(routed, role="replica"))
    assert len(sent) == 1
    routed.file.touch()
    routed.selector.check()
    sentry.capture_exception(refused(routed))
    sentry.flush()
    assert len(sent) == 1
    logging.getLogger("sa_readonly").error("An answer was wrong.", exc_info=refused(routed))
    sentry.flush()
    assert len(sent) == 2


def test_structlog_writes_our_records_as_its_own(routed: SimpleNamespace) -> None:
    pytest.importorskip("structlog")
    space: dict[str, Any] = {}
    exec(next(one for one in blocks("logs.md", "python") if "import structlog" in one), space)
    logger = logging.getLogger("sa_readonly")
    space["handler"].setStream(io.StringIO())
    try:
        routed.file.write_text("Upgrade")
        routed.selector.check()
    finally:
        logger.removeHandler(space["handler"])
        logger.propagate = True
    (line,) = space["handler"].stream.getvalue().splitlines()
    told = json.loads(line)
    assert told["level"] == "warning"
    assert "read-write -> read-only" in told["event"]
    assert (told["sa_readonly_event"], told["sa_readonly_mode"]) == ("flip", "read-only")


# -- other systems ---------------------------------------------------------------------------

WITHOUT = """
import os, sys, logging, random, tempfile
sys.modules["fcntl"] = None
for name in ("fork", "register_at_fork"):
    delattr(os, name)
"""


@pytest.mark.parametrize("workers", [True, False])
def test_it_runs_without_what_windows_lacks(tmp_path: Path, workers: bool) -> None:
    program = f"""{WITHOUT}
from pathlib import Path
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from sa_readonly import EngineSelector, ReadOnlyError, RoutingSession, refusals
logging.basicConfig(format="%(levelname)s", stream=sys.stdout)
file = Path("read-only.txt")
selector = EngineSelector(file, read_write=create_engine("sqlite:///main.db"), workers={workers})
Session = sessionmaker(selector, class_=RoutingSession)
with Session.begin() as session:
    session.execute(text("CREATE TABLE entry (id INTEGER)"))
file.touch()
selector.check()
try:
    with Session.begin() as session:
        session.execute(text("INSERT INTO entry VALUES (1)"))
except ReadOnlyError:
    print("refused")
file.unlink()
selector.check()
with Session.begin() as session:
    session.execute(text("INSERT INTO entry VALUES (1)"))
    print(session.scalar(text("SELECT count(*) FROM entry")))
selector.close()
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    told = ["ERROR"] if workers else []
    assert ran.stdout.split() == [*told, "WARNING", "refused", "WARNING", "1"]


# -- all pages -------------------------------------------------------------------------------


def pages() -> list[Path]:
    return sorted([*DOCS.glob("*.md"), ROOT / "README.md"])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_python_that_is_shown_is_python_and_imports_what_is_there(page: Path) -> None:
    for block in re.findall(r"(?ms)^ *```python\n(.*?)```", page.read_text("utf-8")):
        tree = compile(
            textwrap.dedent(block),
            page.name,
            "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST,
        )
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sa_readonly"):
                exec(ast.unparse(node))


def test_each_reason_of_a_refusal_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "errors.md").read_text("utf-8")
    for why, _ in refusals._FAULTS.values():
        assert why.partition("{")[0] in page
