#!/usr/bin/env bash
# A Sentry filter on an exception drops the log records that carry it, too, however they came about.
#
# Guess: before_send gets hint["exc_info"] for what was raised and not caught, or was captured, so that returning None
#     for one class of exceptions silences those alone.
# Truth: a record at ERROR with exc_info becomes an event by the logging integration, with the same hint. "The answer had
#     begun, and could not be taken back", logged on purpose with the exception as its cause, is dropped with it, and
#     nothing tells that. hint["log_record"] is what tells the two apart.
# Versions: sentry-sdk 2.75.0.
# Source: sentry_sdk/integrations/logging.py, EventHandler: the hint has log_record, and exc_info of the record.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check sentry-sdk==2.75.0

venv/bin/python - <<'PY'
import logging

import sentry_sdk
from sentry_sdk.transport import Transport

sent = []


class Kept(Transport):
    def capture_envelope(self, envelope):
        sent.append(envelope.get_event())


class Refused(Exception):
    pass


def plainly(event, hint):
    return None if isinstance(hint.get("exc_info", [None] * 3)[1], Refused) else event


def knowing(event, hint):
    return event if "log_record" in hint else plainly(event, hint)


def shown(before_send):
    sent.clear()
    sentry_sdk.init(
        "http://key@127.0.0.1:9/1", transport=Kept, before_send=before_send, auto_enabling_integrations=False
    )
    try:
        raise Refused("a write")
    except Refused as error:
        sentry_sdk.capture_exception(error)
        logging.getLogger("app").error("The answer had begun.", exc_info=error)
    return [event["logentry"]["message"] if "logentry" in event else "the exception" for event in sent]


print(f"sentry-sdk {sentry_sdk.VERSION}")
seen = {one.__name__: shown(one) for one in (plainly, knowing)}
print(f"filtered by the exception: {seen['plainly']}; by the record as well: {seen['knowing']}")
if seen != {"plainly": [], "knowing": ["The answer had begun."]}:
    raise SystemExit("it is no longer so")
PY
