#!/usr/bin/env bash
# slatedb: an awaited put() has not reached the store; a fenced writer reads back what nobody else will ever see.
#
# Guess: `await db.put()` returns once the write is durable (so it was before: "a Future that resolves when the data is
#     durably persisted"), and the put of a writer that was fenced by a newer one raises.
# Truth: it returns once the write is in this process's memory. The put of a fenced writer succeeds, and the writer
#     reads back its own value; the store and the newer writer never get it. Only `await_durable()` on the handle that
#     put() returns says so ("detected newer DB client"). So does a later put, once the writer has noticed. What was put
#     right before the process ends without shutdown() is gone too.
# Versions: slatedb 0.17.0.
# Source: slatedb pull request 1985 ("Remove await_durable from WriteOptions"): writes return a handle after updating
#     memory, who wants durability awaits the handle or flush(). The description of slatedb 0.7.0 on PyPI promised it at
#     put().
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check slatedb==0.17.0

cat >one.py <<'PY'
import asyncio
import importlib.metadata
import os
import sys

from slatedb.uniffi import DbBuilder, ObjectStore

place = f"{os.getcwd().lstrip('/')}/db"


async def opened():
    return await DbBuilder(place, ObjectStore.resolve("file:///")).build()


async def fenced():
    print(f"slatedb {importlib.metadata.version('slatedb')}")
    first = await opened()
    await (await first.put(b"key", b"old")).await_durable()
    second = await opened()
    handle = await first.put(b"key", b"new")
    reads = await first.get(b"key")
    try:
        await handle.await_durable()
        durable = "durable"
    except Exception as error:
        durable = f"{type(error).__name__}: {error}"
    other = await second.get(b"key")
    print(f"a fenced writer puts 'new': no error; it reads {reads}; await_durable(): {durable}; the second reads {other}")
    await second.put(b"last", b"written")
    mine = await second.get(b"last")
    print(f"the second puts and reads {mine}, then its process ends", flush=True)
    if (reads, other, mine) != (b"new", b"old", b"written") or "newer" not in durable:
        os._exit(1)
    os._exit(0)


async def after():
    third = await opened()
    found = await third.get(b"key"), await third.get(b"last")
    print(f"a third process reads {found}")
    await third.shutdown()
    if found != (b"old", None):
        raise SystemExit("it is no longer so")


asyncio.run(asyncio.wait_for(fenced() if sys.argv[1:] == ["fenced"] else after(), 60))
PY
venv/bin/python one.py fenced || { echo "it is no longer so"; exit 1; }
venv/bin/python one.py after
