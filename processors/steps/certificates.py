"""When does a certificate end that nobody has renewed?

What ends is known to the second, so nothing is learned: a certificate that should have been renewed by now is told with the
time at which it ends, graver the nearer that is, until a new one is seen. The correlator blames it for nothing before.

Source: renewal at a third of the lifetime is the default of cert-manager and Certbot (30 of 90 days); Let's Encrypt warned by
mail at 20 and 7 days. What is left at 14 days has missed its renewal by two weeks.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import BaseModel, Field

from processors.admission import Forgotten
from processors.episodes import Episodes, Open
from processors.evidence import cause_of
from processors.step import About, Findings, Item, Step, StepConfig, json_state
from schemas.calendar import DAY_MS
from schemas.records import Evidence, Record, Scrape, Severity
from schemas.series import split

REMAINING = "tls.certificate.validity.remaining"
ISSUER_REMAINING = "tls.certificate.issuer.validity.remaining"
DAY_S = 86_400.0


class Whose(NamedTuple):
    """Which certificate a series is about, and what is to be done about it."""

    certificate: str
    advice: str


WHOSE = {
    REMAINING: Whose(
        "the certificate", "Renew the certificate of {} and reload its server; see why the renewal did not happen."
    ),
    ISSUER_REMAINING: Whose(
        "the certificate of an issuer",
        "Serve the present intermediate certificates of the issuer at {}, or change the issuer; renewing the server's own "
        "certificate alone is not enough.",
    ),
}


class Config(StepConfig):
    """How long before its end a certificate is told."""

    warns_s: float = Field(14 * DAY_S, gt=0, description="A certificate that ends within so long is told, s.")
    critical_s: float = Field(2 * DAY_S, gt=0, description="And is critical within so long, s.")
    tell_every_ms: int = Field(DAY_MS // 4, gt=0, description="It is told again so often, ms.")


class State(BaseModel):
    """The open episodes of a resource, by series."""

    open: dict[str, Open] = Field(default_factory=dict)


def step(config: Config, state: State, item: Item) -> tuple[State, Findings]:
    """Take in a look at a certificate."""
    episodes = Episodes(state.open)
    found: Findings = []
    if isinstance(item.record, Forgotten):
        return state, [told for series in item.record.series for told in episodes.close(series, item.at_ms)]
    scrape: Scrape = item.record
    for series, value in zip(split(scrape.series), scrape.values, strict=True):
        if series.partition("{")[0] not in WHOSE or value is None:
            continue
        if value > config.warns_s:
            found += episodes.close(series, scrape.time_ms)
        else:
            found += _tell(config, episodes, series, value, scrape)
    return state, found


def _tell(config: Config, episodes: Episodes, series: str, left_s: float, scrape: Scrape) -> Findings:
    ends_ms = scrape.time_ms + round(left_s * 1000)
    when = f"{datetime.fromtimestamp(ends_ms // 1000, UTC):%Y-%m-%d %H:%M} UTC"
    whose = WHOSE[series.partition("{")[0]]
    text = f"{whose.certificate} of {scrape.resource} " + (
        f"ends in {left_s / DAY_S:.1f} days, on {when}, and was not renewed" if left_s > 0 else f"has ended on {when}"
    )
    last = episodes.open.get(series)
    has_ended = left_s <= 0 and last is not None and last.signal.time_ms < ends_ms  # news at once
    return episodes.seen(
        key=series,
        time_ms=scrape.time_ms,
        tell_every_ms=0 if has_ended else config.tell_every_ms,
        cell=scrape.cell,
        detector=STEP.name,
        cause=cause_of("certificate", scrape.resource),
        resource=scrape.resource,
        severity=Severity.CRITICAL if left_s <= config.critical_s else Severity.WARNING,
        score=0.99 if left_s <= 0 else round(min(0.99, 1 - 0.5 * left_s / config.warns_s), 4),
        summary=text,
        evidence=(
            Evidence(text=text, series=series, value=left_s, expected=config.warns_s, unit="s", time_ms=scrape.time_ms),
        ),
        advice=whose.advice.format(scrape.resource),
        expected_ms=ends_ms,
    )


def unit(record: Record) -> str | None:
    """A watched endpoint."""
    return record.resource if isinstance(record, Scrape | Forgotten) and record.system == "tls" else None


_pack, _unpack = json_state(State)
ABOUT = About(
    finds="Certificates that end soon and were not renewed.",
    method="The time that is left, as the certificate itself says, against the time by which it should have been renewed.",
    source="renewal at a third of the lifetime: cert-manager, Certbot; reminders of Let's Encrypt",
    limits="It knows only the certificates that are served, not one that lies renewed beside them.",
)
STEP = Step("certificates", Config, (Scrape, Forgotten), unit, State, step, _pack, _unpack, about=ABOUT)
