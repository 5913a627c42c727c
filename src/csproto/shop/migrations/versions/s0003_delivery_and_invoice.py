"""An order has recipient, phone, invoice title and tax id.

Of more kinds of tickets, a customer can have only one open for an order.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"

OPEN = (
    "NOT closed AND kind IN ('payment', 'refund_overdue', 'complaint', 'trace', 'change', "
    "'quality', 'handoff')"
)


def upgrade() -> None:
    """Add the columns, empty. Of tickets that were opened twice, only the oldest stays open."""
    with op.batch_alter_table("orders") as orders:
        for name, length in (
            ("recipient", 80),
            ("phone", 40),
            ("invoice_title", 200),
            ("tax_id", 40),
        ):
            column = sa.Column(name, sa.String(length), nullable=False, server_default="")
            orders.add_column(column)
    op.execute(
        f"UPDATE ticket SET closed = true WHERE {OPEN}"
        " AND id NOT IN"
        f" (SELECT min(id) FROM ticket WHERE {OPEN} GROUP BY customer_id, order_id, kind)"
    )
    op.drop_index("one_open_ticket", "ticket")
    op.create_index(
        "one_open_ticket",
        "ticket",
        ["customer_id", "order_id", "kind"],
        unique=True,
        sqlite_where=sa.text(OPEN),
        postgresql_where=sa.text(OPEN),
    )
