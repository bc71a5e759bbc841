"""What is read from PostgreSQL 13-18: one connection, about six short statements a look, by tenant = database."""

from __future__ import annotations

from ingest.collectors.postgresql.collector import KIND, Postgresql, PostgresqlOptions

__all__ = ["KIND", "Postgresql", "PostgresqlOptions"]
