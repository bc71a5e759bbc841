"""Which service is at fault? Lost seconds and failed requests are booked along the call graph like money.

A service that answers slowly has lost seconds: requests times (latency - usual latency); one that fails has failed
requests beyond the usual. A caller waits for its callees and fails with them, so of what it has lost it keeps only what its
callees have not lost on its behalf: its own loss. What a callee loses merely because it is called more often, or for the
first time, than its callers' traffic explains is the caller's doing and is booked to it. The service with the largest own
loss that the symptom depends on is the most probable root; shares of own losses are probabilities, each loss first
shrunk by what its noise would pretend (positive-part James-Stein).

What is usual comes from a normal period; where the bins just before the symptom tell another level than that (a
release since, another season), it is shrunk towards theirs, as far as they differ by more than noise. The same figure is
taken of every span of equal length in the normal period: its spread makes own losses comparable, and the
distribution of the largest of them says how often health looks like this. Where that is more often than the
stated rate the answer is silence. Beyond what was seen, the tail is a generalised Pareto distribution.

Sources: blame as what callees do not explain: Budhathoki et al. 2022 (counterfactual attribution), Hardt et al. 2023
(PetShop); James & Stein 1961, positive part Baranchik 1964; Hosking & Wallis 1987 for the tail by probability-weighted
moments; the test by the maximum over spans of the normal period controls the family of all services at once (Westfall &
Young 1993), as conformal prediction does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Array = np.ndarray[Any, np.dtype[np.float64]]
Symptom = Literal["latency", "availability"]
"""What is wrong at the target: it answers slowly, or it fails."""


class Settings(BaseModel):
    """How sure to be, and what counts as known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    false_alarms: float = Field(0.02, gt=0, lt=1, description="Share of healthy spans that are answered with a cause.")
    known_bins: int = Field(20, ge=2, description="A service is judged once so many bins of it were measured.")
    spans: int = Field(20, ge=5, description="So many spans of the normal period are needed to know what is usual.")
    tail: float = Field(0.1, gt=0, lt=0.5, description="Share of the spans that the tail is fitted to.")
    least_share: float = Field(0.01, ge=0, lt=1, description="A loss below this share of its own usual is none.")


LIGHTEST_TAIL = 0.1  # shape of the Pareto tail; a lighter one is never believed
NARROWEST_TAIL = 0.4  # its scale: that of the largest of a dozen normal variables, for what never varied at all
FEWEST_FAILURES = 0.5  # Jeffreys' prior of a Poisson rate: what never failed may fail that often


class Traffic(NamedTuple):
    """Requests, seconds spent on them and failures among them: bins in rows, services in columns.

    More dimensions may precede; NaN where it was not measured.
    """

    requests: Array
    seconds: Array
    failures: Array

    def bins(self, rows: slice) -> Traffic:
        """Some of the bins."""
        return Traffic(*(column[..., rows, :] for column in self))

    def spans(self, length: int) -> Traffic:
        """Every span of so many bins, as a dimension in front."""
        return Traffic(*(np.moveaxis(np.lib.stride_tricks.sliding_window_view(c, length, axis=0), -1, 1) for c in self))


