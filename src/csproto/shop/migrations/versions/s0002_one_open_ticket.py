"""A customer has one open payment ticket and one open ticket for an overdue refund per order: the database holds to it too."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"

OPEN = "NOT closed AND kind IN ('payment', 'refund_overdue')"


def upgrade() -> None:
    """Of tickets that were opened twice the oldest stays open."""
    op.execute(
        f"UPDATE ticket SET closed = true WHERE {OPEN}"
        f" AND id NOT IN (SELECT min(id) FROM ticket WHERE {OPEN} GROUP BY customer_id, order_id, kind)"
    )
    op.create_index(
        "one_open_ticket",
        "ticket",
        ["customer_id", "order_id", "kind"],
        unique=True,
        sqlite_where=sa.text(OPEN),
        postgresql_where=sa.text(OPEN),
    )
