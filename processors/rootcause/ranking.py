"""Which of several suspects is the cause? Blame flows from effects to what explains them, and none is lost.

How to use it: make one `Suspect` of everything that may be the root of a story (an anomalous service, a change, a
neighbour, an exhausted resource) or that is only its effect, say how well one explains another, and call `rank`.

    suspects = [Suspect("postgresql.lock:acme", strength=0.9), Suspect("odoo.latency:acme", strength=0.8, onset_ms=5_000)]
    rank(suspects, lambda cause, effect: 1.0 if effect.name.startswith("odoo.") else 0.0)

`strength` is how much of the trouble a suspect shows, in any unit that all suspects of a call share (the score of a
signal, seconds lost, failed requests); a change shows none itself and has 0. `prior` says how readily its kind is believed
to be a root: it weighs what explains something against its rivals, and what stays with a suspect in the end. An effect
passes on the share of its blame that its causes explain, each in proportion to `prior` times how well it explains, and
keeps the rest; what comes to a cause is passed on the same way. What has come to rest is the blame; its shares
are the probabilities, so they add up to 1. An effect cannot precede its cause by more than `tolerance_ms`.

Sources: the walk from symptoms to causes of MonitorRank (Kim, Sumbaly, Shah 2013) and MicroRCA (Wu et al. 2020), here
solved exactly as absorption in a Markov chain (Kemeny & Snell 1960, ch. 3) instead of by damped iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from schemas.records import Evidence

PASSED_ON_MAX = 0.95  # an effect keeps a little of its blame: no explanation is certain, and circles come to an end


class Suspect(NamedTuple):
    """Something that may be the root of a story, or an effect of it."""

    name: str
    strength: float = 0.0
    onset_ms: int = 0
    prior: float = 1.0
    evidence: tuple[Evidence, ...] = ()
    against: tuple[Evidence, ...] = ()


class Ranked(NamedTuple):
    """A suspect with the probability that it is the root."""

    name: str
    probability: float
    evidence: tuple[Evidence, ...] = ()
    against: tuple[Evidence, ...] = ()


Explains = Callable[[Suspect, Suspect], float]
"""(cause, effect) to the share of the effect that the cause explains, 0 to 1, wherever time allows it."""


def nothing(_: Suspect, __: Suspect) -> float:
    """Nobody explains anybody."""
    return 0.0


def rank(suspects: Sequence[Suspect], explains: Explains = nothing, tolerance_ms: int = 0) -> list[Ranked]:
    """The suspects with any blame, most probable first; empty when nobody shows or explains anything.

    Names must be unique. The order in which suspects come makes no difference.
    """
    ordered = sorted(suspects, key=lambda one: one.name)
    passed = np.array([_passed_on(effect, ordered, explains, tolerance_ms) for effect in ordered])
    blame = _absorbed(np.array([one.strength for one in ordered]), passed) if ordered else np.zeros(0)
    blame = blame * [one.prior for one in ordered] if ordered else blame
    total = blame.sum()
    ranked = [
        Ranked(one.name, float(weight / total), one.evidence, one.against)
        for one, weight in zip(ordered, blame, strict=True)
        if weight > 0
    ]
    return sorted(ranked, key=lambda one: (-one.probability, one.name))


def _passed_on(effect: Suspect, causes: Sequence[Suspect], explains: Explains, tolerance_ms: int) -> list[float]:
    """What share of its blame an effect passes to each cause."""
    shares = [
        min(max(explains(cause, effect), 0.0), 1.0)
        if cause is not effect and cause.onset_ms <= effect.onset_ms + tolerance_ms
        else 0.0
        for cause in causes
    ]
    best = max(shares)
    weighed = [cause.prior * share for cause, share in zip(causes, shares, strict=True)]
    total = sum(weighed)
    return [PASSED_ON_MAX * best * weight / total if total else 0.0 for weight in weighed]


def _absorbed(strengths: np.ndarray, passed: np.ndarray) -> np.ndarray:
    """Where the blame comes to rest: visits of an absorbing chain times what is kept at each."""
    visits = np.linalg.solve(np.eye(len(strengths)) - passed.T, np.maximum(strengths, 0.0))
    return np.asarray(np.maximum(visits, 0.0) * (1 - passed.sum(axis=1)))
