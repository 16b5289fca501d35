"""Each finding of ``sa-readonly doctor`` has a code, which ``docs/doctor.md`` explains."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

from tests.doctor import ROOT

SEVERITIES = {"danger", "warning", "note", "ok"}


def made() -> Iterator[tuple[str, set[str]]]:
    """The code and the severities of each place that makes a finding."""
    for path in (ROOT / "sa_readonly" / "command" / "doctor").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            if call.func.id in SEVERITIES:
                yield ast.literal_eval(call.args[0]), {call.func.id}
            elif call.func.id == "Finding":
                parts = ast.walk(call.args[0])  # of a conditional expression
                chosen = {one.value for one in parts if isinstance(one, ast.Constant)}
                yield ast.literal_eval(call.args[1]), chosen & SEVERITIES


def explained() -> Iterator[tuple[str, set[str]]]:
    text = (ROOT / "docs" / "doctor.md").read_text()
    for code, severities in re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \|", text, re.MULTILINE):
        yield code, set(severities.split(", "))


def test_the_docs_explain_each_code_that_a_finding_can_have_and_no_other() -> None:
    emitted: dict[str, set[str]] = defaultdict(set)
    for code, severities in made():
        emitted[code] |= severities
    told = list(explained())
    assert len(told) == len(dict(told)), "a code is explained twice"
    assert dict(told) == dict(emitted)


def test_a_code_names_one_kind_of_finding() -> None:
    codes = [code for code, _ in made()]
    assert len(codes) == len(set(codes)) > 40
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)
