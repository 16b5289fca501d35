"""The error classes."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timezone

import pytest
from sqlalchemy import create_engine, event, exc

import sa_readonly.errors
from sa_readonly.errors import ConfigurationError, ReadOnlyError

NIGHT = datetime(2026, 11, 22, 23, tzinfo=timezone.utc)


@pytest.fixture
def error():
    return ReadOnlyError(
        "No.", reason="upgrade", until=NIGHT, since=NIGHT, statement="DELETE FROM thing"
    )


def test_the_errors_are_sqlalchemys():
    assert issubclass(ReadOnlyError, exc.InvalidRequestError)
    assert issubclass(ReadOnlyError, exc.DontWrapMixin)
    assert issubclass(ConfigurationError, exc.ArgumentError)
    assert sorted(sa_readonly.errors.__all__) == ["ConfigurationError", "ReadOnlyError"]


def test_a_read_only_error_reads_as_its_message_and_tells_why_and_what(error):
    assert str(error) == "No."
    assert (error.reason, error.until, error.since) == ("upgrade", NIGHT, NIGHT)
    assert error.statement == "DELETE FROM thing"


def test_a_read_only_error_without_details_has_none_of_them():
    error = ReadOnlyError("No.")
    assert (error.reason, error.until, error.since, error.statement) == (None,) * 4


@pytest.mark.parametrize(
    "travel",
    [copy.copy, *(lambda e, p=p: pickle.loads(pickle.dumps(e, p)) for p in range(6))],
)
def test_a_read_only_error_keeps_its_details_on_its_way_to_another_process(error, travel):
    other = travel(error)
    assert type(other) is ReadOnlyError
    assert (str(other), vars(other)) == (str(error), vars(error))


def test_a_read_only_error_raised_while_connecting_is_not_wrapped(error):
    engine = create_engine("sqlite://")

    @event.listens_for(engine, "do_connect")
    def refuse(*args):
        raise error

    with pytest.raises(ReadOnlyError) as caught:
        engine.connect()
    assert caught.value is error


def test_a_read_only_error_raised_while_executing_is_not_wrapped(error):
    engine = create_engine("sqlite://")

    @event.listens_for(engine, "before_cursor_execute")
    def refuse(*args):
        raise error

    with engine.connect() as connection, pytest.raises(ReadOnlyError) as caught:
        connection.exec_driver_sql("SELECT 1")
    assert caught.value is error
    engine.dispose()
