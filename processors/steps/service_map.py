"""Which service of the cell is at fault, seen from its calls? The map and its traffic are learned from spans.

Server spans count requests, seconds and failures of each service, client spans say who asks whom
(`processors/rootcause/linking.py`); where a collector has made a service graph of its own, its counters are read instead.
Bin by bin the last few are held against those just before and against hours of normal ones. Services whose own losses
cannot be health are told, as `service.fault:SERVICE`, each with its share of the blame; what they hold up is evidence, not
a finding of its own. What is only suspicious is held back until it has lasted: the longer the span, the less it
takes. Until a fault is over its bins teach nothing, and the bins before it stay the measure; what has lasted very long
is the new normal. The method and its sources are in `processors/rootcause/service_map.py`.

A bin in which nobody was asked anything is a gap, not a zero. Late spans are counted, not booked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import numpy as np
import orjson
from pydantic import Field

from processors.episodes import Episodes
from processors.evidence import cause_of
from processors.rootcause.diagnosis import Case, Diagnosis, Ranked, diagnose
from processors.rootcause.ledger import Ledger, Rows
from processors.rootcause.linking import Links, Request
from processors.rootcause.service_map import Settings, Symptom
from processors.step import About, Findings, Item, Parts, Step, StepConfig
from schemas.bounds import reached
from schemas.records import Evidence, Record, Scrape, Severity, SpanBatch
from schemas.series import parse, split

REQUESTS, FAILED, SECONDS = (
    "traces_service_graph_request_total",
    "traces_service_graph_request_failed_total",
    "traces_service_graph_request_server_seconds_sum",
)
"""Counters of the OpenTelemetry Collector's service graph connector, by `client` and `server`."""
KIND = {REQUESTS: 0, SECONDS: 1, FAILED: 2}
SEEN_AS = {"latency": "answers slowly", "availability": "fails"}
WEEK_MS = 7 * 86_400_000
OPEN_MAX = 64  # bins
BIN_TIMES = 4  # services of one bin, of those that are kept


class Config(StepConfig):
    """How long is looked at, and how sure to be."""

    bin_ms: int = Field(60_000, gt=0, description="Traffic is summed over so long, ms.")
    wait_ms: int = Field(10_000, ge=0, description="A bin is closed so long after its end, ms of log time.")
    judged_bins: int = Field(2, ge=1, description="So many bins together are judged.")
    longest_bins: int = Field(10, ge=1, description="And up to so many together, as long as they are suspicious.")
    quiet_bins: int = Field(3, ge=1, description="So many looks without suspicion end it, and a fault.")
    before_bins: int = Field(3, ge=1, description="So many before them tell the present level.")
    normal_bins: int = Field(720, ge=30, description="So many normal bins are remembered.")
    learn_bins: int = Field(120, ge=25, description="So many are needed before anything is judged.")
    adopt_bins: int = Field(240, ge=1, description="A fault that has lasted for so many bins is the new normal.")
    false_alarms_per_week: float = Field(1.0, gt=0, description="So often a week health may be told as a fault.")
    suspicious: float = Field(0.02, gt=0, lt=1, description="Suspicious is what so few healthy spans look like.")
    share: float = Field(0.25, gt=0, le=1, description="A service with less of the blame than this is not told.")
    services_max: int = Field(128, ge=2, description="Services kept; later ones are left out.")
    calls_max: int = Field(2_000, ge=10, description="Pairs of services kept; those not seen for longest go first.")

    @property
    def chance(self) -> float:
        """How seldom health may look like what is told: two looks a bin at each symptom share the stated rate."""
        return min(0.5, self.false_alarms_per_week * self.bin_ms / WEEK_MS / (2 * len(SEEN_AS)))


