"""The collectors there are. A new one is one file beside this and one line here."""

from __future__ import annotations

from ingest.collector import CollectorKind, by_system
from ingest.collectors import host, odoo, odoo_health, odoo_log, odoo_workers, postgresql, redis, tls

KINDS: tuple[CollectorKind, ...] = (
    host.KIND,
    odoo.KIND,
    odoo_health.KIND,
    odoo_log.KIND,
    odoo_workers.KIND,
    postgresql.KIND,
    redis.KIND,
    tls.KIND,
)

COLLECTORS = by_system(KINDS)
