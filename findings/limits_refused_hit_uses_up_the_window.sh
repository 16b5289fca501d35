#!/usr/bin/env bash
# limits: a hit that a fixed window refuses uses it up, so a smaller one that would have fitted is refused as well.
#
# Guess: hit() with a cost that does not fit returns False and takes nothing: of 5 a minute, with 2 taken, a hit of 5 is
#     refused and one of 1 passes.
# Truth: FixedWindowRateLimiter adds the cost to the counter and then looks whether that was too much, and leaves it added.
#     One request that is too big for the window shuts its sender out until the window ends. The moving window and the
#     sliding window counter look first, and take nothing. test() before hit() avoids it, but for a race.
# Versions: limits 5.8.0.
# Source: limits/strategies.py, FixedWindowRateLimiter.hit compares what storage.incr() returns with the limit. The
#     documentation of the strategies speaks of bursts alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check limits==5.8.0

venv/bin/python - <<'PY'
import limits
from limits import parse, strategies
from limits.storage import MemoryStorage

print(f"limits {limits.__version__}")
item = parse("5/hour")
seen = {}
for strategy in (
    strategies.FixedWindowRateLimiter,
    strategies.MovingWindowRateLimiter,
    strategies.SlidingWindowCounterRateLimiter,
):
    limiter = strategy(MemoryStorage())
    passed = tuple(limiter.hit(item, "one", cost=cost) for cost in (2, 5, 1))
    remaining = limiter.get_window_stats(item, "one").remaining
    print(f"{strategy.__name__}, 5 an hour: hits of 2, 5, 1 passed: {passed}; remaining: {remaining}")
    seen[strategy.__name__[:5]] = (passed, remaining)
fits = ((True, False, True), 2)
if seen != {"Fixed": ((True, False, False), 0), "Movin": fits, "Slidi": fits}:
    raise SystemExit("it is no longer so")
PY
