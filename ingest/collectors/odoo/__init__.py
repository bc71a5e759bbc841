"""Odoo 16-19 through its own PostgreSQL tables, one tenant's database a resource. Start reading at `collector.py`."""

from __future__ import annotations

from ingest.collectors.odoo.collector import KIND, Odoo

__all__ = ["KIND", "Odoo"]
