"""How long something usually takes: a histogram in half octaves that forgets, and its quantiles.

Half octaves cover a quarter second to a month in 48 buckets with an error of a fifth; forgetting is exponential by number
of observations, so a quiet night teaches nothing. Weights grow instead of old ones being scaled down.
Source: logarithmic buckets as in HdrHistogram and DDSketch (Masson et al. 2019); forward decay (Cormode et al. 2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

BUCKETS = 48
_SMALLEST_MS = 250.0
_WEIGHT_MAX = 1e12


@dataclass
class Durations:
    """Times that were seen, each weighing `1 / forget` of the one before it."""

    weights: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)
    unit: float = 1.0
    """Weight of the next one."""

    def add(self, duration_ms: float, forget: float, weight: float = 1.0) -> None:
        """Take one in, or a share of one."""
        bucket = min(int(2 * math.log2(max(duration_ms, 0.0) / _SMALLEST_MS + 1)), BUCKETS - 1)
        self.weights[bucket] += self.unit * weight
        self.unit /= forget**weight
        if self.unit > _WEIGHT_MAX:
            self.weights, self.unit = [weight / self.unit for weight in self.weights], 1.0

    @property
    def count(self) -> float:
        """How many are remembered, forgotten ones in part."""
        return math.fsum(self.weights) / self.unit

    def quantile_ms(self, share: float) -> float:
        """The time in which such a share was over, at most; 0 when none was seen."""
        total, reached = math.fsum(self.weights), 0.0
        for bucket, weight in enumerate(self.weights):
            reached += weight
            if weight and reached >= share * total:
                return (2 ** ((bucket + 1) / 2) - 1) * _SMALLEST_MS
        return 0.0
