#!/usr/bin/env bash
# A diskcache transaction that is rolled back loses the value it was to keep, if that value was big.
#
# Guess: `with cache.transact():` is all or nothing, as its documentation says: after an exception inside, the keys
#     hold what they held before.
# Truth: so it is for small values, which live in SQLite. A value over 32 KiB lives in a file, and each set(), pop() or
#     delete inside the block deletes the old file at once, not at the end of the outer transaction; the rollback then
#     brings back a row whose file is gone. `key in cache` is True and len() counts it, yet get() says it is not there.
#     The file of the new value stays for ever (a leak) until cache.check(fix=True).
# Versions: diskcache 5.6.3.
# Source: diskcache/core.py, Cache._transact: the inner use of it runs its clean-up although only the outer one
#     commits.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check diskcache==5.6.3

venv/bin/python - <<'PY'
import diskcache

print(f"diskcache {diskcache.__version__}")
cache = diskcache.Cache("cache")


def rolled_back(change):
    cache["small"], cache["big"] = "old", "old" * 20_000
    try:
        with cache.transact():
            cache["small"] = "new"
            change()
            raise LookupError
    except LookupError:
        pass
    return cache.get("small"), (cache.get("big") or "")[:3] or None, "big" in cache, len(cache)


seen = []
for name, change in {
    "nothing": lambda: None,
    "set": lambda: cache.set("big", "new" * 20_000),
    "pop": lambda: cache.pop("big"),
    "delete": lambda: cache.delete("big"),
}.items():
    small, big, contained, length = rolled_back(change)
    print(f"{name} of the big value rolled back: small is {small!r}, big is {big!r}, in cache: {contained}, len {length}")
    seen.append((small, big, contained, length))
print(f"cache.check() finds: {sorted({str(warning.message).split(':')[0] for warning in cache.check()})}")
if seen != [("old", "old", True, 2)] + [("old", None, True, 2)] * 3:
    raise SystemExit("it is no longer so")
PY
