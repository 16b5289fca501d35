"""Reports of other versions, torn ones and made-up ones, in a directory and in etcd."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import strategies as st

from sa_readonly.etcd import records, values
from sa_readonly.mode import Mode, State
from sa_readonly.text import Text
from sa_readonly.web.status import as_html
from sa_readonly.workers import process, reports
from sa_readonly.workers.protocol import Liveness, Report, Seen
from sa_readonly.workers.status import snapshot
from tests.feeds import Feed
from tests.feeds.texts import STEERS

NUMBERS = st.sampled_from([0, 1, -1, 2**63, 10**400, -(10**400), 10**4299, 1e15, 1e-300, True])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | NUMBERS
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["read-only", "read-write", "\x1b[2J", "\ud800", "1", "nan", "<b>", "[0]"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAME = "host-1-place-0123456789abcdef"
FIELDS = {"format": 1, **process.about_me(), "written": 1.0, **vars(Report(Mode.READ_ONLY))}
VALID = json.loads(json.dumps({**FIELDS, "generation": "now", "mode": "read-only"}))
STATES = (State(Mode.READ_WRITE), State(Mode.READ_ONLY, generation="now"))


@st.composite
def edits(draw: Any, valid: dict[str, Any], more: tuple[str, ...] = ()) -> dict[str, Any]:
    """A document in which some fields have another value, are gone or are new."""
    edited = dict(valid)
    for name in draw(st.lists(st.sampled_from([*valid, *more, "new"]), max_size=3, unique=True)):
        kind = draw(st.sampled_from(["alike", "alike", "alike", "any", "gone"]))
        if kind == "gone":
            edited.pop(name, None)
        else:
            edited[name] = draw(alike(edited.get(name)) if kind == "alike" else JSON)
    return edited


def alike(value: object) -> st.SearchStrategy[Any]:
    """Values of the same type, which what reads them may take for good."""
    if isinstance(value, str):
        return st.text(max_size=8) | st.sampled_from(
            ["\x1b[2J", "\ud800", "read-only", "now", "<b>"]
        )
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, (int, float)) or value is None:
        return st.integers(0, 9) | st.floats(0, 1e16) | NUMBERS | st.none()
    return st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2)


def dumped(fields: dict[str, Any]) -> str:
    """As JSON; lone surrogates are escaped, and NaN is told as Python does."""
    return json.dumps(fields)


@st.composite
def torn(draw: Any, whole: st.SearchStrategy[bytes]) -> bytes:
    """What a write that was cut, or written over, may leave."""
    content = draw(whole)
    kind = draw(st.sampled_from([*["whole"] * 5, "any", "cut", "written into", "zeros"]))
    if kind == "any":
        return draw(st.binary(max_size=60))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if kind == "written into":
        start = draw(st.integers(0, len(content)))
        return content[:start] + draw(st.binary(max_size=8)) + content[start:]
    if kind == "zeros":
        start = draw(st.integers(0, len(content)))
        return content[:start] + b"\0" * (len(content) - start)
    return content


def check_shown(one: Seen) -> str:
    """What is judged and shown of an entry raises nothing, and steers no terminal."""
    told = ""
    for state in STATES:
        seen = snapshot(state, (one, Seen("other", Liveness.ALIVE)), 1e9, here=one)
        for text in (seen.as_text(), as_html(seen, details=True)):
            assert not STEERS.search(text.replace("\n", "").replace("\r", "")), text
        json.dumps(seen.as_json()).encode()
        told = f"{told} {seen.workers[0].lasting and seen.sums}"
        assert seen.changing in (True, False)
        if state.read_only and seen.workers[0].drained:
            assert one.acknowledged
            assert one.report is not None
            assert one.report.generation == "now"
    return "told" if one.report is not None else "damaged"


# -- in a directory --------------------------------------------------------------------------


@st.composite
def contents(draw: Any) -> bytes:
    """Reports with the right check, whatever they tell: another version may have written them."""
    rest = dumped(draw(edits(VALID)))[1:-1].encode()
    name = draw(st.sampled_from([NAME, NAME, NAME, "other"]))
    one = draw(st.sampled_from(["1", "1", "1", "0", "2", ""]))
    check = reports._check(name, rest).decode()
    return f'{{"acknowledged":{one},"check":"{check}",'.encode() + rest + b"}\n"


def in_a_directory() -> Feed:
    seen = Seen(NAME, Liveness.ALIVE)

    def check(content: bytes) -> str:
        try:
            one, born = reports.decoded(seen, content)
        except (ValueError, KeyError, TypeError, RecursionError):
            return "damaged"  # as the folder tells it
        assert born is None or born >= 0
        if one.acknowledged:
            head, _, rest = content.partition(b'",')
            digest = hashlib.sha256(NAME.encode() + b"\0" + rest[:-2]).hexdigest()[:32]
            assert head == f'{{"acknowledged":1,"check":"{digest}'.encode()
            told = json.loads(content)
            assert (told["format"], told["mode"]) == (1, "read-only")
        check_shown(one)
        return "of another version" if one.problem else "told"

    return Feed("reports in a directory", torn(contents()), check)


# -- in etcd ---------------------------------------------------------------------------------

PROCESS = "host-1-0123456789abcdef"
KEY = f"{PROCESS}/00000001"
ABOUT = {name: 1.5 if value is None else value for name, value in process.about_me().items()}
REGISTERED = json.loads(
    records.registration(10.0, {"host": "h", "pid": 1, **ABOUT, "written": 1.0}, None)
)


@st.composite
def registrations(draw: Any) -> bytes:
    valid = {**REGISTERED, "report": None}
    if draw(st.booleans()):
        rest = dumped(draw(edits(VALID)))[1:-1].encode()
        check = reports._check(KEY, rest).decode()
        valid["report"] = f'{{"acknowledged":1,"check":"{check}",{rest.decode()}}}\n'
    return dumped(draw(edits(valid))).encode()


def key_value(value: bytes, key: str = "x") -> values.KeyValue:
    return values.KeyValue(key, value, 1, 1, 1, 0)


def in_etcd() -> Feed:
    def check(given: tuple[bytes, bytes | None]) -> str:
        registered, acknowledged = given
        ack = None if acknowledged is None else key_value(acknowledged)
        one = records.seen_of(KEY, key_value(registered), ack, alive=True)
        assert one.name == PROCESS
        assert one.fence is None or 0 <= one.fence <= records.LONGEST_FENCE
        if ack is None:
            assert not one.acknowledged
        else:
            by = records.acknowledged_by(KEY, ack)
            assert by is None or isinstance(by, str)
        check_shown(one)
        if one.liveness is Liveness.UNKNOWN:
            return "damaged"
        return "acknowledged" if one.acknowledged else "registered"

    whole = torn(registrations())
    return Feed("registrations in etcd", st.tuples(whole, st.none() | whole), check)


MARKER = json.loads(records.Marker.new(7, 10.0, "init").encoded())


def markers() -> Feed:
    def check(value: bytes) -> str:
        marker = records.marker_of(key_value(value))
        if marker is None:
            return "none"
        assert 0 < marker.fence <= records.LONGEST_FENCE
        assert marker.fence <= marker.longest_fence <= records.LONGEST_FENCE
        return "read"

    whole = edits(MARKER).map(lambda fields: dumped(fields).encode())
    return Feed("markers in etcd", torn(whole), check)


def keys() -> Feed:
    def check(value: bytes) -> str:
        found = records.announced(key_value(value))
        assert isinstance(found.text, Text)
        assert records.revision_of(found.generation) == 1
        assert records.split(value.decode("utf-8", "surrogateescape")) is None or b"/" in value
        return "by the command" if found.id else "by hand"

    whole = st.binary(max_size=40).map(lambda text: text + b"\nid: " + b"0a" * 16 + b"\n")
    return Feed("keys in etcd", torn(whole), check)
