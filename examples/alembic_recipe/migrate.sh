#!/bin/sh
# Migrates the read-write database while the application is read-only:
#
#   GUESTBOOK_RW_URL=... SA_READONLY_FILE=/var/lib/myapp/read-only.txt ./migrate.sh --expect 4
#
# What fails ends it, and the application stays read-only: nobody writes into half a migration.
# Mend it and start this again, or go back with `sa-readonly off`.
set -eu
cd "$(dirname "$0")"
SA_READONLY_READ_WRITE_URL=${GUESTBOOK_RW_URL:?}
export SA_READONLY_READ_WRITE_URL

sa-readonly on --reason "${REASON:-upgrade}" --wait "$@"
alembic upgrade head
sa-readonly off --wait