@dataclass
class State:
    """Open bins, the ledger, and the faults that are told."""

    links: Links = field(default_factory=Links)
    counts: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    """Begin of an open bin (Unix ms) to requests, seconds and failures by service."""
    ledger: Ledger = field(default_factory=Ledger)
    counters: dict[str, tuple[int | None, float]] = field(default_factory=dict)
    """Resource and series to the start of counting and the last value."""
    episodes: Episodes = field(default_factory=Episodes)
    quiet: int = 1_000_000
    """Looks since the last suspicious one."""
    told: bool = False
    """Whether a fault was told since the suspicion began."""
    closed_ms: int = -1
    """End of the last bin that was closed."""
    late: int = 0
    due_ms: int | None = None


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Book the requests that a batch of spans, or a collector's service graph, tells of."""
    record = item.record
    if isinstance(record, SpanBatch):
        for request in state.links.take(record):
            _book(config, state, request)
        for caller, callee in state.links.pairs():
            state.ledger.see(caller, callee, config.calls_max)
        if state.links.peers:
            _open_bin(config, state, record.time_ms)
    else:
        _counters(config, state, record)
    _set_due(config, state)
    return state, []


def tick(config: Config, state: State, at_ms: int) -> tuple[State, Findings]:
    """Close the bins that have ended and judge each in its turn."""
    found: Findings = []
    for begin_ms in sorted(state.counts):
        end_ms = begin_ms + config.bin_ms
        if end_ms + config.wait_ms > at_ms:
            break
        for request in state.links.unanswered(end_ms):
            _book(config, state, request)
            if request.caller:
                state.ledger.see(request.caller, request.service, config.calls_max)
        found += _close(config, state, state.counts.pop(begin_ms), end_ms)
        state.closed_ms = end_ms
    if state.episodes.open and at_ms >= _silent_ms(config, state):
        found += state.episodes.close_others(set(), at_ms)
    _set_due(config, state)
    return state, found


def _book(config: Config, state: State, request: Request) -> None:
    counts = _open_bin(config, state, request.time_ms)
    if counts is None:
        state.late += 1
        return
    booked = _booked(config, counts, request.service)
    if booked is None:
        return
    booked[0] += 1
    booked[1] += request.seconds
    booked[2] += request.failed


def _booked(config: Config, counts: dict[str, list[float]], service: str) -> list[float] | None:
    """What a service has got in a bin; None when too many services have been asked in it."""
    if service not in counts and len(counts) >= BIN_TIMES * config.services_max:
        reached("service_map.services")
        return None
    return counts.setdefault(service, [0.0, 0.0, 0.0])


def _open_bin(config: Config, state: State, time_ms: int) -> dict[str, list[float]] | None:
    """The bin of a time; None when it is closed, or when so many are open that the time is a clock's fault."""
    begin_ms = time_ms - time_ms % config.bin_ms
    if begin_ms < state.closed_ms:
        return None
    if begin_ms not in state.counts and len(state.counts) >= OPEN_MAX:
        reached("service_map.bins")
        return None
    return state.counts.setdefault(begin_ms, {})


def _counters(config: Config, state: State, scrape: Scrape) -> None:
    counts = _open_bin(config, state, scrape.time_ms)
    for identity, value in zip(split(scrape.series), scrape.values, strict=True):
        if value is None or not identity.startswith(REQUESTS.removesuffix("total")):
            continue
        series = parse(identity)
        client, server = series.attributes.get("client"), series.attributes.get("server")
        if series.name not in KIND or not client or not server:
            continue
        more = _more(config, state, f"{scrape.resource}\n{identity}", scrape.start_time_ms, value)
        if series.name == REQUESTS and client != server and more:
            state.ledger.see(client, server, config.calls_max)
        if counts is None:
            state.late += 1
        elif more and (booked := _booked(config, counts, server)):
            booked[KIND[series.name]] += more


def _more(config: Config, state: State, key: str, start_ms: int | None, value: float) -> float:
    """What a counter has grown by; nothing at its first sight and after a reset."""
    known = state.counters.pop(key, None)
    state.counters[key] = (start_ms, value)
    if len(state.counters) > len(KIND) * config.calls_max:
        del state.counters[next(iter(state.counters))]
        reached("service_map.counters")
    return value - known[1] if known and known[0] == start_ms and value >= known[1] else 0.0


