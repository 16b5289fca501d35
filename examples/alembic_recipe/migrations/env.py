"""Alembic's environment, with an engine of its own.

The application's selector and its read-write engine refuse while the application is read-only,
which is when this runs. An engine that no selector knows is refused by nobody: so run it when
``sa-readonly wait`` has said *drained*, and not before.
"""

import os

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

# Another database that is no standby, as a copy that is read meanwhile:
# alembic -x url=postgresql+psycopg2://... upgrade head
url = context.get_x_argument(as_dictionary=True).get("url") or os.environ["GUESTBOOK_RW_URL"]

with create_engine(url, poolclass=NullPool).connect() as connection:
    # For --autogenerate give target_metadata=Base.metadata; importing the application is harmless.
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
