"""A customer has at most one open ticket of a kind for an order, now also by an index.

The kinds are `payment` and `refund_overdue`.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"

OPEN = "NOT closed AND kind IN ('payment', 'refund_overdue')"


def upgrade() -> None:
    """Create the index. Of tickets that were opened twice, only the oldest stays open."""
    op.execute(
        f"UPDATE ticket SET closed = true WHERE {OPEN}"
        " AND id NOT IN"
        f" (SELECT min(id) FROM ticket WHERE {OPEN} GROUP BY customer_id, order_id, kind)"
    )
    op.create_index(
        "one_open_ticket",
        "ticket",
        ["customer_id", "order_id", "kind"],
        unique=True,
        sqlite_where=sa.text(OPEN),
        postgresql_where=sa.text(OPEN),
    )
