"""What keeps the pager quiet: maintenance windows, silences, and stories that come and go.

Maintenance: nothing is told of a tenant whose calendar has a window now; what outlives the window is told as if it had
begun to be seen then. Shared resources fall silent only when all tenants are in maintenance.

Silences: a story that a person has silenced is told all the same, and says so; it is for those who notify to keep still.
When the silence begins or ends, the story is told anew.

Flapping: a story's coming and going is kept for twenty slots of time. Changes a slot, newer ones weighing up to half as
much again as older ones, are the state-change rate; from the high threshold on the story flaps
and is neither closed nor opened again, until the rate is below the low one. Source: Nagios Core, "Detection and Handling
of State Flapping" (21 checks, weights 0.8 to 1.2); thresholds are Icinga 2's defaults (30 % and 25 %).
"""

from __future__ import annotations

from collections.abc import Iterable

from processors.step import Findings
from processors.steps.correlator.config import Config
from processors.steps.correlator.state import State, Story
from schemas.bounds import reached
from schemas.calendar import Calendar
from schemas.records import Incident, Phase, Silenced
from schemas.silences import Silence

SLOTS = 20
OLDEST, NEWEST = 0.8, 1.2


def mute(config: Config, state: State, at_ms: int) -> None:
    """See which nodes are in maintenance now; one that no longer is counts as new."""
    asleep = resting(config, at_ms)
    if not asleep and not state.muted:
        return
    tenants = frozenset(config.tenants())
    muted = {
        cause for cause, node in state.nodes.items() if asleep and node.is_member and (node.felt or tenants) <= asleep
    }
    for cause in sorted(state.muted - muted):
        for identity in sorted(state.ids.get(cause, ())):
            state.kept[identity] = state.kept[identity].model_copy(update={"first_ms": at_ms})
        state.renew(cause)
    state.muted = muted


def next_edge_ms(config: Config, state: State, at_ms: int) -> int | None:
    """When the next maintenance window begins or ends, or a silence ends, as long as there are signals to be told."""
    if not state.ids:
        return None
    maintenance = (edge for tenant in config.tenants() for edge in _edges(config.calendar(tenant)))
    silences = (one.until_ms for one in state.silences.values())
    return min((edge for edge in (*maintenance, *silences) if edge > at_ms), default=None)


def resting(config: Config, at_ms: int) -> frozenset[str]:
    """Tenants that are in maintenance."""
    return frozenset(tenant for tenant in config.tenants() if _rests(config.calendar(tenant), at_ms))


def silence(config: Config, state: State, one: Silence, at_ms: int) -> None:
    """Take in a silence, or what has become of one."""
    state.silences[one.id] = one.bounded(at_ms)
    kept = sorted(
        (one for one in state.silences.values() if one.until_ms > at_ms), key=lambda one: (one.until_ms, one.id)
    )
    reached("correlator.silences", max(len(kept) - config.silences_max, 0))
    state.silences = {one.id: one for one in kept[-config.silences_max :]}


def hush(state: State, told: Findings, at_ms: int) -> Findings:
    """What was told at this look, and what a silence has begun or ceased to hold for, each marked as it is now."""
    silences = {name: one.bounded(at_ms) for name, one in state.silences.items()}  # also those of an older version
    state.silences = {name: one for name, one in silences.items() if one.until_ms > at_ms}
    after = list(told)
    places = {one.id: place for place, one in enumerate(after) if isinstance(one, Incident)}
    for identity, story in sorted(state.stories.items()):
        mark = _mark(state, story.incident)
        if mark == story.incident.silenced:
            continue
        place, last = places.get(identity), story.incident
        news = {} if place is not None else {"phase": Phase.UPDATED, "version": last.version + 1, "time_ms": at_ms}
        story.incident = last.model_copy(update={**news, "silenced": mark})
        if place is None:
            after.append(story.incident)
        else:
            after[place] = story.incident
    return after


def _mark(state: State, incident: Incident) -> Silenced | None:
    """Of several silences the one that lasts longest holds."""
    mine = [one for one in state.silences.values() if one.matches(incident)]
    return max(mine, key=lambda one: (one.until_ms, one.id)).mark() if mine else None


def turn(config: Config, story: Story, at_ms: int, *, is_on: bool) -> None:
    """Its trouble came back or went away."""
    if story.is_on is is_on and story.turns:
        return
    story.is_on = is_on
    since_ms = at_ms - SLOTS * config.flap_slot_ms
    story.turns = [*(one for one in story.turns[-SLOTS:] if one > since_ms), at_ms]


def rate(config: Config, turns: Iterable[int], at_ms: int) -> float:
    """Weighted rate of state changes, % of one a slot."""
    ages = sorted((at_ms - one) // config.flap_slot_ms for one in turns)
    weights = [NEWEST - (NEWEST - OLDEST) * age / (SLOTS - 1) for age in ages if 0 <= age < SLOTS]
    return min(100.0, 100 * sum(weights) / SLOTS)


def flaps(config: Config, story: Story, at_ms: int) -> bool:
    """Whether it comes and goes too often; one that does has to calm down to the low threshold."""
    limit = config.flap_low if story.incident.flapping else config.flap_high
    return rate(config, story.turns, at_ms) >= limit


def _rests(calendar: Calendar, at_ms: int) -> bool:
    return any(window.covers(at_ms) for window in calendar.maintenance)


def _edges(calendar: Calendar) -> Iterable[int]:
    return (round(edge.timestamp() * 1000) for window in calendar.maintenance for edge in (window.starts, window.ends))
