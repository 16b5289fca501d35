"""When an entry was signed.

The application that runs knows nothing of it: it goes on before, while and after this runs.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("entry", sa.Column("signed", sa.DateTime(timezone=True)))