class Calls(NamedTuple):
    """The call graph: names of the services, and who calls whom as a matrix (caller in the row)."""

    names: tuple[str, ...]
    matrix: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def of(cls, names: Iterable[str], callees: Mapping[str, Iterable[str]]) -> Calls:
        """From callees by caller; a call of itself and calls of unknown services are left out."""
        known = tuple(sorted(set(names)))
        place = {name: index for index, name in enumerate(known)}
        matrix = np.zeros((len(known), len(known)), dtype=bool)
        for caller, called in callees.items():
            for callee in called:
                if caller in place and callee in place and caller != callee:
                    matrix[place[caller], place[callee]] = True
        return cls(known, matrix)

    def below(self, target: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The target and everything it calls, directly or not."""
        reached = np.array([name == target for name in self.names], bool)
        while True:
            more = reached | reached @ self.matrix
            if (more == reached).all():
                return reached
            reached = more


class Loss(NamedTuple):
    """What services have lost in the last bins of a span, in seconds or failed requests."""

    shown: Array
    explained: Array
    own: Array


class Usual(NamedTuple):
    """What is usual in a normal period."""

    latency: Array
    latency_noise: Array
    failing: Array
    calls_per_request: Array
    called: np.ndarray[Any, np.dtype[np.bool_]]
    known: np.ndarray[Any, np.dtype[np.bool_]]


FURTHEST = 50.0  # of logs


def learn(calls: Calls, normal: Traffic, settings: Settings) -> Usual:
    """What is usual per service: latency (median), share of failures, calls per request of its callers."""
    latency = _latency(normal)
    middle = np.nan_to_num(_median(latency))
    with np.errstate(divide="ignore", invalid="ignore"):
        # A service that took no time at all once lies no further off than any number can say.
        deviation = np.minimum(np.abs(np.log(latency) - np.log(middle)), FURTHEST)
    requests, failures = np.nan_to_num(normal.requests), np.nan_to_num(normal.failures)
    callers = requests @ calls.matrix
    return Usual(
        latency=middle,
        latency_noise=1.4826 * np.nan_to_num(_median(deviation)),
        failing=_ratio(failures.sum(axis=0), requests.sum(axis=0)),
        calls_per_request=_ratio(requests.sum(axis=0), callers.sum(axis=0)),
        called=callers.sum(axis=0) > 0,
        known=np.isfinite(latency).sum(axis=0) >= settings.known_bins,
    )


def losses(calls: Calls, usual: Usual, span: Traffic, before: int, symptom: Symptom) -> Loss:
    """What each service has lost after the first `before` bins of a span, which tell its level just before."""
    excess = _lost_seconds(usual, span, before) if symptom == "latency" else _failed(usual, span, before)
    requests = np.nan_to_num(span.requests)
    callers = requests @ calls.matrix
    expected = np.where(usual.called, callers * usual.calls_per_request, requests)
    shown = excess * np.where(usual.known, np.minimum(1.0, _ratio(expected, requests)), 0.0)
    explained = requests * (_ratio(shown, callers) @ calls.matrix.T)
    explained = np.clip(explained, 0.0, np.maximum(shown, 0.0))
    own = shown - explained
    return Loss(*(part[..., before:, :].sum(axis=-2) for part in (shown, explained, own)))


def _lost_seconds(usual: Usual, span: Traffic, before: int) -> Array:
    latency = _latency(span)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.log(latency[..., :before, :]) - np.log(usual.latency)
    measured = np.isfinite(moved).sum(axis=-2)
    shift = _ratio(np.nansum(np.where(np.isfinite(moved), moved, 0.0), axis=-2), measured)
    noise = np.square(usual.latency_noise) / np.maximum(measured, 1)
    level = usual.latency * np.exp(shift * _beyond_noise(np.square(shift), noise))
    return np.nan_to_num(np.nan_to_num(span.requests) * (latency - level[..., None, :]))


def _failed(usual: Usual, span: Traffic, before: int) -> Array:
    requests, failures = np.nan_to_num(span.requests), np.nan_to_num(span.failures)
    served = requests[..., :before, :].sum(axis=-2)
    expected = served * usual.failing
    more = failures[..., :before, :].sum(axis=-2) - expected
    more = more * _beyond_noise(np.square(more), expected + FEWEST_FAILURES)
    level = usual.failing + _ratio(more, served)
    return np.asarray(failures - requests * level[..., None, :])


class Measured(NamedTuple):
    """Own losses of a span beside those of the normal period."""

    usual: Usual
    loss: Loss
    beyond: Array
    """Own loss above the usual own loss."""
    noise: Array
    """Its spread in the normal period."""
    chances: Array
    """How often a healthy span has as large an own loss anywhere, by service."""

    @property
    def strength(self) -> Array:
        """Own losses in units of their noise."""
        return np.asarray(self.beyond / self.noise)


def measure(
    calls: Calls, normal: Traffic, span: Traffic, before: int, symptom: Symptom, where: Any, settings: Settings
) -> Measured:
    """Own losses of a span and how unusual they are among the services that `where` selects.

    Raises ValueError when the normal period is too short.
    """
    length = span.requests.shape[-2]
    healthy = len(normal.requests) - length + 1
    if healthy < settings.spans:
        raise ValueError(
            f"the normal period has {len(normal.requests)} bins; at least {settings.spans + length - 1} are needed"
        )
    usual = learn(calls, normal, settings)
    own = losses(calls, usual, normal.spans(length), before, symptom).own
    centre = np.median(own, axis=0)
    noise = np.std(np.clip(own, *np.percentile(own, [0.5, 99.5], axis=0)), axis=0)
    noise = noise + _floor(normal, length - before, symptom, settings)
    loss = losses(calls, usual, span, before, symptom)
    largest = ((own - centre) / noise)[:, where].max(axis=1)
    chances = chance((loss.own - centre) / noise, largest, settings.tail)
    return Measured(usual, loss, loss.own - centre, noise, chances)


def shrunk(measured: Measured) -> Array:
    """Own losses less what noise would pretend, 0 and up."""
    gain = _beyond_noise(np.square(measured.beyond), np.square(measured.noise))
    return np.asarray(np.maximum(measured.beyond, 0.0) * gain)


def chance(values: Array, healthy: Array, tail: float) -> Array:
    """The probability of each value or a larger one, by what health has shown and a Pareto tail beyond."""
    ordered = np.sort(healthy)
    count = max(5, int(len(ordered) * tail))
    start, beyond = ordered[-count - 1], ordered[-count:] - ordered[-count - 1]
    first = beyond.mean()
    second = (beyond * np.arange(count)).mean() / (count - 1)
    heavy = 2 - first / (2 * second - first) if second < first < 2 * second else LIGHTEST_TAIL
    shape = float(np.clip(heavy, LIGHTEST_TAIL, 0.9))
    scale = max(first * (1 - shape), NARROWEST_TAIL)
    far = count / len(ordered) * (1 + shape * np.maximum(values - start, 0.0) / scale) ** (-1 / shape)
    return np.where(values > start, far, _seen(values, ordered))


def _seen(values: Array, ordered: Array) -> Array:
    """The share of healthy spans at or above each value, the one in question counted in."""
    return np.asarray((1 + len(ordered) - np.searchsorted(ordered, values)) / (1 + len(ordered)))


def _floor(normal: Traffic, bins: int, symptom: Symptom, settings: Settings) -> Array:
    """The least noise a service is believed to have."""
    if symptom == "availability":
        return np.full(normal.requests.shape[1], FEWEST_FAILURES)
    usual = bins * np.nan_to_num(_median(np.where(normal.requests > 0, normal.seconds, np.nan)))
    return np.asarray(settings.least_share * usual + np.finfo(float).tiny)


def _beyond_noise(squared: Array, noise: Array) -> Array:
    """Positive-part James-Stein: the share of a deviation that noise of that variance does not pretend."""
    return np.asarray(np.maximum(0.0, 1.0 - _ratio(noise, squared, otherwise=1.0)))


def _latency(traffic: Traffic) -> Array:
    return _ratio(traffic.seconds, traffic.requests, otherwise=np.nan)


def _ratio(numerator: Array, denominator: Any, otherwise: float = 0.0) -> Array:
    """Elementwise, `otherwise` where the denominator is not above 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    out = np.full(shape, otherwise)
    np.divide(numerator, denominator, out=out, where=np.broadcast_to(np.asarray(denominator) > 0, shape))
    return out


def _median(columns: Array) -> Array:
    """Per column, NaN (and no warning) where nothing was measured."""
    gaps = np.isnan(columns).all(axis=0)
    return np.asarray(np.where(gaps, np.nan, np.nanmedian(np.where(gaps, 0.0, columns), axis=0)))
