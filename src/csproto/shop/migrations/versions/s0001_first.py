"""The tables of the first version.

A database from before there were migrations has them already. It only gets the number
of this step.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def _customer() -> "sa.Column[str]":
    return sa.Column(
        "customer_id", sa.String(32), sa.ForeignKey("customer.id"), nullable=False, index=True
    )


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "customer",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("language", sa.String(2), nullable=False),
        sa.Column("joined_at", sa.DateTime, nullable=False),
        sa.Column("failed_payments", sa.Integer, nullable=False),
        sa.Column("address_matches", sa.Boolean, nullable=False),
    )
    op.create_table(
        "orders",
        sa.Column("id", sa.String(32), primary_key=True),
        _customer(),
        sa.Column("item", sa.String(120), nullable=False),
        sa.Column("category", sa.String(20), nullable=False),
        sa.Column("opened", sa.Boolean, nullable=False),
        sa.Column("amount", sa.Integer, nullable=False),
        sa.Column("address", sa.String(200), nullable=False),
        sa.Column("note", sa.String(200), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        *(
            sa.Column(f"{moment}_at", sa.DateTime)
            for moment in ("paid", "promised", "shipped", "delivered", "cancelled")
        ),
        sa.Column("carrier", sa.String(40), nullable=False),
        sa.Column("tracking_number", sa.String(40), nullable=False),
        sa.Column("payment", sa.String(12), nullable=False),
        sa.Column("refund", sa.String(12), nullable=False),
        sa.Column("refund_at", sa.DateTime),
        sa.Column("invoice", sa.String(12), nullable=False),
    )
    op.create_table(
        "ticket",
        sa.Column("id", sa.Integer, primary_key=True),
        _customer(),
        sa.Column("order_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("escalated", sa.Boolean, nullable=False),
        sa.Column("closed", sa.Boolean, nullable=False),
        sa.Column("summary", sa.String(2000), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("key", sa.String(120), primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("customer_id", sa.String(32), nullable=False, index=True),
        sa.Column("order_id", sa.String(32), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("rule", sa.String(60), nullable=False),
        sa.Column("detail", sa.String(500), nullable=False),
    )
    op.create_table(
        "conversation",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("customer_id", sa.String(32), nullable=False, index=True),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("transcript", sa.JSON, nullable=False),
    )
