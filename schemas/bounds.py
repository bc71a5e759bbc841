"""Every bound of the product, and how often each was reached since the process began.

What grows with what others send has a bound; a row says what is bounded, where the number stands, and what happens beyond
it. `reached` counts, `counts` reads: nothing that is decided depends on these numbers, they are there to be told
(`pilothouse.bound.reached`, by name), so they are no part of any state and begin anew with the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

METRIC, NAME = "pilothouse.bound.reached", "pilothouse.bound.name"


class Bound(NamedTuple):
    """One row. `where` is the constant or field that holds the number, as MODULE.NAME; `beyond` is what happens there."""

    name: str
    where: str
    holds: str
    beyond: str


_REFUSED = "Its records are not folded, which is told; what has a place keeps it, and idle ones make room."
_LEFT_OUT = "Columns without a place are left out of what steps get, which is told; idle ones make room."
_LEFT = "Later ones are left out."
_ANEW_ONE = "The one longest unused is asked of the database again."
_OLDEST = "The oldest is forgotten."
_ANEW = "The oldest half is forgotten and read anew when it comes again."

BOUNDS: tuple[Bound, ...] = (
    Bound("absence.streams", "processors.steps.absence.Config.streams_max", "Flows of a resource.", _LEFT),
    Bound("admission.cells", "processors.admission.Limits.cells", "Cells of a partition that no estate declares.", _REFUSED),
    Bound("admission.resources", "processors.admission.Limits.cell_resources", "Resources of a cell.", _REFUSED),
    Bound("admission.series.cell", "processors.admission.Limits.cell_series", "Series of a cell.", _LEFT_OUT),
    Bound("admission.series.resource", "processors.admission.Limits.resource_series", "Series of a resource.", _LEFT_OUT),
    Bound("admission.series.source", "processors.admission.Limits.source_series", "Series of a cell that one publisher brings.", _LEFT_OUT),
    Bound("admission.tenants", "processors.admission.Limits.tenants", "Tenants of a cell that no estate declares.", _LEFT_OUT),
    Bound("alerts.incidents", "sinks.alerts.Config.incidents_max", "Incidents of a partition whose last notification is remembered.", _OLDEST),
    Bound("burn_rate.groups", "processors.steps.burn_rate.Config.groups_max", "Tenants of an SLO; undeclared ones find half of the room.", _LEFT),
    Bound("burn_rate.promises", "processors.steps.burn_rate.Config.promises_max", "Open promises of an SLO.", _OLDEST),
    Bound("burn_rate.readings", "processors.indicators.LAST_MAX", "Resources and counters of which the last look is remembered.", _OLDEST),
    Bound("cache.layouts", "schemas.series.LAYOUTS_BYTES", "Layouts that are known to be whole, in bytes.", _ANEW),
    Bound("cache.names", "schemas.caches.NAMES_BYTES", "What one step makes of names seen lately, in bytes.", _ANEW),
    Bound("cache.readings", "schemas.caches.READINGS_BYTES", "What one step reads off the layouts seen lately, in bytes.", _ANEW),
    Bound("cache.series", "schemas.series.SERIES_BYTES", "Series identities that are kept parsed, in bytes.", _ANEW),
    Bound("capacity.shares", "processors.steps.shares.SHARES_MAX", "What can run out of a resource.", _LEFT),
    Bound("cardinality.causes", "processors.steps.cardinality.CAUSES_MAX", "Resources of a cell that are told to send too much.", _LEFT),
    Bound("changes.rivals", "processors.steps.rivals.RIVALS_MAX", "Other trouble that may explain what a change is blamed for.", _OLDEST),
    Bound("changes.slots", "processors.steps.ledger.SLOTS_MAX", "Series of a cell that speak for a change; those of undeclared resources find half of the room.", _LEFT),
    Bound("changes.trials", "processors.steps.difference_in_differences.TRIALS_MAX", "Changes that are judged at once.", "The oldest stays inconclusive."),
    Bound("contention.tenants", "processors.steps.contention.Config.tenants_max", "Tenants of a cell that share; undeclared ones find half of the room.", _LEFT),
    Bound("correlator.changes", "processors.steps.correlator.config.Config.changes_max", "Changes of a cell.", _OLDEST),
    Bound("correlator.closed", "processors.steps.correlator.config.Config.closed_max", "Closed incidents that may reopen.", _OLDEST),
    Bound("correlator.signals", "processors.steps.correlator.config.Config.signals_max", "Signals of a cell.", "Ended ones are forgotten first, then the oldest."),
    Bound("correlator.silences", "processors.steps.correlator.config.Config.silences_max", "Silences of a cell.", "The one that ends first is forgotten."),
    Bound("crons.actions", "processors.steps.crons.Config.crons_max", "Failing actions of a tenant.", _OLDEST),
    Bound("faults.steps", "processors.faults.STEPS_MAX", "Failing steps of a cell that are told.", _LEFT),
    Bound("fleet.incidents", "processors.steps.fleet.Config.incidents_max", "Open incidents of all cells.", "The one longest unheard of is forgotten."),
    Bound("fold.sources", "processors.fold.SOURCES_MAX", "Publishers of a partition whose last sequence is remembered.", _OLDEST),
    Bound("holder.layouts", "schemas.caches.Layouts.CHARACTERS_MAX", "Characters of the layouts that one unit of state knows.", "They are forgotten, and read anew."),
    Bound("journeys.documents", "processors.steps.journeys.Config.documents_max", "Open documents of a tenant, and ended ones.", _OLDEST),
    Bound("locks.tenants", "processors.steps.locks.TENANTS_MAX", "Tenants of a cell whose lock waits are remembered.", "The one longest unheard of is forgotten."),
    Bound("odoo.documents.settled", "ingest.collectors.odoo.memory.MAX_SETTLED", "Documents of a type whose last state is remembered for good.", _OLDEST),
    Bound("odoo.documents.window", "ingest.collectors.odoo.memory.MAX_WINDOW", "Documents of a type that were written within the overlap.", "What is sure to have been read is not read again."),
    Bound("odoo_log.remembered", "ingest.collectors.odoo_log_events.MAX_REMEMBERED", "Killed processes and failing actions that are remembered.", _OLDEST),
    Bound("order.doubts", "processors.order.DOUBTS_MAX", "Publishers of a topic's partition whose clock is in doubt.", _OLDEST),
    Bound("order.publishers", "processors.order.PUBLISHERS_MAX", "Publishers of a topic's partition whose heartbeats are remembered.", _OLDEST),
    Bound("otlp.templates", "sinks.otlp_encode.MAX_CACHED_SERIES", "Series of the layouts that stand ready for OTLP.", "Layouts longest unused are encoded anew."),
    Bound("postgresql.texts", "ingest.collectors.postgresql.statements.MAX_TEXTS", "Texts of statements that are remembered.", "Those longest unused are asked for again."),
    Bound("saturation.pools", "processors.steps.saturation.POOLS_MAX", "Pools of a resource.", _LEFT),
    Bound("service_map.bins", "processors.steps.service_map.OPEN_MAX", "Minutes of spans that are open.", "What comes for another is not booked."),
    Bound("service_map.calls", "processors.steps.service_map.Config.calls_max", "Pairs of services.", "The one longest unheard of is forgotten."),
    Bound("service_map.counters", "processors.steps.service_map.Config.calls_max", "Counters of service graphs.", "The one longest unheard of is forgotten."),
    Bound("service_map.services", "processors.steps.service_map.Config.services_max", "Services of a cell.", "Later ones are left out until others have had no traffic for long."),
    Bound("service_map.spans", "processors.rootcause.linking.WAITING_MAX", "Spans that wait for their counterpart.", _OLDEST),
    Bound("sink.sources", "sinks.sink.Config.sources_max", "Publishers whose last sequence a sink remembers.", _OLDEST),
    Bound("spool.cells", "ingest.spool.CELLS_MAX", "Cells of a publisher for which it beats.", "The one longest unheard of is forgotten."),
    Bound("timescale.layouts", "sinks.timescale.series_index.SeriesIndex.layouts_bytes_max", "Layouts whose ids are known, in bytes.", _ANEW_ONE),
    Bound("timescale.series", "sinks.timescale.series_index.SeriesIndex.series_max", "Series whose ids are known.", _ANEW_ONE),
    Bound("timescale.series.new", "sinks.timescale.allowance.OF_RESOURCE", "New series of a resource and of a cell in the store, in a burst and an hour.", "Points of others are left out until there is room again."),
)  # fmt: skip
BY_NAME: Mapping[str, Bound] = {bound.name: bound for bound in BOUNDS}

_reached: Counter[str] = Counter(dict.fromkeys(BY_NAME, 0))


def reached(name: str, times: int = 1) -> None:
    """A bound was reached so many times. Raises KeyError for a bound that has no row."""
    if name not in BY_NAME:
        raise KeyError(
            f"bound {name!r} has no row in schemas/bounds.py; add one that says where it stands and what happens"
        )
    _reached[name] += times


def counts() -> dict[str, int]:
    """How often each bound was reached since the process began. May be asked from another thread."""
    return {name: count for name, count in dict(_reached).items() if count}
