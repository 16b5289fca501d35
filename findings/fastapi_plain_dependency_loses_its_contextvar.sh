#!/usr/bin/env bash
# FastAPI: a ContextVar that a plain `def` dependency sets is not set in the endpoint; an `async def` one's is.
#
# Guess: a dependency that puts the request's tenant (or session) into a ContextVar does so for the rest of the request,
#     written with def or with async def, whichever the endpoint is.
# Truth: a plain one runs in a thread, in a copy of the request's context, which is thrown away when it returns. The
#     endpoint sees the variable's default, and where that has a meaning (no filter, the public schema) it reads and writes
#     as that, without an error. A plain dependency with `yield` that resets its token behind it gets ValueError, "created in
#     a different Context", as its end runs in another copy. It is the dependency that must be async, not the endpoint.
# Versions: FastAPI 0.165.0, Starlette 1.10.0, AnyIO 4.16.0.
# Source: issue 953 of FastAPI (open) and its pull request 13453, a caveat for the documentation (open).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check fastapi==0.165.0 starlette==1.10.0 anyio==4.16.0 httpx==0.28.1

venv/bin/python - <<'PY'
import asyncio
import contextvars
import importlib.metadata

import httpx
from fastapi import Depends, FastAPI

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("fastapi", "starlette", "anyio")))
ROWS = {"ann": ["ann's row"], "bob": ["bob's row"]}
tenant = contextvars.ContextVar("tenant", default=None)
resets = []


def rows():
    """The rows of the tenant; where there is none, as in the nightly report, all."""
    return ROWS.get(tenant.get()) or sum(ROWS.values(), [])


def plain():
    tenant.set("ann")


async def coroutine():
    tenant.set("ann")


def plain_yield():
    token = tenant.set("ann")
    yield
    try:
        tenant.reset(token)
    except ValueError as error:
        resets.append(f"{type(error).__name__}: {str(error).rpartition(' was ')[2]}")


async def coroutine_yield():
    token = tenant.set("ann")
    yield
    tenant.reset(token)


async def async_rows():
    return rows()


app = FastAPI()
for dependency in (plain, coroutine, plain_yield, coroutine_yield):
    for name, endpoint in (("def", rows), ("async def", async_rows)):
        app.get(f"/{dependency.__name__}/{name}", dependencies=[Depends(dependency)])(endpoint)


async def main():
    """The answers; each request is a task with a context of its own, as with a server."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        paths = [route.path for route in app.routes if route.endpoint in (rows, async_rows)]
        return {path: (await asyncio.create_task(client.get(path))).json() for path in paths}


seen = asyncio.run(main())
for path, answer in seen.items():
    print(f"{path}: {answer}")
print(f"reset() of the token in plain_yield: {resets}")
everything, own = ["ann's row", "bob's row"], ["ann's row"]
if list(seen.values()) != ([everything] * 2 + [own] * 2) * 2 or resets != ["ValueError: created in a different Context"] * 2:
    raise SystemExit("it is no longer so")
PY
