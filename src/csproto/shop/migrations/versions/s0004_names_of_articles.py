"""An order has the other names of its article that customers may use."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Add the column, empty."""
    with op.batch_alter_table("orders") as orders:
        column = sa.Column("names", sa.String(400), nullable=False, server_default="")
        orders.add_column(column)
