"""From traffic and a symptom to ranked services, in words: what speaks for each, and what against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from processors.rootcause.service_map import Array, Calls, Measured, Settings, Symptom, Traffic, measure, shrunk
from schemas.records import Evidence

WEAK = 3.0  # times its usual variation: less is said to speak against a service
EXPLAINED = 0.2  # a callee that explains so much of a loss is named


class Case(NamedTuple):
    """A symptom and the traffic around it."""

    calls: Calls
    normal: Traffic
    span: Traffic
    before: int
    """So many bins of the span lie before the symptom."""
    symptom: Symptom
    target: str | None = None
    """Where it was seen: only what that service depends on can be the cause. None: anywhere."""
    since_ms: int | None = None
    """When the symptom began, for the evidence."""
    lasts_ms: int | None = None
    """And for how long it is looked at."""


class Ranked(NamedTuple):
    """A service with the probability that what was lost stems from it, and what speaks for and against that."""

    name: str
    probability: float
    evidence: tuple[Evidence, ...] = ()
    against: tuple[Evidence, ...] = ()


class Diagnosis(NamedTuple):
    """The services that may be the root, most probable first; none where health looks like this often enough."""

    ranked: tuple[Ranked, ...]
    chance: float
    """How often a healthy span of that length has as large a loss anywhere."""
    chances: Mapping[str, float]
    """How often it has one as large as a ranked service's own."""
    affected: tuple[str, ...]
    """Services that call the most probable root, directly or not, and have lost something themselves."""


def diagnose(case: Case, settings: Settings) -> Diagnosis:
    """Who is at fault. Raises ValueError when the target is unknown or the normal period too short."""
    where = _where(case)
    measured = measure(case.calls, case.normal, case.span, case.before, case.symptom, where, settings)
    chance = float(measured.chances[where].min())
    if chance > settings.false_alarms:
        return Diagnosis((), chance, {}, ())
    ranked = _ranked(case, measured, np.where(where, shrunk(measured), 0.0))
    chances = {one.name: float(measured.chances[case.calls.names.index(one.name)]) for one in ranked}
    return Diagnosis(ranked, chance, chances, _affected(case, measured, ranked[0].name) if ranked else ())


def _ranked(case: Case, measured: Measured, own: Array) -> tuple[Ranked, ...]:
    """Shares of what was lost, most first; what is equal in the order of names."""
    total = own.sum()
    return tuple(
        Ranked(case.calls.names[place], float(own[place] / total), *_evidence(case, measured, int(place)))
        for place in np.argsort(-own, kind="stable")
        if own[place] > 0
    )


def _where(case: Case) -> np.ndarray:
    if case.target is None:
        return np.ones(len(case.calls.names), dtype=bool)
    if case.target not in case.calls.names:
        raise ValueError(f"target {case.target!r} is not a service of the call graph")
    return case.calls.below(case.target)


def _affected(case: Case, measured: Measured, root: str) -> tuple[str, ...]:
    place = case.calls.names.index(root)
    shown = measured.loss.shown
    return tuple(
        name
        for index, name in enumerate(case.calls.names)
        if index != place and shown[index] > measured.noise[index] and case.calls.below(name)[place]
    )


def _evidence(case: Case, measured: Measured, place: int) -> tuple[tuple[Evidence, ...], tuple[Evidence, ...]]:
    speaking, doubts = list[str](), list[str]()
    callers = _named(case, measured, np.flatnonzero(case.calls.matrix[:, place]))
    if callers:
        speaking.append(f"it explains what its callers have lost: {', '.join(callers)}")
    elif case.calls.matrix[:, place].any():
        doubts.append("none of its callers has lost more than it usually does")
    loss = measured.loss
    if loss.explained[place] > EXPLAINED * loss.shown[place]:
        callees = _named(case, measured, np.flatnonzero(case.calls.matrix[place]))
        text = f"its callees explain {_amount(case.symptom, loss.explained[place])} of what it shows"
        doubts.append(text + (f": {', '.join(callees)}" if callees else ""))
    if measured.strength[place] < WEAK:
        doubts.append(f"that is only {measured.strength[place]:.1f} times its usual variation")
    return (_now(case, measured, place), _own(case, measured, place), *_said(case, speaking)), _said(case, doubts)


def _said(case: Case, texts: Sequence[str]) -> tuple[Evidence, ...]:
    return tuple(Evidence(text=text, time_ms=case.since_ms) for text in texts)


def _now(case: Case, measured: Measured, place: int) -> Evidence:
    requests, seconds, failures = (np.nansum(column[..., case.before :, place]) for column in case.span)
    if case.symptom == "latency":
        value, usual, unit = seconds / requests if requests else 0.0, float(measured.usual.latency[place]), "s"
        text = f"{value:.3g} s a request, usually {usual:.3g} s, over {requests:.0f} requests"
    else:
        value, usual, unit = failures / requests if requests else 0.0, float(measured.usual.failing[place]), "1"
        text = f"{value:.2%} of {requests:.0f} requests failed, usually {usual:.2%}"
    return Evidence(text=text, unit=unit, value=value, expected=usual, window_ms=case.lasts_ms, time_ms=case.since_ms)


def _own(case: Case, measured: Measured, place: int) -> Evidence:
    own, noise, strength = measured.beyond[place], float(measured.noise[place]), measured.strength[place]
    return Evidence(
        text=f"{_amount(case.symptom, own)} were lost by itself, {strength:.1f} times its usual variation",
        unit="s" if case.symptom == "latency" else "{request}",
        value=float(own),
        expected=0.0,
        scale=noise,
        window_ms=case.lasts_ms,
        time_ms=case.since_ms,
    )


def _amount(symptom: Symptom, amount: float) -> str:
    return f"{amount:.3g} s" if symptom == "latency" else f"{amount:.3g} requests"


def _named(case: Case, measured: Measured, places: np.ndarray) -> list[str]:
    """Those of the services that have lost something, most first."""
    shown = measured.loss.shown
    losing = sorted((place for place in places if shown[place] > measured.noise[place]), key=lambda at: -shown[at])
    return [f"{case.calls.names[place]} ({_amount(case.symptom, shown[place])})" for place in losing[:3]]
