"""Senders of every registered receiver: a sample of what each takes, and how it proves itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ingest.receivers.events import MODELS
from ingest.receivers.receiver import Receiver, ReceiverKind
from ingest.receivers.registry import RECEIVERS
from ingest.receivers.signature import GitHubSignature, Holder, StandardWebhooks
from schemas.estate import Cell, Estate, Key, Resource, Tenant
from schemas.records import (
    BusinessBatch,
    Change,
    LogBatch,
    OperationsEvent,
    Record,
    Scrape,
    SecurityEvent,
    SpanBatch,
)

NOW_MS = 1_760_000_000_000
ESTATE = Estate(
    cells=(
        Cell(
            name="eu1",
            tenants=(Tenant(name="acme", database="acme_prod"), Tenant(name="birch")),
            resources=(Resource(name="db", system="postgresql", url="postgresql://db/x"),),
        ),
        Cell(name="us1", environment="staging", tenants=(Tenant(name="zeta"),)),
    )
)


def secret(number: int) -> str:
    """A key that nobody guesses and no other test has."""
    return "whsec_" + base64.b64encode(hashlib.sha256(f"canary {number}".encode()).digest()[:24]).decode()


def records(cell: str, tenant: str | None, number: int = 0) -> dict[str, Record]:
    """One record of every topic that receivers take, by its type."""
    who: dict[str, Any] = {"cell": cell, "time_ms": NOW_MS - number}
    seen = {**who, "resource": "gateway", "system": "edi"}
    rows = {**seen, "tenants": (tenant,), "times_ms": (NOW_MS - number,)}
    attributes = {"tenant.id": tenant} if tenant else {}
    series = "edi.files" + (f'{{tenant.id="{tenant}"}}' if tenant else "")
    several = (
        Scrape(**seen, series=series, values=(1.0,)),
        LogBatch(**rows, severity_numbers=(9,), bodies=(f"file {number} came",)),
        SpanBatch(
            **rows,
            trace_ids=("a" * 32,),
            span_ids=("b" * 16,),
            parent_span_ids=(None,),
            names=("send",),
            kinds=("client",),
            durations_ms=(3.0,),
            errors=(None,),
        ),
        Change(
            **who,
            change_id=f"release-{number}",
            kind="release",
            status="started",
            service="odoo",
            revision="2.4.1",
            tenants=(tenant,) if tenant else (),
            origin="gitlab",
        ),
        BusinessBatch(
            **rows,
            document_types=("sale.order",),
            document_ids=(number,),
            document_names=("S1",),
            states=("sale",),
            orders=(None,),
            amounts=(1.0,),
            currencies=("EUR",),
            warehouses=(None,),
            carriers=(None,),
            deadlines_ms=(None,),
        ),
        OperationsEvent(**seen, tenant=tenant, name="edi.partner.silent", body="No file.", attributes=attributes),
        SecurityEvent(**seen, tenant=tenant, name="edi.login", actor="ada"),
    )
    by_type = {one.type: one for one in several}
    assert set(by_type) == set(MODELS), "every topic that receivers take has a sample here"
    return by_type


def change(cell: str, tenant: str | None, number: int) -> Any:
    made = records(cell, tenant, number)[Change.type].model_dump(mode="json", exclude_none=True, exclude={"origin"})
    return made | {"time_ms": NOW_MS}


def events(cell: str, tenant: str | None, number: int) -> Any:
    data = records(cell, tenant, number)[OperationsEvent.type].model_dump(mode="json")
    return [
        {"specversion": "1.0", "type": OperationsEvent.type, "source": "/edi", "id": str(number), "data": data},
    ]


def github(cell: str, tenant: str | None, number: int) -> Any:
    return {
        "deployment_status": {"id": number, "state": "success", "updated_at": "2025-10-09T08:53:20Z"},
        "deployment": {
            "id": number,
            "sha": "a" * 40,
            "ref": "v2.4.1",
            "environment": cell,
            "payload": {"version": "2.4.1", "tenants": [tenant] if tenant else []},
            "creator": {"login": "maria"},
        },
        "repository": {"name": "odoo", "full_name": "acme/odoo"},
        "sender": {"login": "ci"},
    }


BODIES: Mapping[str, Callable[[str, str | None, int], Any]] = {"change": change, "events": events, "github": github}
"""What a sender of each receiver sends: of a cell, a tenant, and different by the number."""


def signed_as_standard_webhooks(key: str, body: bytes, identifier: str, at_ms: int = NOW_MS) -> dict[str, str]:
    stamp = str(at_ms // 1000)
    digest = hmac.new(base64.b64decode(key.removeprefix("whsec_")), f"{identifier}.{stamp}.".encode() + body, "sha256")
    signature = "v1," + base64.b64encode(digest.digest()).decode()
    return {"webhook-id": identifier, "webhook-timestamp": stamp, "webhook-signature": signature}


def signed_as_github(key: str, body: bytes, identifier: str) -> dict[str, str]:
    digest = hmac.new(key.encode(), body, "sha256").hexdigest()
    return {
        "x-hub-signature-256": f"sha256={digest}",
        "x-github-event": "deployment_status",
        "x-github-delivery": identifier,
    }


def bearer(key: str, body: bytes, identifier: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", "webhook-id": identifier}


PROOFS: Mapping[Any, tuple[Callable[[str, bytes, str], dict[str, str]], ...]] = {
    StandardWebhooks: (signed_as_standard_webhooks, bearer),
    GitHubSignature: (signed_as_github,),
}
"""How a sender proves itself, each way that a proof takes."""


@dataclass(frozen=True)
class Sender:
    """Somebody who sends to one receiver in one way."""

    kind: ReceiverKind
    prove: Callable[[str, bytes, str], dict[str, str]]

    @property
    def is_signed(self) -> bool:
        return self.prove is not bearer

    def body(self, cell: str = "eu1", tenant: str | None = "acme", number: int = 1) -> bytes:
        return json.dumps(BODIES[self.kind.name](cell, tenant, number)).encode()

    def __str__(self) -> str:
        return f"{self.kind.name}-{self.prove.__name__}"


SENDERS = [Sender(kind, prove) for kind in RECEIVERS.values() for prove in PROOFS[kind.proof]]


def made(kind: ReceiverKind, *keys: Key, first: int = 1) -> Receiver:
    """The receiver of the estate with keys whose secrets are numbered from `first`."""
    return kind.make(ESTATE, [Holder(secret(number), key) for number, key in enumerate(keys, first)])
