"""An audit row names the request of the page that it was written for."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    """Add the column, empty."""
    with op.batch_alter_table("audit") as audit:
        column = sa.Column("request", sa.String(64), nullable=False, server_default="")
        audit.add_column(column)
