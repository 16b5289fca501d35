#!/usr/bin/env bash
# fastapi-cache2: an endpoint that takes a database session by Depends() is never answered from the cache.
#
# Guess: the key of @cache is made of what the request asked for; what a dependency gives, as a session, is no part of it,
#     as the Request and Response that FastAPI injects are not.
# Truth: the default key is made of the text of all arguments. That of a session, a connection or a client has its address
#     in it, so each request has a key of its own: the cache is filled and not read, without a word. (Where memory is
#     used again a key may come up again, by chance, with its old answer.) A key_builder of one's own avoids it.
# Versions: fastapi-cache2 0.2.2, FastAPI 0.165.0, SQLAlchemy 2.1.9.
# Source: fastapi_cache/key_builder.py, default_key_builder, takes args and kwargs as they are.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check fastapi-cache2==0.2.2 fastapi==0.165.0 'SQLAlchemy==2.1.9' uvicorn==0.54.0 jinja2==3.1.6

venv/bin/python - <<'PY'
import importlib.metadata
import json
import threading
import time
import urllib.request

import fastapi
import sqlalchemy as sa
import uvicorn
from fastapi import Depends, FastAPI
from fastapi_cache import FastAPICache
from fastapi_cache.backends.inmemory import InMemoryBackend
from fastapi_cache.decorator import cache
from sqlalchemy.orm import Session

print(f"fastapi-cache2 {importlib.metadata.version('fastapi-cache2')}, FastAPI {fastapi.__version__}", end=", ")
print(f"SQLAlchemy {sa.__version__}")
engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
application = FastAPI()
FastAPICache.init(InMemoryBackend())
computed = {"with a session": 0, "without": 0}
kept = []  # a request's session lives on, as with a pool of them: no address is used again


def session():
    with Session(engine) as one:
        kept.append(one)
        yield one


@application.get("/with/{id}")
@cache(expire=60)
async def with_session(id: int, session: Session = Depends(session)):
    computed["with a session"] += 1
    return {"id": id, "value": session.scalar(sa.text("SELECT 1"))}


@application.get("/without/{id}")
@cache(expire=60)
async def without(id: int):
    computed["without"] += 1
    return {"id": id}


server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=0, log_level="error"))
thread = threading.Thread(target=server.run)
thread.start()
while not server.started:
    time.sleep(0.02)
port = server.servers[0].sockets[0].getsockname()[1]
try:
    for path in ("with", "without"):
        for _ in range(5):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}/1", timeout=20) as answer:
                json.load(answer)
finally:
    server.should_exit = True
    thread.join()
print(f"five requests of one address each; computed: {computed}")
if computed != {"with a session": 5, "without": 1}:
    raise SystemExit("it is no longer so")
PY
