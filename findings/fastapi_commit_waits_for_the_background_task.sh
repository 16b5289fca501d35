#!/usr/bin/env bash
# FastAPI: what a dependency does after its `yield`, as a commit, is done after the answer and after the background tasks.
#
# Guess: the dependency that gives a session and commits after `yield` has committed before the client has the answer, or
#     at least before a background task runs, since that comes last of all.
# Truth: the order is endpoint, answer, background tasks, and then the rest of the dependency. So a background task that
#     looks for the row by its id does not find it, a client that asks for what it has just been told was created gets
#     404 as long as the task runs, the transaction (with its locks) is open that long, and a commit that fails has been
#     answered with 200. With Depends(..., scope="function") the commit comes before the answer.
# Versions: FastAPI 0.165.0, uvicorn 0.54.0, SQLite of the Python.
# Source: FastAPI's documentation, "Dependencies with yield": after the response (from 0.106 to 0.117 it was before the
#     answer), and on scope. That it comes after the background tasks too is told of the versions before 0.106.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check fastapi==0.165.0 uvicorn==0.54.0

venv/bin/python - <<'PY'
import json
import sqlite3
import threading
import time
import urllib.error
import urllib.request

import fastapi
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException

print(f"FastAPI {fastapi.__version__}, uvicorn {uvicorn.__version__}, SQLite {sqlite3.sqlite_version}")
application = FastAPI()
asked = threading.Event()
in_the_task = []


def connect():
    return sqlite3.connect("orders.db", check_same_thread=False, timeout=10)


with connect() as connection:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")


def session():
    connection = connect()
    yield connection
    connection.commit()
    connection.close()


def rows(id):
    connection = connect()
    try:
        return connection.execute("SELECT count(*) FROM orders WHERE id = ?", (id,)).fetchone()[0]
    finally:
        connection.close()


def send_mail(id):
    in_the_task.append(rows(id))
    asked.wait(20)


def create(id, tasks, connection):
    connection.execute("INSERT INTO orders VALUES (?)", (id,))
    tasks.add_task(send_mail, id)
    return {"created": id}


@application.post("/request/{id}")
def create_request(id: int, tasks: BackgroundTasks, connection: sqlite3.Connection = Depends(session)):
    return create(id, tasks, connection)


@application.post("/function/{id}")
def create_function(
    id: int, tasks: BackgroundTasks, connection: sqlite3.Connection = Depends(session, scope="function")
):
    return create(id, tasks, connection)


@application.get("/orders/{id}")
def order(id: int):
    if not rows(id):
        raise HTTPException(404)
    return {"id": id}


config = uvicorn.Config(application, host="127.0.0.1", port=0, log_level="error")
server = uvicorn.Server(config)
thread = threading.Thread(target=server.run)
thread.start()
while not server.started:
    time.sleep(0.02)
port = server.servers[0].sockets[0].getsockname()[1]


def call(method, path):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


seen = {}
try:
    for id, scope in enumerate(("request", "function"), 1):
        asked.clear()
        in_the_task.clear()
        told = call("POST", f"/{scope}/{id}")
        status, _ = call("GET", f"/orders/{id}")
        asked.set()
        until = time.monotonic() + 20
        while (later := call("GET", f"/orders/{id}")[0]) != 200 and time.monotonic() < until:
            time.sleep(0.02)
        print(f"{scope}: {told}; asked for it at once: {status}, when the task has ended: {later};", end=" ")
        print(f"rows that the task saw: {in_the_task[0]}")
        seen[scope] = (told[0], status, later, in_the_task[0])
finally:
    asked.set()
    server.should_exit = True
    thread.join()
if seen != {"request": (200, 404, 200, 0), "function": (200, 200, 200, 1)}:
    raise SystemExit("it is no longer so")
PY