def _close(config: Config, state: State, counts: dict[str, list[float]], end_ms: int) -> Findings:
    if not any(requests for requests, _, _ in counts.values()):
        return []
    ledger = state.ledger
    ledger.take(counts, config.services_max)
    enough = len(ledger.recent) >= config.before_bins + config.judged_bins and len(ledger.normal) >= config.learn_bins
    found = _judge(config, state, end_ms) if enough else []
    _learn(config, state)
    return found


def _learn(config: Config, state: State) -> None:
    """Once nothing is suspicious the recent bins are normal, but for those of a fault."""
    ledger, least = state.ledger, config.before_bins + config.judged_bins
    held = len(ledger.recent) - least
    if state.quiet < config.quiet_bins and held < config.adopt_bins:
        return
    if state.told and held < config.adopt_bins:
        ledger.drop(config.before_bins, config.before_bins + held)
    state.told = False
    while len(ledger.recent) >= least:
        ledger.learn(config.normal_bins)


class Blame(NamedTuple):
    """A service that is told as a fault, and by which symptom."""

    ranked: Ranked
    symptom: Symptom
    diagnosis: Diagnosis


def _judge(config: Config, state: State, end_ms: int) -> Findings:
    recent, before = state.ledger.recent, config.before_bins
    span = np.concatenate((recent[:before], recent[-config.judged_bins :]))
    looks = [_look(config, state, symptom, span, before, end_ms) for symptom in get_args(Symptom)]
    suspicious = any(look.diagnosis.ranked for look in looks)
    state.quiet = 0 if suspicious else state.quiet + 1
    later = recent[before + config.judged_bins :][-config.longest_bins :]
    if suspicious and len(later) >= config.judged_bins:
        # What raised the suspicion is no evidence for it again, neither the bins nor the calm before them.
        looks += [_look(config, state, symptom, later, 0, end_ms) for symptom in get_args(Symptom)]
    found: Findings = []
    for name, blame in sorted(_blamed(config, state, looks).items()):
        found += state.episodes.seen(
            key=_cause(name), tell_every_ms=5 * config.bin_ms, **_told(config, name, blame, end_ms)
        )
        state.told = True
    return found + state.episodes.close_unseen(end_ms - (config.quiet_bins - 1) * config.bin_ms, end_ms)


class Look(NamedTuple):
    """What one span says by one symptom."""

    symptom: Symptom
    diagnosis: Diagnosis


def _look(config: Config, state: State, symptom: Symptom, span: Rows, before: int, end_ms: int) -> Look:
    ledger = state.ledger
    calls = ledger.graph()
    case = Case(
        calls=calls,
        normal=ledger.traffic(ledger.normal, calls),
        span=ledger.traffic(span, calls),
        before=before,
        symptom=symptom,
        since_ms=end_ms - (len(span) - before) * config.bin_ms,
        lasts_ms=(len(span) - before) * config.bin_ms,
    )
    return Look(symptom, diagnose(case, Settings(false_alarms=config.suspicious)))


def _blamed(config: Config, state: State, looks: list[Look]) -> dict[str, Blame]:
    """The services that are told: sure ones, and open ones that are suspicious still; each by its larger share."""
    blamed: dict[str, Blame] = {}
    for symptom, diagnosis in looks:
        for one in diagnosis.ranked:
            allowed = config.suspicious if _cause(one.name) in state.episodes.open else config.chance
            known = blamed.get(one.name)
            if diagnosis.chances[one.name] > allowed or one.probability < config.share:
                continue
            if known is None or known.ranked.probability < one.probability:
                blamed[one.name] = Blame(one, symptom, diagnosis)
    return blamed


def _told(config: Config, name: str, blame: Blame, end_ms: int) -> dict[str, Any]:
    return {
        "time_ms": end_ms,
        "cell": config.cell,
        "detector": STEP.name,
        "cause": _cause(name),
        "resource": _name(name),
        "tenant": None,
        "severity": Severity.WARNING,
        "score": blame.ranked.probability * (1 - blame.diagnosis.chances[name]),
        "summary": _summary(name, blame.symptom, blame.diagnosis),
        "evidence": _evidence(blame.ranked, blame.diagnosis, end_ms),
        "advice": f"Look at {name} first: its callers wait for it, and what it calls does not explain it.",
    }


