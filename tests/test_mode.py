"""Mode, State, FixedSwitch and the Switch protocol."""

from __future__ import annotations

import dataclasses
import math
import time
from datetime import datetime, timedelta, timezone

import pytest

from sa_readonly.errors import ConfigurationError
from sa_readonly.mode import Mode, State, Switch, clock, missing, now
from sa_readonly.switch import FileSwitch, FixedSwitch

HOUR = timedelta(hours=1)
MEMBERS = {"known", "fresh_until", "ttl", "fence", "forced", "checked", "name", "overridden"}
MEMBERS |= {
    "confirms",
    "refresh",
    "glance",
    "check",
    "identify",
    "subscribe",
    "override",
    "look_ahead",
}


def test_a_mode_reads_as_users_write_it():
    assert [str(mode) for mode in Mode] == ["read-write", "read-only"]
    assert Mode("read-only") is Mode.READ_ONLY


def test_a_state_has_the_fields_of_the_contract_and_what_is_announced():
    names = [field.name for field in dataclasses.fields(State)]
    assert names == ["mode", "reason", "until", "since", "generation", "announced"]
    assert State(Mode.READ_WRITE) == State(Mode.READ_WRITE, None, None, None, None)


def test_a_state_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        State(Mode.READ_ONLY).mode = Mode.READ_WRITE


def test_a_state_tells_whether_it_is_read_only():
    assert State(Mode.READ_ONLY).read_only is True
    assert State(Mode.READ_WRITE).read_only is False


@pytest.mark.parametrize(
    ("mode", "until", "overdue"),
    [
        (Mode.READ_ONLY, -HOUR, True),
        (Mode.READ_ONLY, HOUR, False),
        (Mode.READ_ONLY, None, False),
        (Mode.READ_WRITE, -HOUR, False),
    ],
)
def test_a_state_is_overdue_when_it_is_read_only_past_until(mode, until, overdue):
    assert State(mode, until=until and now() + until).overdue is overdue


def test_now_is_aware_and_in_utc():
    assert now().tzinfo is timezone.utc
    assert abs(now() - datetime.now().astimezone()) < HOUR


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux has it")
def test_the_clock_of_answers_goes_on_while_the_machine_sleeps():
    assert (clock.func, clock.args) == (time.clock_gettime, (time.CLOCK_BOOTTIME,))
    assert clock() <= time.clock_gettime(time.CLOCK_BOOTTIME) <= clock()


@pytest.mark.parametrize("mode", list(Mode))
def test_a_fixed_switch_always_tells_its_mode(mode):
    switch = FixedSwitch(mode)
    assert switch.known is switch.refresh() is switch.check()
    assert switch.known.mode is mode
    assert switch.known.since.tzinfo is timezone.utc
    assert clock() < switch.fresh_until == switch.ttl == switch.fence == math.inf
    assert repr(switch) == f"FixedSwitch({mode})"


def test_a_fixed_switch_turns_a_gate_once_and_tells_no_flip():
    turned, told = [], []
    switch = FixedSwitch(Mode.READ_ONLY)
    end = switch.subscribe(turned.append, lambda *flip: told.append(flip))
    end()
    end()
    assert (turned, told) == ([switch.known], [])


@pytest.mark.parametrize("wrong", ["read-only", None, True, Mode])
def test_a_fixed_switch_of_no_mode_is_a_configuration_error(wrong):
    with pytest.raises(ConfigurationError) as caught:
        FixedSwitch(wrong)
    assert str(caught.value) == (
        f"FixedSwitch(mode) takes Mode.READ_WRITE or Mode.READ_ONLY, not {wrong!r}."
    )


def test_both_switches_have_all_of_the_protocol(tmp_path):
    names = {name for name in (*vars(Switch), *Switch.__annotations__) if not name.startswith("_")}
    assert names == set(missing(object())) == MEMBERS
    for switch in (FixedSwitch(Mode.READ_ONLY), FileSwitch(tmp_path / "read-only.txt")):
        assert missing(switch) == []
