"""An order has other names of its article, as customers may call it."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Add the column, empty."""
    with op.batch_alter_table("orders") as orders:
        orders.add_column(sa.Column("names", sa.String(400), nullable=False, server_default=""))
