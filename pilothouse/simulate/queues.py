"""Queues: what waiting costs, jobs before their workers, scheduled actions and their clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilothouse.simulate.drivers import Span
from pilothouse.simulate.noise import Floats

USE_MAX = 0.985
SLOW_MAX = 12.0


def waiting_factor(use: Floats, servers: int) -> Floats:
    """How many times as long a statement takes at this use of the servers (M/M/c, Sakasegawa 1977)."""
    kept = np.minimum(use, USE_MAX)
    waits = kept ** (np.sqrt(2 * (servers + 1)) - 1) / (servers * (1 - kept))
    over = np.maximum(use - USE_MAX, 0.0) * 8  # beyond capacity it grows on, as far as clients' patience goes
    factor: Floats = np.minimum(1 + waits + over, SLOW_MAX)
    return factor


def waits_of_pool(load: Floats, servers: int) -> Floats:
    """Mean wait of a pool in mean times of service (the same approximation)."""
    use = np.minimum(load / servers, USE_MAX)
    waits: Floats = use ** (np.sqrt(2 * (servers + 1)) - 1) / (servers * (1 - use))
    return waits


def look_at_pool(random: np.random.Generator, load: Floats, servers: int, backlog: int) -> tuple[Floats, Floats]:
    """Busy servers and who waits at instants: when all are busy, who waits is geometric up to the backlog, as in M/M/c/K."""
    kept = np.minimum(load / servers, USE_MAX)
    queue = load * waits_of_pool(load, servers)
    all_busy = random.random(load.size) < np.where(load < servers, np.clip(queue * (1 - kept) / kept, 0.0, 1.0), 1.0)
    use = np.where(np.abs(load / servers - 1) < 1e-6, 1 + 1e-6, load / servers)
    drawn = np.log1p(-random.random(load.size) * (1 - use ** (backlog + 1.0))) / np.log(use)
    waiting = np.clip(np.floor(drawn), 0.0, backlog)
    busy = np.minimum(random.poisson(load), servers - 1)
    return np.where(all_busy, servers, busy), np.where(all_busy, waiting, 0.0)


@dataclass(frozen=True)
class Jobs:
    """A queue over a span, by look: what came, what was done, what waits afterwards."""

    came: Floats
    done: Floats
    waiting: Floats
    before: float

    @classmethod
    def fold(cls, span: Span, came: Floats, pace: Floats, before: float) -> Jobs:
        """Lindley's recursion in closed form: what waits is the highest rise of work over pace since it was empty."""
        net = np.cumsum(came - pace) + before
        waiting = net - np.minimum(np.minimum.accumulate(net), 0.0)
        return cls(came, np.maximum(came - np.diff(waiting, prepend=before), 0.0), waiting, before)

    def oldest_s(self, span: Span) -> Floats:
        """Age of the oldest job that waits, first come first served."""
        times = np.concatenate(([span.before_ms], span.times_ms)).astype(float)
        came = np.concatenate(([0.0], np.cumsum(self.came))) + self.before
        done = np.cumsum(self.done)
        since = np.interp(done, came, times)
        return np.where(self.waiting >= 1, np.maximum(span.times_ms - since, 0.0) / 1000, 0.0)

    def delay_s(self, span: Span) -> Floats:
        """How long a job that comes at each look will have waited; those not done within the span get a day."""
        came = np.cumsum(self.came) + self.before
        done = np.cumsum(self.done)
        # The first look at which as much is done as had come.
        places = np.searchsorted(done, came - 1.0, side="left")
        ends = np.append(span.times_ms.astype(float), span.times_ms[-1] + 86_400_000.0)[np.minimum(places, done.size)]
        return np.maximum(ends - span.times_ms, 0.0) / 1000


def runs_of_cron(span: Span, interval_s: int, phase_s: int, goes: Floats, kept: Floats) -> tuple[Floats, Floats]:
    """Runs in each interval, and how late it is, s. `goes` 0: it does not run; where `kept` is 1 it is not late either."""
    times_s = np.concatenate(([span.before_ms], span.times_ms)) / 1000
    due = np.floor((times_s - phase_s) / interval_s)
    falls = np.diff(due)
    stopped = goes < 0.5
    missed = falls * stopped
    # Late since the first run that was missed while it stood; when it goes again it runs at once.
    first = np.where((missed > 0) & (kept < 0.5), due[1:] * interval_s + phase_s, np.inf)
    since = np.full(span.size, np.inf)
    held = np.inf
    for place in np.flatnonzero(stopped).tolist():
        held = first[place] if place == 0 or not stopped[place - 1] else min(held, first[place])
        since[place] = held
    late = np.where(stopped & np.isfinite(since), times_s[1:] - np.where(np.isfinite(since), since, 0), 0.0)
    again = ~stopped & np.concatenate(([False], stopped[:-1]))
    return np.where(stopped, 0.0, falls + again), np.maximum(late, 0.0)
