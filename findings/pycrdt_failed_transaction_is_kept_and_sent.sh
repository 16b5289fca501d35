#!/usr/bin/env bash
# pycrdt (Yjs): what a transaction did before its error stays in the document, and is sent to the others.
#
# Guess: an error inside `with doc.transaction()` undoes what the block has changed, as with a database; or at least
#     nothing of it is sent.
# Truth: a transaction only gathers changes into one update. When the block ends, by an error or not, it is committed: the
#     document holds half of the change, the observers get it as any other update, and a peer that applies it has it for
#     good. (A CRDT can't take back what others have; the way back is an undo manager, or to check before one changes.)
# Versions: pycrdt 0.14.13.
# Source: pycrdt/_transaction.py, Transaction.__exit__ commits whatever ended the block; y-crdt/ypy issue 144 (open) asks
#     for a rollback.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check pycrdt==0.14.13

venv/bin/python - <<'PY'
import importlib.metadata

from pycrdt import Doc, Map

print(f"pycrdt {importlib.metadata.version('pycrdt')}")
document, peer = Doc(), Doc()
accounts = document.get("accounts", type=Map)
with document.transaction():
    accounts["a"], accounts["b"] = 100, 0
peer.apply_update(document.get_update())
document.observe(lambda event: peer.apply_update(event.update))


def transfer(amount):
    with document.transaction():
        accounts["a"] = accounts["a"] - amount
        raise LookupError("no account of that name")


try:
    transfer(30)
except LookupError as error:
    print(f"the transaction raised: {error}")
here, there = accounts.to_py(), peer.get("accounts", type=Map).to_py()
print(f"document: {here}; peer: {there}")
if not here == there == {"a": 70, "b": 0}:
    raise SystemExit("it is no longer so")
PY
