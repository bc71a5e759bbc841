"""Drawn records that validate and that nobody would send: what steps must survive, whatever they detect."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from schemas.metrics import METRICS
from schemas.records import (
    BusinessBatch,
    Change,
    ChangeKind,
    ChangeStatus,
    LogBatch,
    OperationsEvent,
    Record,
    Scrape,
    SecurityEvent,
    SpanBatch,
)
from schemas.series import identity

HOUR_MS = 3_600_000
END_MS = 9_999_999_999_999
TENANTS = ("acme", "borealis", "t" * 255, "ü", "-", "None", "nan")
CELLS = ("eu1", "eu1", "eu1", "c" * 255)
RESOURCES = ("pg-eu1", "valkey-eu1", "host-eu1", "odoo-acme", "r" * 255, "|", "a|b")
SYSTEMS = ("postgresql", "redis", "host", "odoo", "odoo_log", "tls", "otlp", "pilothouse", "s" * 255)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e300, -1e300, 1.7976931348623157e308, 2.0**53, 0.1, 1e15, 1e19, -1e19)
TEXTS = (
    "",
    " ",
    "\n",
    "a b",
    "'",
    '"',
    "\\",
    "x" * 16_384,
    "\u202e",
    "\x00",
    "é" * 300,
    "{}",
    "%s",
    "None",
    "1e999",
    "🧨",
)
NAMES = ("odoo", "n" * 255, "a:b", "a/b@c", "%", "{", "ß")
EVENTS = (
    "postgresql.lock.blocked", "odoo.cron.deactivated", "odoo.cron.failing", "odoo.cron.killed", "odoo.worker.killed",
    "collector.unavailable", "collector.degraded", "pilothouse.silence", "test.signal",
)  # fmt: skip
ATTRIBUTES = (
    "postgresql.waiting.count", "postgresql.waiting.max_s", "postgresql.blocker.pid", "odoo.cron.name", "odoo.cron.failures",
    "odoo.cron.id", "pilothouse.silence.id", "pilothouse.silence.cause", "pilothouse.silence.until_ms",
    "pilothouse.silence.author", "cause", "began", "phase",
)  # fmt: skip
KEYS = (
    "tenant.id", "erp.document.type", "erp.document.state", "http.response.status_class", "odoo.queue_job.state",
    "odoo.queue_job.channel", "odoo.worker.type", "odoo.cron.name", "system.filesystem.mountpoint", "client", "server",
    "db.namespace", "x",
)  # fmt: skip
VALUES = (*TENANTS, *TEXTS, "done", "pending", "2xx", "5xx", "http", "root.carrier.dhl", "sale.order", "stock.picking")
STATES = ("draft", "sale", "done", "cancel", "assigned", "posted", "waiting", "to approve".replace(" ", "_"), "s" * 255)
GRAPH = ("traces_service_graph_request_total", "traces_service_graph_request_failed_total", "custom.metric", "_")


class Hostile:
    """Draws records around a present that goes on by itself, `at_ms`."""

    def __init__(self, seed: int, start_ms: int) -> None:
        self.random, self.at_ms = random.Random(seed), start_ms
        self._layouts: list[dict[str, float | None]] = []
        self._kinds: tuple[Callable[[], Record], ...] = (
            *(self._scrape,) * 6, *(self._event,) * 3, self._change, self._business, self._spans, self._logs, self._security
        )  # fmt: skip

    def records(self, count: int) -> Iterator[Record]:
        """So many records; what does not validate is drawn again."""
        while count:
            self._go_on()
            try:
                yield self._one_of(self._kinds)()
            except ValidationError:
                continue
            count -= 1

    def _go_on(self) -> None:
        """Seconds as a rule, hours now and then."""
        rare = self.random.random() < 0.002
        self.at_ms += self.random.randrange(1, 6 * HOUR_MS if rare else 2_000)

    def _one_of(self, these: Any) -> Any:
        return self.random.choice(these)

    def _time(self) -> int:
        """Now as a rule; else a little or very much too early or too late."""
        draw = self.random.random()
        if draw < 0.85:
            return self.at_ms
        if draw < 0.95:
            return self.at_ms + self.random.randrange(-HOUR_MS, 600_000)
        return self._one_of((0, 1, END_MS, self.at_ms - 40 * 24 * HOUR_MS, self.at_ms + 40 * 24 * HOUR_MS))

    def _number(self) -> float | None:
        draw = self.random.random()
        if draw < 0.1:
            return None
        return self.random.lognormvariate(0, 3) if draw < 0.7 else self._one_of(NUMBERS)

    def _scalar(self) -> Any:
        return self._one_of(
            (self._one_of(TEXTS), self._number() or 0, self.random.randrange(-(2**63), 2**63), True, 7, 0)
        )

    def _series(self) -> str:
        name = self._one_of(GRAPH) if self.random.random() < 0.1 else self._one_of(METRICS).name
        keys = self.random.sample(KEYS, self.random.randrange(4))
        return identity(name, {key: self._one_of(VALUES) for key in keys})

    def _points(self) -> dict[str, float | None]:
        """One of a few layouts, so that steps get used to them, or a new one; the empty one among them."""
        if len(self._layouts) < 40 or self.random.random() < 0.02:
            width = self._one_of((0, 1, 2, 5, 20))
            self._layouts.append({self._series(): 0.0 for _ in range(width)})
        points = self._one_of(self._layouts[-60:])
        for series, before in points.items():
            rises = self.random.random() < 0.7 and before is not None
            points[series] = min((before or 0.0) + self.random.expovariate(0.2), 1e308) if rises else self._number()
        return dict(points)

    def _observed(self) -> dict[str, Any]:
        return {
            "cell": self._one_of(CELLS),
            "resource": self._one_of(RESOURCES),
            "system": self._one_of(SYSTEMS),
            "time_ms": self._time(),
        }

    def _tenant(self) -> str | None:
        return self._one_of((None, *TENANTS))

    def _scrape(self) -> Record:
        start_ms = self._one_of((None, self._time(), 1_795_230_000_000, 1_795_230_000_000))
        return Scrape.of(self._points(), **self._observed(), start_time_ms=start_ms)

    def _event(self, model: type[OperationsEvent] = OperationsEvent, **more: Any) -> Record:
        attributes = {self._one_of(ATTRIBUTES): self._scalar() for _ in range(self.random.randrange(6))}
        name, body = self._one_of(EVENTS[:-1]), self._one_of(TEXTS)
        return model(
            **self._observed(), tenant=self._tenant(), name=name, body=body, attributes=attributes,
            severity_number=self.random.randrange(25), **more,
        )  # fmt: skip

    def _security(self) -> Record:
        return self._event(SecurityEvent, actor=self._one_of(TEXTS), source_address=self._one_of(TEXTS))

    def _change(self) -> Record:
        return Change(
            cell=self._one_of(CELLS), time_ms=self._time(), change_id=self._one_of((*NAMES, "c1", "c2", "c3")),
            kind=self._one_of(list(ChangeKind)), status=self._one_of(list(ChangeStatus)), service=self._one_of(NAMES),
            revision=self._one_of(NAMES), previous_revision=self._one_of((None, *NAMES)),
            tenants=tuple(self.random.sample(TENANTS, self.random.randrange(4))), author=self._one_of((None, *TEXTS, "a" * 40_000)),
            approver=self._one_of((None, *TEXTS)), url=self._one_of((None, *TEXTS)), origin="generic",
        )  # fmt: skip

    def _column(self, width: int, draw: Callable[[], Any]) -> tuple[Any, ...]:
        return tuple(draw() for _ in range(width))

    def _batch(self, width: int) -> dict[str, Any]:
        return {
            **self._observed(),
            "tenants": self._column(width, self._tenant),
            "times_ms": self._column(width, self._time),
        }

    def _business(self) -> Record:
        width = self._one_of((0, 1, 3, 10))
        whole = lambda: self.random.randrange(-5, 40)  # noqa: E731 (a column's draw)
        return BusinessBatch(
            **self._batch(width),
            document_types=self._column(
                width, lambda: self._one_of(("sale.order", "stock.picking", "account.move", "x" * 255))
            ),
            document_ids=self._column(width, whole),
            document_names=self._column(width, lambda: self._one_of((None, *TEXTS))),
            states=self._column(width, lambda: self._one_of(STATES)),
            orders=self._column(width, lambda: self._one_of((None, whole()))),
            amounts=self._column(width, self._number),
            currencies=self._column(width, lambda: self._one_of((None, "EUR", "USD", *TEXTS))),
            warehouses=self._column(width, lambda: self._one_of((None, *TEXTS))),
            carriers=self._column(width, lambda: self._one_of((None, "dhl", *TEXTS))),
            deadlines_ms=self._column(width, lambda: self._one_of((None, self._time()))),
        )

    def _spans(self) -> Record:
        width = self._one_of((0, 1, 4))
        span = lambda: f"{self.random.randrange(6):016x}"  # noqa: E731 (a column's draw)
        names = ("service.name", "peer.service", "server.address", "db.system", "x")
        return SpanBatch(
            **self._batch(width),
            trace_ids=self._column(width, lambda: f"{self.random.randrange(3):032x}"),
            span_ids=self._column(width, span),
            parent_span_ids=self._column(width, lambda: self._one_of((None, span()))),
            names=self._column(width, lambda: self._one_of(TEXTS)),
            kinds=self._column(
                width, lambda: self._one_of(("server", "client", "internal", "producer", "consumer", "?"))
            ),
            durations_ms=self._column(width, lambda: abs(self._number() or 0.0)),
            errors=self._column(width, lambda: self._one_of((None, None, "timeout", *TEXTS))),
            attributes={
                name: self._column(width, lambda: self._one_of((None, "web", "stock", "db", self._scalar())))
                for name in self.random.sample(names, 3)
            },
        )

    def _logs(self) -> Record:
        width = self._one_of((0, 1, 3))
        return LogBatch(
            **self._batch(width),
            severity_numbers=self._column(width, lambda: self.random.randrange(25)),
            bodies=self._column(width, lambda: self._one_of(TEXTS)),
            attributes={"x": self._column(width, self._scalar)},
        )
