"""Alembic's entry: runs the migrations on the connection that :func:`storage.migrations.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from storage.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run migrations with Database.upgrade(), not with alembic's own command")
# SQLite's DDL is transactional once the driver starts no transactions of its own, which database.py sees to.
context.configure(
    connection=connection, target_metadata=metadata, transactional_ddl=True, render_as_batch=connection.dialect.name == "sqlite"
)
with context.begin_transaction():
    context.run_migrations()
