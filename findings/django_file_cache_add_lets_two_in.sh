#!/usr/bin/env bash
# Django: two who call add() of the file-based cache at once are both told True.
#
# Guess: cache.add() stores only if the key is absent, atomically, so of two the one gets True and the other False, and it
#     can serve as a lock ("only one worker sends the report"), as with Memcached, Redis and the local-memory cache.
# Truth: the file-based cache looks whether the key is there, and then sets it. Whoever looks in between is told True as
#     well. With one call after the other it is as guessed, so a test does not show it. cachelib's FileSystemCache (as used
#     by Flask-Caching and Flask-Session) does the same. The bigger the value is to pickle, the longer the gap.
# Versions: Django 5.2.19, cachelib 0.17.0.
# Source: django/core/cache/backends/filebased.py, add(): has_key() and then set(); the documentation says that add() does
#     nothing if the key is there. cachelib/file.py alike.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check Django==5.2.19 cachelib==0.17.0

venv/bin/python - <<'PY'
import importlib.metadata
import threading

import cachelib
import django
from django.conf import settings

print(f"Django {django.__version__}, cachelib {importlib.metadata.version('cachelib')}")
backends = "django.core.cache.backends"
settings.configure(
    CACHES={
        "default": {"BACKEND": f"{backends}.filebased.FileBasedCache", "LOCATION": "django"},
        "memory": {"BACKEND": f"{backends}.locmem.LocMemCache"},
    }
)
from django.core.cache import caches


class Slow:
    """Takes its time to be pickled: until the other caller has come as far, or a second."""

    def __init__(self, barrier):
        self.barrier = barrier

    def __reduce__(self):
        try:
            self.barrier.wait(1)
        except threading.BrokenBarrierError:
            pass
        return (str, ("worker",))


def at_once(cache):
    barrier = threading.Barrier(2)
    told = []
    callers = [threading.Thread(target=lambda: told.append(cache.add("lock", Slow(barrier), 60))) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sorted(told), cache.add("lock", "third", 60)


seen = {
    "Django, files": at_once(caches["default"]),
    "cachelib, files": at_once(cachelib.FileSystemCache("cachelib")),
    "Django, memory": at_once(caches["memory"]),
}
for name, (told, third) in seen.items():
    print(f"{name}: two at once are told {told}, a third one later {third}")
if list(seen.values()) != [([True, True], False), ([True, True], False), ([False, True], False)]:
    raise SystemExit("it is no longer so")
PY
