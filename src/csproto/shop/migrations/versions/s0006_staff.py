"""A ticket says who of the staff took it and who closed it, when, and with which note."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    """Add the columns, empty: of the tickets that are closed, nobody knows by whom."""
    with op.batch_alter_table("ticket") as ticket:
        for name, length in (("taken_by", 80), ("closed_by", 80), ("note", 500)):
            column = sa.Column(name, sa.String(length), nullable=False, server_default="")
            ticket.add_column(column)
        for name in ("taken_at", "closed_at"):
            ticket.add_column(sa.Column(name, sa.DateTime))
