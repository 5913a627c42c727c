"""What alembic runs for each of its commands, on the connection that `migrate` passes."""

from alembic import context

from csproto.shop.store import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
