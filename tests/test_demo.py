"""`sa-readonly demo`, on SQLite files and on real PostgreSQL databases."""

from __future__ import annotations

import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, create_engine, inspect, text

from sa_readonly.cli import main
from sa_readonly.command.demo import DemoError, Progress, Report, run
from tests.postgres import Pair, Server

ROOT = Path(__file__).parent.parent
# ResourceWarning too: what is not closed is told at the end, on stderr.
COMMAND = [sys.executable, "-W", "error", "-m", "sa_readonly.cli", "demo"]
SECONDS = 1.5
CHECKS = [
    "Every committed write is in the read-write database, and nothing else.",
    "No write is in the read-only database.",
    "No read failed.",
    "Every write that was not committed raised ReadOnlyError, and wrote nothing.",
    "No transaction used two databases.",
    "Until the file appeared, every transaction was read-write.",
    "From ttl after it appeared until it went, every transaction was read-only.",
    "From ttl after it was gone, every transaction was read-write.",
    "The file was seen to appear.",
    "The file was seen to go.",
]


def environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM", "COLUMNS")}
    return {**kept, "TERM": "xterm-256color", **changes}


def demo(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def invoke(*arguments: str) -> Result:
    """The command in this process, which is faster."""
    return CliRunner().invoke(main, ["demo", *arguments], prog_name="sa-readonly")


def on(read_write: str | URL, read_only: str | URL, *, seconds: float = SECONDS) -> list[str]:
    """The arguments for two databases of one's own."""
    shown = [
        url if isinstance(url, str) else url.render_as_string(hide_password=False)
        for url in (read_write, read_only)
    ]
    return ["--read-write", shown[0], "--read-only", shown[1], "--seconds", str(seconds)]


@contextmanager
def connection(url: str | URL) -> Iterator[Any]:
    engine = create_engine(url)
    try:
        with engine.begin() as made:
            yield made
    finally:
        engine.dispose()


def tables(url: str | URL) -> list[str]:
    with connection(url) as made:
        return inspect(made).get_table_names()


@pytest.fixture
def files(tmp_path: Path) -> Pair:
    """Two SQLite files of the user's, as they come."""
    return Pair(*(URL.create("sqlite", database=str(tmp_path / name)) for name in "ab"))


@pytest.fixture(scope="module")
def report() -> Report:
    return run(seconds=SECONDS)


# -- what a user sees ------------------------------------------------------------------------


def test_the_demo_exits_with_0_and_shows_each_check(tmp_path: Path) -> None:
    done = demo("--seconds", str(SECONDS), TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    held = re.findall(r"^holds +(.+?\.) (?=\S)", done.stdout, re.MULTILINE)
    assert held == CHECKS
    assert done.stdout.endswith("\nAll 10 hold.\n")
    assert list(tmp_path.iterdir()) == []  # its files are gone


def test_the_demo_runs_on_two_postgresql_databases_and_leaves_no_table(pg_pair: Pair) -> None:
    done = demo(*on(*pg_pair))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "All 10 hold." in done.stdout
    assert [tables(url) for url in pg_pair] == [[], []]


def test_the_demo_runs_on_the_users_sqlite_files_and_leaves_their_tables_alone(
    files: Pair,
) -> None:
    for url in files:
        with connection(url) as made:
            made.execute(text("CREATE TABLE mine (id INTEGER)"))
    done = demo(*on(*files))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [tables(url) for url in files] == [["mine"], ["mine"]]


def test_the_output_is_plain_when_it_is_not_a_terminal() -> None:
    done = invoke("--seconds", "3")
    assert done.exit_code == 0, done.output
    assert re.search(r"[^\n\x20-\x7e]", done.output) is None
    stages = re.findall(r"^\d\.\d s: (read-only.txt is [a-z ]+);", done.output, re.MULTILINE)
    there = ["read-only.txt is not there", "read-only.txt is there"]
    assert stages == [*there, "read-only.txt is gone", "read-only.txt is gone"]
    # and between them what the application, not the operator, logs
    flips = re.findall(r"^log: (\w+) sa_readonly: (\S+ -> \S+):", done.output, re.MULTILINE)
    assert flips == [("WARNING", "read-write -> read-only"), ("INFO", "read-only -> read-write")]


def on_a_terminal(**changes: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--seconds", str(SECONDS)],
        cwd=ROOT,
        env=environment(**changes),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        output = bytearray()
        with open(ours, "rb", buffering=0) as terminal:
            try:
                while chunk := terminal.read(4096):
                    output += chunk
            except OSError:  # how Linux says that nobody holds the other end any more
                pass
        return process.wait(60), output.decode()


def test_a_terminal_gets_a_bar_a_line_that_lives_and_a_table() -> None:
    code, output = on_a_terminal(COLUMNS="120")
    assert code == 0, output
    assert "\x1b[2K" in output  # a line is drawn again
    assert "\u2501" in output  # the bar
    assert "What must hold" in output
    for line in ("read-only.txt is not there", "transactions: ", "writes: ", "All 10 hold."):
        assert line in output


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_it_plain_gets_it_plain(setting: dict[str, str]) -> None:
    code, output = on_a_terminal(**setting)
    assert code == 0, output
    assert "All 10 hold." in output
    assert "\x1b" not in output


# -- what does not hold ----------------------------------------------------------------------


def test_a_write_that_reaches_the_read_only_database_makes_it_exit_with_1(
    pg_server: Server, pg_pair: Pair
) -> None:
    # somebody else's trigger writes into each new table there
    pg_server.query(
        """
        CREATE FUNCTION meddle() RETURNS event_trigger LANGUAGE plpgsql AS $$
        DECLARE made record;
        BEGIN
            FOR made IN SELECT * FROM pg_event_trigger_ddl_commands()
                WHERE command_tag = 'CREATE TABLE'
            LOOP
                EXECUTE format('INSERT INTO %s VALUES (7, ''foreign'')', made.object_identity);
            END LOOP;
        END $$;
        CREATE EVENT TRIGGER meddle ON ddl_command_end EXECUTE FUNCTION meddle();
        """,
        database=str(pg_pair.read_only.database),
    )
    done = demo(*on(*pg_pair))
    assert done.returncode == 1, done.stdout + done.stderr
    wrong = re.findall(r"^DOES NOT HOLD +(.+)$", done.stdout, re.MULTILINE)
    assert wrong == ["No write is in the read-only database. 1 found"]
    assert done.stdout.endswith("\n1 of 10 do not hold.\n")
    assert tables(pg_pair.read_only) == []


def test_a_table_that_is_lost_half_way_makes_it_exit_with_1_and_no_traceback(
    tmp_path: Path,
) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}" for name in "ab"]
    lost: list[str] = []

    def lose(progress: Progress) -> None:
        if progress.phase == 1 and not lost:
            lost.extend(tables(urls[1]))
            with connection(urls[1]) as made:
                made.execute(text(f"DELETE FROM {lost[0]}"))

    report = run(*urls, seconds=SECONDS, watch=lose)
    assert len(lost) == 1
    assert not report.holds
    wrong = [check.name for check in report.checks if not check.holds]
    # the row that says which database it is, is gone: what is not known is not right
    assert "From ttl after it appeared until it went, every transaction was read-only." in wrong


def test_all_holds_in_the_report_of_an_ordinary_run(report: Report) -> None:
    assert [check for check in report.checks if not check.holds] == []
    assert report.holds
    assert report.outcome.under_way > 0  # some transactions were caught half-way
    assert report.outcome.committed == report.outcome.in_read_write


def broken(report: Report) -> dict[str, tuple[dict[str, Any], set[int]]]:
    """For each way to break an outcome: what is changed, and the checks that then fail."""
    outcome = report.outcome
    one, refused = min(outcome.committed), min(outcome.refused)
    settled = dict(outcome.settled)
    thin = {key: 1 if key[0] == 1 else number for key, number in settled.items()}
    return {
        "a committed write is lost": ({"in_read_write": outcome.in_read_write - {one}}, {0}),
        "a write is there that nobody committed": (
            {"in_read_write": outcome.in_read_write | {-1}},
            {0},
        ),
        "a write is in the read-only database": ({"in_read_only": frozenset({one})}, {1}),
        "a read failed": ({"failed_reads": ("OperationalError: no",)}, {2}),
        "a write failed in another way": ({"failed_writes": ("OperationalError: no",)}, {3}),
        "a refused write was written": (
            {"in_read_write": outcome.in_read_write | {refused}},
            {0, 3},
        ),
        "a transaction used two databases": ({"mixed": 1}, {4}),
        "a read came too early from the copy": (
            {"settled": {**settled, (0, "read", "read-only"): 1}},
            {5},
        ),
        "a write was refused too early": (
            {"settled": {**settled, (0, "refused", "read-write"): 1}},
            {5},
        ),
        "a read came too late from the main database": (
            {"settled": {**settled, (1, "read", "read-write"): 1}},
            {6},
        ),
        "a write was committed while read-only": (
            {"settled": {**settled, (1, "committed", "read-only"): 1}},
            {6},
        ),
        "a write was refused too late": (
            {"settled": {**settled, (2, "refused", ""): 1}},
            {7},
        ),
        "too little happened to tell": ({"settled": thin}, {6}),
        "nothing happened": ({"settled": {}}, {5, 6, 7}),
        "the flips were not noticed": ({"noticed": (None, None)}, {8, 9}),
        "the first flip was noticed late": ({"noticed": (1.2, 0.1)}, {8}),
    }


def test_each_broken_outcome_is_found_by_its_check(report: Report) -> None:
    for what, (changes, failing) in broken(report).items():
        checks = Report(replace(report.outcome, **changes)).checks
        wrong = {number for number, check in enumerate(checks) if not check.holds}
        assert wrong == failing, what
        assert not Report(replace(report.outcome, **changes)).holds


# -- what can't be run -----------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--read-write", "--read-only"])
def test_one_url_alone_is_a_usage_error(option: str) -> None:
    done = invoke(option, "sqlite:///never.db")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Give both --read-write and --read-only, or neither of them." in done.stderr
    assert not Path("never.db").exists()


@pytest.mark.parametrize(
    "arguments",
    [("--seconds", "0.5"), ("--seconds", "nan"), ("--threads", "1"), ("--seconds", "soon")],
)
def test_numbers_that_make_no_sense_are_usage_errors(arguments: tuple[str, str]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "Error: " in done.stderr


def test_one_database_given_twice_is_refused_and_left_clean(pg_pair: Pair) -> None:
    other_name = pg_pair.read_write.update_query_dict({"application_name": "another"})
    done = invoke(*on(pg_pair.read_write, other_name))
    assert done.exit_code == 2
    assert "Both URLs lead to the same database" in done.stderr
    assert tables(pg_pair.read_write) == []


def test_a_standby_is_refused_with_the_reason(pg_standby: Any) -> None:
    url = pg_standby.primary.new_database()
    pg_standby.catch_up()
    copy = pg_standby.url(url.database)
    done = invoke(*on(url, copy))
    assert done.exit_code == 2
    # it has the table already, or can't be given one: that depends on how fast it follows
    assert re.search(r"same database|cannot execute CREATE TABLE", done.stderr), done.stderr
    assert tables(url) == []


def test_a_database_in_memory_is_refused(files: Pair) -> None:
    done = invoke(*on("sqlite://", files.read_only))
    assert done.exit_code == 2
    assert "The read-write database is in memory" in done.stderr


SECRET = "s3cr3t-pa/ss"
QUOTED = "s3cr3t-pa%2Fss"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql+psycopg2://me:{QUOTED}@127.0.0.1:1/thing", "can't be prepared"),
        (f"postgresql+psycopg2://me@127.0.0.1:1/thing?password={QUOTED}", "can't be prepared"),
        (f"postgresql+asyncpg://me:{QUOTED}@127.0.0.1:1/thing", "asyncio driver asyncpg"),
        (f"postgresql+nosuch://me:{QUOTED}@127.0.0.1:1/thing", "knows no postgresql+nosuch"),
        (f"postgresql//me:{QUOTED}@127.0.0.1:1/thing", "is no URL of SQLAlchemy"),
        (f"postgresql+psycopg2://me:{QUOTED}@127.0.0.1:port/thing", "is no URL of SQLAlchemy"),
        (f"oracle+cx_oracle://me:{QUOTED}@127.0.0.1:1/thing", "is not installed"),
    ],
)
def test_a_url_that_leads_nowhere_is_told_in_one_sentence_without_its_password(
    url: str, said: str, files: Pair
) -> None:
    for arguments in (on(url, files.read_only), on(files.read_write, url)):
        done = invoke(*arguments)
        assert done.exit_code == 2, done.output
        assert said in done.stderr
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1
        assert "s3cr3t" not in done.output
        assert tables(files.read_write) == []


def test_a_password_that_opens_the_databases_is_not_shown(pg_pair: Pair) -> None:
    done = invoke(*on(*(url.set(password=SECRET) for url in pg_pair)))
    assert "All 10 hold." in done.stdout
    assert "s3cr3t" not in done.output


def test_the_demo_refuses_to_run_in_a_forced_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA_READONLY_FORCE", "read-write")
    done = invoke()
    assert done.exit_code == 2
    assert "SA_READONLY_FORCE forces the mode" in done.stderr


# -- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_demo_leaves_no_table(
    number: signal.Signals, code: int, pg_pair: Pair
) -> None:
    with subprocess.Popen(
        [*COMMAND, *on(*pg_pair, seconds=60)],
        cwd=ROOT,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if "read-only.txt is not there" in line:  # the threads are at work
                break
        assert [len(tables(url)) for url in pg_pair] == [1, 1]
        process.send_signal(number)
        assert process.wait(60) == code
        assert "Traceback" not in process.stderr.read()
    assert [tables(url) for url in pg_pair] == [[], []]


def test_an_error_in_the_middle_leaves_no_table(files: Pair) -> None:
    def fail(progress: Progress) -> None:
        if progress.phase == 1:
            raise RuntimeError("the screen is gone")

    with pytest.raises(RuntimeError, match="the screen is gone"):
        run(*files, seconds=SECONDS, watch=fail)
    assert [tables(url) for url in files] == [[], []]


def test_a_closed_pipe_leaves_no_table_and_no_traceback(files: Pair) -> None:
    with subprocess.Popen(
        [*COMMAND, *on(*files, seconds=30)],
        cwd=ROOT,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""
    assert [tables(url) for url in files] == [[], []]


def test_a_database_that_goes_away_half_way_is_told_in_one_sentence(
    pg_server: Server, pg_pair: Pair
) -> None:
    def take_away(progress: Progress) -> None:
        if progress.phase == 1:
            pg_server.drop_database(pg_pair.read_only)

    with pytest.raises(DemoError, match=r"^The demo's table \w+ is left in the read-only database"):
        run(*pg_pair, seconds=1, watch=take_away)
    assert tables(pg_pair.read_write) == []


def test_a_table_that_can_not_be_dropped_is_named(files: Pair) -> None:
    with closing(sqlite3.connect(str(files.read_only.database))) as other:

        def lock(progress: Progress) -> None:
            if progress.phase == 2 and not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")

        quick = [url.update_query_dict({"timeout": "0.1"}) for url in files]
        with pytest.raises(DemoError, match=r"table sa_readonly_demo_\w+ is left .* Drop it"):
            run(*quick, seconds=SECONDS, watch=lock)


def test_run_tells_where_it_stands() -> None:
    seen: list[Progress] = []
    report = run(seconds=1, threads=2, watch=seen.append)
    assert [one.phase for one in seen] == sorted(one.phase for one in seen)
    assert seen[0].elapsed < 0.3
    assert seen[-1].elapsed == seen[-1].seconds == 1
    assert seen[-1].committed == len(report.outcome.committed)
    assert seen[-1].transactions == report.outcome.transactions
