"""The store's schema, in steps: `await migrate(database_url)` brings a database to the newest."""

from sinks.migrations.apply import migrate

__all__ = ["migrate"]
