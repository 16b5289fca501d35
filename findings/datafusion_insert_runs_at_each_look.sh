#!/usr/bin/env bash
# datafusion: sql("INSERT ...") inserts nothing, until one looks at what it returned, and then once for each look.
#
# Guess: ctx.sql() carries out an INSERT at once, as it carries out CREATE TABLE at once; looking at what it returns
#     shows how many rows it was.
# Truth: it returns a lazy DataFrame whose plan is the INSERT, as for a SELECT: without a look nothing is inserted, and
#     each collect(), count(), show() or print() carries it out once more. In a notebook, where the value of the last
#     line is shown, the same line inserts; in a script it doesn't.
# Versions: datafusion 55.0.0, pyarrow 26.0.1.
# Source: SessionContext.sql's documentation: "This API implements DDL statements such as CREATE TABLE and CREATE VIEW
#     and DML statements such as INSERT INTO", without the difference; a DataFrame is documented as lazy.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check datafusion==55.0.0 pyarrow==26.0.1

venv/bin/python - <<'PY'
import contextlib
import importlib.metadata
import io

import datafusion

print(f"datafusion {importlib.metadata.version('datafusion')}")
context = datafusion.SessionContext()
context.sql("CREATE TABLE entry (id int)")  # at once: the next line would fail


def rows():
    return context.sql("SELECT count(*) AS n FROM entry").collect()[0]["n"][0].as_py()


insert = context.sql("INSERT INTO entry VALUES (1)")
seen = [rows()]
for look in (insert.collect, insert.count, insert.show, lambda: print(insert)):
    with contextlib.redirect_stdout(io.StringIO()):
        look()
    seen.append(rows())
print(f"rows after sql('INSERT ...'): {seen[0]}; then after collect(), count(), show() and print(): {seen[1:]}")
if seen != [0, 1, 2, 3, 4]:
    raise SystemExit("it is no longer so")
PY
