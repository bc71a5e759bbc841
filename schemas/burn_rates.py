"""When a burning error budget is worth a page, and when a ticket: the workbook's table, as data.

Source: Google, The Site Reliability Workbook, ch. 5 "Alerting on SLOs", table 5-8 "Recommended parameters for a 99.9 %
SLO alerting configuration", with the second rule of each severity as Sloth generates them for a 30-day SLO
(https://sre.google/workbook/alerting-on-slos/).
"""

from __future__ import annotations

from typing import NamedTuple

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


class BurnRate(NamedTuple):
    """Fires while both windows burn the budget faster than would use up `budget_share` of it in the long one."""

    severity: str
    budget_share: float
    long_ms: int
    short_ms: int

    def factor(self, period_ms: int) -> float:
        """How many times faster than allowed that is, over an SLO's period: 14.4, 6, 3 and 1 over 30 days."""
        return float(f"{self.budget_share * period_ms / self.long_ms:.10g}")


PAGE, TICKET = "page", "ticket"
SEVERITIES = (PAGE, TICKET)

WORKBOOK = (
    BurnRate(PAGE, 0.02, 1 * HOUR_MS, 5 * MINUTE_MS),
    BurnRate(PAGE, 0.05, 6 * HOUR_MS, 30 * MINUTE_MS),
    BurnRate(TICKET, 0.10, 1 * DAY_MS, 2 * HOUR_MS),
    BurnRate(TICKET, 0.10, 3 * DAY_MS, 6 * HOUR_MS),
)
