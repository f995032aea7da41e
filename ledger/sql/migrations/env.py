"""Runs the ledger's migrations on the connection that `ledger.sql.opening` passes in."""

from __future__ import annotations

from alembic import context

from ledger.sql.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=context.config.attributes["transactional_ddl"],
)
with context.begin_transaction():
    context.run_migrations()