def _summary(name: str, symptom: Symptom, diagnosis: Diagnosis) -> str:
    suffering = ", ".join(diagnosis.affected[:3])
    suffer = "suffers" if len(diagnosis.affected) == 1 else "suffer"
    return f"{name} {SEEN_AS[symptom]} by itself" + (f"; {suffering} {suffer} with it" if suffering else "")


def _evidence(one: Ranked, diagnosis: Diagnosis, end_ms: int) -> tuple[Evidence, ...]:
    share = _share(f"{one.probability:.0%} of what was lost is its own", one, end_ms)
    rivals = [
        _share(f"{other.name} has {other.probability:.0%} of the blame", other, end_ms)
        for other in diagnosis.ranked[:3]
        if other is not one
    ]
    doubts = [fact.model_copy(update={"text": f"against it: {fact.text}"}) for fact in one.against]
    return (share, *one.evidence, *doubts, *rivals)


def _share(text: str, one: Ranked, end_ms: int) -> Evidence:
    return Evidence(text=text, unit="1", value=one.probability, time_ms=end_ms)


def _cause(service: str) -> str:
    return cause_of("service.fault", _name(service))


def _name(service: str) -> str:
    """As a record may hold it: without blanks, bounded."""
    return "_".join(service.split())[:200] or "unnamed"


def _silent_ms(config: Config, state: State) -> int:
    """When nobody has asked anything for so long that an open fault is no longer known."""
    return state.closed_ms + (config.before_bins + config.judged_bins) * config.bin_ms + config.wait_ms


def _set_due(config: Config, state: State) -> None:
    ends = [begin_ms + config.bin_ms + config.wait_ms for begin_ms in state.counts]
    if state.episodes.open:
        ends.append(_silent_ms(config, state))
    state.due_ms = min(ends) if ends else None


def due(state: State) -> int | None:
    """When the oldest open bin is closed."""
    return state.due_ms


def unit(record: Record) -> str | None:
    """The cell, for spans and service graphs."""
    if isinstance(record, SpanBatch):
        return ""
    return "" if isinstance(record, Scrape) and REQUESTS in record.series else None


def pack(state: State) -> Parts:
    """The ledger's parts, and the rest as JSON."""
    rest = {
        "links": state.links.model_dump(mode="json"),
        "counts": [[begin_ms, counts] for begin_ms, counts in state.counts.items()],
        "counters": state.counters,
        "episodes": state.episodes.dump(),
        "scalars": [state.quiet, state.told, state.closed_ms, state.late, state.due_ms],
    }
    return {"": orjson.dumps(rest), **state.ledger.pack()}


def unpack(parts: Parts) -> State:
    """What `pack` gave."""
    rest = orjson.loads(parts[""])
    quiet, told, closed_ms, late, due_ms = rest["scalars"]
    return State(
        links=Links.model_validate(rest["links"]),
        counts=dict(rest["counts"]),
        ledger=Ledger.unpack(parts),
        counters={key: (start_ms, value) for key, (start_ms, value) in rest["counters"].items()},
        episodes=Episodes.load(rest["episodes"]),
        quiet=quiet,
        told=told,
        closed_ms=closed_ms,
        late=late,
        due_ms=due_ms,
    )


ABOUT = About(
    finds="The service of a call graph that is at fault, rather than those that wait for it.",
    method=(
        "Lost seconds and failed requests are booked along the call graph; what a service has lost and its "
        "callees do not explain is its own."
    ),
    source=(
        "blame as what callees do not explain (Budhathoki et al. 2022, Hardt et al. 2023); maximum over spans of "
        "the normal period for the family of all services (Westfall & Young 1993)"
    ),
    limits=(
        "Needs spans or a collector's service graph and hours of health; a service that nobody traces is seen "
        "only by its callers."
    ),
)
STEP = Step(
    "service_map", Config, (SpanBatch, Scrape), unit, State, step, pack, unpack, tick=tick, due=due, about=ABOUT
)
