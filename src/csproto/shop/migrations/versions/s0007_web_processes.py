"""Several web processes share their visitors and rates through the database."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0007", "0006"


def upgrade() -> None:
    """Create the tables. PostgreSQL need not keep the rates across a crash."""
    op.create_table(
        "visitor",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("customer_id", sa.String(32), nullable=False, index=True),
        sa.Column("conversation_id", sa.String(40), nullable=False),
        sa.Column("chat", sa.JSON, nullable=False),
        sa.Column("answering", sa.JSON),
        sa.Column("stop", sa.Boolean, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("came_back", sa.Boolean, nullable=False),
        sa.Column("seen_at", sa.DateTime, nullable=False, index=True),
    )
    op.create_table(
        "rate",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("due", sa.Double, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE rate SET UNLOGGED")
