#!/usr/bin/env bash
# pybreaker: a circuit breaker around an `async def` never opens, however often it fails.
#
# Guess: @breaker on a coroutine function counts its failures (as it does those of a generator), or is refused.
# Truth: calling the function gives a coroutine, which is a success for the breaker; the failure comes when it is awaited,
#     outside. The breaker stays closed, with a counter of 0, and a success listener is told of each call. There is no
#     warning; call_async() is Tornado's, and needs that. A generator is wrapped and does count.
# Versions: pybreaker 1.4.1.
# Source: pybreaker's CircuitBreaker.call and __call__: only inspect.isgenerator() results are special, and
#     __pybreaker_call_async=True means Tornado's coroutines.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check pybreaker==1.4.1

venv/bin/python - <<'PY'
import asyncio
import importlib.metadata

import pybreaker

print(f"pybreaker {importlib.metadata.version('pybreaker')}")


class Heard(pybreaker.CircuitBreakerListener):
    def __init__(self):
        self.successes = 0

    def success(self, breaker):
        self.successes += 1


def breaker():
    return pybreaker.CircuitBreaker(fail_max=2, listeners=[Heard()])


around_async, around_plain, around_generator = breaker(), breaker(), breaker()


@around_async
async def with_async():
    raise ConnectionError


@around_plain
def plain():
    raise ConnectionError


@around_generator
def generator():
    yield 1
    raise ConnectionError


def errors(call):
    seen = []
    for _ in range(4):
        try:
            call()
        except (ConnectionError, pybreaker.CircuitBreakerError) as error:
            seen.append(type(error).__name__)
    return seen


seen = {}
for name, one, call in (
    ("async def", around_async, lambda: asyncio.run(with_async())),
    ("def", around_plain, plain),
    ("generator", around_generator, lambda: list(generator())),
):
    told = errors(call)
    print(f"{name}: {told}; {one.current_state}, counted {one.fail_counter}, successes {one.listeners[0].successes}")
    seen[name] = one.current_state
if seen != {"async def": "closed", "def": "open", "generator": "open"} or around_async.listeners[0].successes != 4:
    raise SystemExit("it is no longer so")
PY
