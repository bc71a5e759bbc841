"""Alembic's entry: the connection comes from `sinks.migrations.apply`."""

from __future__ import annotations

from alembic import context

from sinks.migrations.apply import VERSIONS

context.configure(connection=context.config.attributes["connection"], target_metadata=None, version_table=VERSIONS)
with context.begin_transaction():
    context.run_migrations()
