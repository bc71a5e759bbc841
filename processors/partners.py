"""Which partner (carrier, EDI, marketplace) a queue channel serves.

People name the channels of OCA's job queue after what they separate: `root.carrier.dhl`, `root.edi.metro`,
`root.connector_shopify`. The partner is the last part that is no general word; a channel of general words alone (`root.carrier`,
`root.import`) serves no single one. Source: OCA queue_job's README, and the channels that its connectors declare.
"""

from __future__ import annotations

import re

from schemas.caches import NAMES_BYTES, cached

GENERAL = frozenset(
    [
        "account",
        "accounting",
        "api",
        "background",
        "base",
        "batch",
        "bulk",
        "bus",
        "carrier",
        "carriers",
        "connector",
        "connectors",
        "cron",
        "default",
        "delivery",
        "document",
        "documents",
        "edi",
        "email",
        "emails",
        "erp",
        "exchange",
        "export",
        "exports",
        "fast",
        "fulfillment",
        "general",
        "heavy",
        "high",
        "import",
        "imports",
        "inbound",
        "integration",
        "integrations",
        "inventory",
        "invoice",
        "invoices",
        "invoicing",
        "jobs",
        "label",
        "labels",
        "large",
        "light",
        "long",
        "low",
        "mail",
        "mails",
        "main",
        "manufacturing",
        "marketplace",
        "marketplaces",
        "mrp",
        "normal",
        "notification",
        "notifications",
        "order",
        "orders",
        "outbound",
        "parcel",
        "parcels",
        "partner",
        "partners",
        "pdf",
        "picking",
        "pickings",
        "pos",
        "print",
        "printing",
        "priority",
        "product",
        "products",
        "purchase",
        "purchases",
        "queue",
        "report",
        "reports",
        "root",
        "sale",
        "sales",
        "sequential",
        "shipment",
        "shipments",
        "shipping",
        "shop",
        "shops",
        "single",
        "slow",
        "small",
        "sms",
        "stock",
        "sync",
        "synchronization",
        "tracking",
        "transfer",
        "transfers",
        "urgent",
        "warehouse",
        "web",
        "webhook",
        "webhooks",
        "webshop",
        "webshops",
        "website",
    ]
)
_PREFIX = re.compile(r"^(?:connector|delivery|edi|carrier|marketplace|integration|sale|shop)_+(?=\w)")


@cached("cache.names", NAMES_BYTES)
def partner_of(channel: str) -> str | None:
    """The partner whose jobs a channel holds; None when it is nobody's alone."""
    for part in reversed(channel.lower().split(".")):
        words = [word for word in re.split(r"[_\-\s]+", part) if word]
        if words and not GENERAL.issuperset(words) and not part.isdigit():
            return _PREFIX.sub("", part) if set(words) - GENERAL else part
    return None
