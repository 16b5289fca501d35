"""The operator's file with any bytes in it, on the way from the disk to each page."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import strategies as st

from sa_readonly.mode import Mode, State
from sa_readonly.switch import FileSwitch
from sa_readonly.text import described, parse, printable, render
from sa_readonly.web.status import as_html
from sa_readonly.workers.status import snapshot
from tests.feeds import Feed

STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What could steer a terminal, or end a line of a log."""

LINES = st.sampled_from(
    [
        b"until: 2030-01-01T00:00Z",
        b"until:",
        b"UNTIL : 9999-12-31T23:59:59-14:00",
        b"mode: read-write",
        b"drained: 1",
        b"<script>alert(1)</script>",
        b"</dd><h1>",
        b"\x1b[2J\x1b]0;x\x07",
        b"\xff\xfe\x00r\x00e",
        b"\xef\xbb\xbfupgrade",
        "\u202eupgrade\u2028\u0085".encode(),
        b"\xed\xa0\x80",
        b"x" * 4096,
        b"\r",
        b"\x0c\x1c\x1d\x1e",
    ]
)
CONTENT = st.lists(LINES | st.binary(max_size=40) | st.text(max_size=20).map(
    lambda text: text.encode("utf-8", "replace")
), max_size=6).flatmap(
    lambda lines: st.sampled_from([b"\n", b"\r\n", b"\r", b""]).map(lambda end: end.join(lines))
)  # fmt: skip


class Lines(logging.Handler):
    """Refuses a record that could steer a terminal, or that is no line."""

    def emit(self, record: logging.LogRecord) -> None:
        assert not STEERS.search(record.getMessage()), record.getMessage()


class Tags(HTMLParser):
    """Notes the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def check_state(state: State) -> None:
    """What is shown of a read-only state is one line in a log, and text in a page."""
    assert state.mode is Mode.READ_ONLY
    assert not STEERS.search(described(state))
    seen = snapshot(state, (), 1.0)
    text = seen.as_text()
    assert [line.partition(":")[0] for line in text.splitlines() if line] == [
        *("mode", "reason", "until"),
        *(["overdue"] if state.overdue else []),
        *("generation", "workers"),
    ]
    assert not STEERS.search(text.replace("\n", ""))
    json.loads(json.dumps(seen.as_json()).encode())
    plain = Tags(as_html(snapshot(State(Mode.READ_ONLY, reason="x", until=state.until,
                                        since=state.since), (), 1.0))).tags  # fmt: skip
    shown = Tags(as_html(seen)).tags
    if state.reason:
        assert shown == plain


def files(directory: Path) -> Feed:
    path = directory / "read-only.txt"

    def check(content: bytes) -> str:
        path.write_bytes(content)
        switch = FileSwitch(path)
        state = switch.check()
        assert (state.reason, state.until) == tuple(parse(content))
        check_state(state)
        path.unlink()
        assert switch.check().mode is Mode.READ_WRITE
        try:
            written = render(state.reason, state.until)
        except ValueError:  # what is replaced may be longer than what was there
            return "read, and too long to be written"
        assert parse(written) == parse(render(*parse(written)))
        return "a reason and a time" if state.reason and state.until else (
            "a time" if state.until else "a reason" if state.reason else "neither"
        )  # fmt: skip

    return Feed("the file", CONTENT, check)


def lines_of_a_terminal() -> Feed:
    def check(text: str) -> str:
        assert not STEERS.search(printable(text))
        return "printable"

    return Feed("what is printed", st.text() | st.characters().map(lambda c: f"a{c}b"), check)
