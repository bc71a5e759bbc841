"""Every bound in the code has a row, is counted where it is reached, and is told as a metric."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse import telemetry
from schemas import bounds
from schemas.bounds import BOUNDS
from schemas.metrics import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"(?:^|_)MAX(?:$|_)|_max(?:$|_)|^max_")

BATCH = "the size of one batch or page: the rest follows in the next"
REFUSES = "what is larger is refused with an answer that says so, and counted where it is"
TEXT = "the length of one text or value, which is cut and stays itself"
CLAMP = "a number in a formula: nothing is held"
SMALL = "a cache of what is small and ours, worked out anew"
LEFT_OUT = "what a collector's own bounds keep back is counted as pilothouse.collector.left_out"
SHOWN = "how much of one finding is shown"

NO_ROW: dict[str, str] = {
    "ingest.receivers.admission._skeleton": SMALL,
    "processors.order.LEAPS_MAX": "older leaps are of eras that nothing is told of any more",
    "schemas.masking.LABELS_MAX": SMALL,
    "schemas.masking.LABEL_MAX": CLAMP,
    "schemas.masking.NAME_MAX": TEXT,
    "schemas.masking._label": SMALL,
    "schemas.masking.says_secret": SMALL,
    "schemas.endpoints.HOST_LETTERS_MAX": REFUSES,
    "schemas.endpoints.LABEL_LETTERS_MAX": REFUSES,
    "sinks.alerts_news.BODY_BYTES_MAX": SHOWN,
    "sinks.alerts_news.IDENTITY_LETTERS_MAX": TEXT,
    "sinks.backoff.HEADER_LETTERS_MAX": TEXT,
    "sinks.otlp.Config.tries_max": "given up and put to the dead letters, which is counted",
    "sinks.otlp_transport.HEADERS_MAX": REFUSES,
    "sinks.otlp_transport.HEADER_BYTES_MAX": REFUSES,
    "sinks.otlp_transport.MESSAGE_LETTERS_MAX": TEXT,
    "sinks.timescale.upkeep.PASSED_OVER_MAX": CLAMP,
    "ingest.addresses.MAX_URL": REFUSES,
    "ingest.collectors.host.MAX_DISKS": LEFT_OUT,
    "ingest.collectors.host.MAX_FILESYSTEMS": LEFT_OUT,
    "ingest.collectors.odoo.crons.MAX_CRONS": LEFT_OUT,
    "ingest.collectors.odoo.jobs.MAX_CHANNELS": LEFT_OUT,
    "ingest.collectors.odoo.jobs.MAX_EVENTS": LEFT_OUT,
    "ingest.collectors.odoo.jobs.MAX_FAILED": "the newest failed jobs are remembered; an older one is not begun again",
    "ingest.collectors.odoo.jobs.MAX_ROWS": LEFT_OUT,
    "ingest.collectors.odoo.look.MAX_COUNTERS": LEFT_OUT,
    "ingest.collectors.odoo.memory.MAX_LOOKS": "every second one is forgotten: the past is known more coarsely",
    "ingest.collectors.odoo.schema.MAX_AMOUNT": CLAMP,
    "ingest.collectors.odoo.upkeep.MAX_MODULES": LEFT_OUT,
    "ingest.collectors.odoo_log.MAX_RECORDS": BATCH,
    "ingest.collectors.odoo_log.MAX_SERIES": BATCH,
    "ingest.collectors.odoo_log_bodies.MAX_READ": TEXT,
    "ingest.collectors.odoo_log_bodies.MAX_REFUSED": TEXT,
    "ingest.collectors.odoo_log_events.MAX_ACTOR": TEXT,
    "ingest.collectors.odoo_log_events.MAX_CRONS": "the others are counted as one",
    "ingest.collectors.odoo_log_events.MAX_NAME": TEXT,
    "ingest.collectors.odoo_log_hours.MAX_MS": CLAMP,
    "ingest.collectors.odoo_log_lines.MAX_DATABASE": TEXT,
    "ingest.collectors.odoo_log_lines.MAX_LOGGER": TEXT,
    "ingest.collectors.odoo_log_lines.MAX_NAME_LINES": TEXT,
    "ingest.collectors.odoo_log_lines.MAX_PID_DIGITS": TEXT,
    "ingest.collectors.odoo_workers.MAX_COMMAND_BYTES": TEXT,
    "ingest.collectors.postgresql.locks.MAX_TREES": LEFT_OUT,
    "ingest.collectors.postgresql.look.MAX_TEXT": TEXT,
    "ingest.collectors.redis.MAX_SLOW": LEFT_OUT,
    "ingest.collectors.redis_points.MAX_COMMANDS": LEFT_OUT,
    "ingest.collectors.redis_points.MAX_DATABASES": LEFT_OUT,
    "ingest.collectors.redis_points.MAX_EVENTS": LEFT_OUT,
    "ingest.collectors.redis_points.MAX_FIELDS": LEFT_OUT,
    "ingest.collectors.tail.MAX_ROTATED": "the newest files of a rotation, of which a look needs one or two",
    "ingest.edges.MAX_PARTS": SHOWN,
    "ingest.edges.MAX_TEXT": TEXT,
    "ingest.poll.MAX_LOGGED": "what was logged already; beyond it a fault is logged once more",
    "ingest.poll.MAX_PAYLOAD": TEXT,
    "ingest.poll.MAX_POINTS": LEFT_OUT,
    "ingest.poll.MAX_ROWS_REFUSED": "so many become dead letters; all are counted",
    "ingest.readable.MAX_BODY": TEXT,
    "ingest.readable.MAX_VALUE": TEXT,
    "ingest.receivers.body.MASKED_ALONE_MAX": TEXT,
    "ingest.receivers.body.MAX_DEPTH": REFUSES,
    "ingest.receivers.body.MAX_DIGITS": REFUSES,
    "ingest.receivers.inflate.MEMBERS_MAX": REFUSES,
    "ingest.receivers.receiver.MAX_FAULTS": SHOWN,
    "ingest.receivers.signature.SIGNATURES_MAX": REFUSES,
    "ingest.scheduler.MAX_GROUPS": SHOWN,
    "ingest.scheduler.MAX_LETTERS_REMEMBERED": "what stands in the dead letters already; beyond it a letter may come once more",
    "schemas.masking._MAX_BLANKS": CLAMP,
    "sinks.intake.SEQUENCE_MAX": REFUSES,
    "sinks.intake.SOURCE_LENGTH_MAX": REFUSES,
    "sinks.kafka_clients.METADATA_MAX_AGE_MS": CLAMP,
    "sinks.letters.TIME_MS_MAX": CLAMP,
    "sinks.sink.Config.broken_max": CLAMP,
    "ingest.app.IngestSettings.spool_max_bytes": REFUSES,
    "ingest.app.IngestSettings.spool_max_records": REFUSES,
    "ingest.spool.Bounds.max_bytes": REFUSES,
    "ingest.spool.Bounds.max_records": REFUSES,
    "ingest.spool.Bounds.max_waiting_bytes": REFUSES,
    "ingest.spool.Bounds.max_deliveries": "counted as pilothouse.spool.deliveries.forgotten",
    "ingest.collectors.odoo.documents.MAX_TOLD": BATCH,
    "ingest.collectors.odoo.upkeep.MAX_NAMES": SHOWN,
    "ingest.collectors.odoo_log.MAX_TOLD": BATCH,
    "ingest.collectors.odoo_log.OdooLogOptions.max_bytes": BATCH,
    "ingest.collectors.odoo_log_bodies.MAX_BODY": TEXT,
    "ingest.collectors.odoo_log_groups.MAX_NAMES": SHOWN,
    "ingest.collectors.postgresql.points._series": SMALL,
    "ingest.collectors.postgresql.queries.MAX_STATEMENTS": "the costliest are read, of which the top is told",
    "ingest.collectors.postgresql.queries.MAX_TEXT": TEXT,
    "ingest.collectors.postgresql.queries.MAX_WAITING": "those that wait longest are read, of which trees are told",
    "ingest.collectors.postgresql.statements.MAX_TOLD": "the top of the costliest statements, by intent",
    "ingest.collectors.sql_text.MAX_INPUT": TEXT,
    "ingest.collectors.sql_text.MAX_OUTPUT": TEXT,
    "ingest.group_commit.MAX_GROUP": BATCH,
    "ingest.oversize.MAX_BODY_BYTES": "counted as pilothouse.publisher.oversized",
    "ingest.receivers.events.MAX_EVENTS": REFUSES,
    "ingest.receivers.http.MAX_BODY_BYTES": REFUSES,
    "ingest.receivers.http.MAX_REQUESTS": REFUSES,
    "ingest.rounds.MAX_BATCH_BYTES": BATCH,
    "ingest.rounds._hash": SMALL,
    "processors.admission.SAMPLED_MAX": SHOWN,
    "processors.evidence.NAME_MAX": TEXT,
    "processors.faults.TEXT_MAX": SHOWN,
    "processors.fold.CASCADE_MAX": "counted as pilothouse.worker.cascades_cut",
    "processors.fold.ERROR_MAX": TEXT,
    "processors.fold.FAILURES_WAITING_MAX": "counted as pilothouse.worker.failed, whether or not there is a letter",
    "processors.fold.OPEN_MAX": "counted as pilothouse.worker.open_forgotten",
    "processors.order.AHEAD_MAX": "counted as pilothouse.worker.refused_ahead",
    "processors.runner.REPR_MAX": TEXT,
    "processors.runner.TRACEBACKS_MAX": "how much of what failed is logged; all of it is counted",
    "processors.sanity.DURATION_MAX_MS": CLAMP,
    "processors.sanity.VALUE_MAX": CLAMP,
    "processors.units.FAILURES_MAX": "a unit that begins afresh is counted as pilothouse.worker.units_afresh",
    "schemas.codec.HEADERS_MAX": TEXT,
    "schemas.codec.HEADER_MAX": TEXT,
    "schemas.codec.KEY_MAX": TEXT,
    "processors.admission.SYSTEMS_MAX": "part of admission.resources",
    "processors.durations._WEIGHT_MAX": CLAMP,
    "processors.indicators.LOOKS_MAX": "part of burn_rate.readings",
    "processors.fold.Plan.waiting_max": BATCH,
    "processors.order.WAITING_MAX": BATCH,
    "processors.pace.PRESENT_MAX_MS": CLAMP,
    "processors.rootcause.linking.NAME_MAX": TEXT,
    "processors.steps.alarms.COUNT_MAX": CLAMP,
    "processors.steps.alarms.EVIDENCE_MAX": CLAMP,
    "processors.steps.alarms.HEIGHT_MAX": CLAMP,
    "processors.steps.alarms.STRETCH_MAX": CLAMP,
    "processors.steps.bounds.knee": SMALL,
    "processors.steps.cardinality.SOURCES_MAX": SHOWN,
    "processors.steps.correlator.config.Config.aftermath_max_ms": CLAMP,
    "processors.steps.correlator.config.Config.notice_max_ms": CLAMP,
    "processors.steps.crons.NAME_MAX": TEXT,
    "processors.steps.following._places": SMALL,
    "processors.steps.ledger.CHARACTERS_MAX": "part of holder.layouts",
    "processors.steps.ledger.FOREIGN_MAX": "part of changes.slots",
    "processors.steps.novelty.COUNT_MAX": CLAMP,
    "processors.steps.novelty.REST_MAX": CLAMP,
    "processors.steps.odds.CLUMP_DUE_MAX": CLAMP,
    "processors.steps.odds.LEFT_MAX": CLAMP,
    "processors.steps.pools.WHERE_MAX": "part of holder.layouts",
    "schemas.calendar._business_load": SMALL,
    "schemas.calendar._clocks_changed": SMALL,
    "schemas.calendar._first_cut_off": SMALL,
    "schemas.calendar._moment": SMALL,
    "schemas.calendar._open_spans": SMALL,
    "schemas.slo._begin": SMALL,
    "schemas.codec.MAX_PAYLOAD_BYTES": REFUSES,
    "schemas.codec.SEQUENCE_MAX": REFUSES,
    "schemas.codec.SOURCE_MAX": REFUSES,
    "schemas.impact.PARTS_MAX": SHOWN,
    "schemas.records.MAX_EVENTS": REFUSES,
    "schemas.records.MAX_SERIES": REFUSES,
    "schemas.series.IDENTITY_MAX": REFUSES,
    "schemas.series.NAME_MAX": REFUSES,
    "schemas.series.SERIES_MAX": REFUSES,
    "schemas.series.VALUE_MAX": TEXT,
    "sinks.alerts.Config.tries_max": "given up and put to the dead letters, which is counted",
    "sinks.backoff.RETRY_AFTER_S_MAX": CLAMP,
    "sinks.otlp_encode.INT64_MAX": CLAMP,
    "sinks.otlp_encode.MAX_BYTES": BATCH,
    "sinks.otlp_encode.MAX_ITEMS": BATCH,
    "sinks.otlp_encode.MAX_SEGMENT": BATCH,
    "sinks.otlp_encode.resource_of": SMALL,
    "sinks.timescale.allowance.OWNERS_MAX": "part of timescale.series.new",
    "sinks.otlp_transport.MAX_RESPONSE_BYTES": TEXT,
    "sinks.sink.Config.backoff_s_max": CLAMP,
    "sinks.sink.Config.batch_bytes_max": BATCH,
    "sinks.sink.Config.batch_records_max": BATCH,
    "sinks.sink.Config.fetch_bytes_max": BATCH,
}
"""What looks like a bound and needs no row, and why."""


def found() -> Iterator[str]:
    """Everything in the code that is named like a bound, and every bounded queue and cache of the standard library."""
    for folder in ("schemas", "processors", "sinks", "ingest"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not module.startswith("schemas.metrics"):
                yield from _in(ast.parse(path.read_text()), module)


def _in(node: ast.AST, where: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            every = [one for target in targets for one in (target.elts if isinstance(target, ast.Tuple) else [target])]
            yield from (f"{where}.{one.id}" for one in every if isinstance(one, ast.Name) and NAMED.search(one.id))
        elif isinstance(child, ast.ClassDef):
            yield from _in(child, f"{where}.{child.name}")
        elif isinstance(child, ast.FunctionDef) and any("lru_cache" in ast.dump(one) for one in child.decorator_list):
            yield f"{where}.{child.name}"
        if not isinstance(child, ast.ClassDef):
            calls = (one for one in ast.walk(child) if isinstance(one, ast.Call))
            yield from (f"{where} deque(maxlen)" for one in calls if any(word.arg == "maxlen" for word in one.keywords))


ROWS = {bound.where for bound in BOUNDS}


@pytest.mark.parametrize("where", sorted(set(found())))
def test_every_bound_has_a_row_or_a_reason(where: str) -> None:
    assert where in ROWS or where in NO_ROW, (
        f"{where} is a bound: give it a row in schemas/bounds.py and call reached(...) where it is reached, "
        "or say in NO_ROW why nothing is lost there"
    )


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.name)
def test_every_row_stands_somewhere_and_is_counted_there(bound: bounds.Bound) -> None:
    code = {
        path: path.read_text()
        for folder in ("schemas", "processors", "sinks", "ingest")
        for path in (ROOT / folder).rglob("*.py")
    }
    name = bound.where.rpartition(".")[2]
    assert any(
        re.search(rf"\b{name}\b", text)
        for path, text in code.items()
        if path.name != "bounds.py" or "steps" in str(path)
    )
    spelled = f'"{bound.name}"'
    others = [text for path, text in code.items() if path != ROOT / "schemas/bounds.py"]
    assert any(spelled in text for text in others), f"nothing counts {bound.name}"
    assert all(len(sentence) > 10 for sentence in (bound.holds, bound.beyond))


def test_nothing_that_is_excused_is_gone() -> None:
    assert set(NO_ROW) <= set(found())


def test_a_bound_that_was_reached_is_told_by_its_name() -> None:
    before = bounds.counts().get("locks.tenants", 0)
    bounds.reached("locks.tenants", 3)
    told = {one.attributes[bounds.NAME]: one for one in telemetry.of_bounds()}
    assert (told["locks.tenants"].name, told["locks.tenants"].value) == (bounds.METRIC, before + 3)
    assert bounds.METRIC in BY_NAME


def test_a_bound_without_a_row_cannot_be_counted() -> None:
    with pytest.raises(KeyError, match="has no row"):
        bounds.reached("nothing")


def test_whatever_is_counted_has_a_row() -> None:
    folders = ("schemas", "processors", "sinks", "ingest")
    text = "\n".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert set(re.findall(r'\breached\(\s*"([a-z_.]+)"', text)) <= bounds.BY_NAME.keys()
