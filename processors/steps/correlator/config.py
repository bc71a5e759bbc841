"""The tunables of the correlator."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field

from processors.step import StepConfig
from processors.steps.correlator.topology import Topology
from schemas.estate import Tier

DAY_MS = 86_400_000


class Config(StepConfig):
    """How signals become stories, how grave those are, and how quietly they are told."""

    settle_ms: int = Field(
        500, ge=0, description="A root is told so long after its story's first signal, ms, to gather."
    )
    gather_ms: int = Field(
        10_000, ge=0, description="A finding without a root, or three kinds that agree, after so long, ms."
    )
    patience_ms: int = Field(60_000, gt=0, description="A lone symptom is told after so long, ms.")
    quiet_ms: int = Field(10_000, gt=0, description="A story ends so long after its last signal, ms.")
    look_every_ms: int = Field(500, gt=0, description="Time from a signal to the next look at the stories, ms.")
    looks: float = Field(1 / 12, ge=0, description="But so many looks at the cell, as the estate declares them.")
    tell_every_ms: int = Field(10_000, gt=0, description="Lesser news of a story is told so often at most, ms.")

    change_ms: int = Field(1_800_000, gt=0, description="A change explains what begins within so long, ms.")
    change_fades_ms: int = Field(600_000, gt=0, description="And is believed less in this time (to 1/e), ms.")
    fades_ms: int = Field(
        3_600_000, gt=0, description="A fault is believed half as much for what begins so much later, ms."
    )
    tolerance_ms: int = Field(20_000, ge=0, description="An effect may seem to begin so long before a change, ms.")
    notice_ms: int = Field(
        600_000, gt=0, description="A fault may be noticed so much later than what it brings about (to 1/e), ms."
    )
    notice_max_ms: int = Field(1_200_000, ge=0, description="And so much later at most, ms.")
    aftermath_ms: int = Field(
        600_000, gt=0, description="What is over explains what begins so long after it (to 1/e), ms."
    )
    aftermath_max_ms: int = Field(1_800_000, ge=0, description="And so long after it at most, ms.")
    catch_up_ms: int = Field(
        10_000,
        ge=0,
        description="But load, locks and ill servers only a look and so long after what brought them about, ms.",
    )
    together_ms: int = Field(
        300_000,
        ge=0,
        description="Symptoms of one kind or tenant that nothing explains and that begin so near, ms, are one story.",
    )
    sticky: float = Field(
        1.3, ge=1, description="A signal leaves its cause only for one believed so many times as much."
    )

    leak: float = Field(
        0.05, gt=0, lt=1, description="Probability that a signal has nothing to do with a story's root."
    )
    direct: float = Field(0.9, gt=0, le=1, description="Probability that a root brings about what it can bring about.")
    kinship: float = Field(
        0.3, ge=0, le=1, description="How alike the signals of one kind are (intraclass correlation)."
    )
    fine: float = Field(0.15, gt=0, le=1, description="A change judged fine keeps this share of its prior.")
    regressed: float = Field(3.0, ge=1, description="A change judged regressed has so many times its prior.")

    critical_documents: dict[Tier, int] = Field(
        default={Tier.CRITICAL: 3, Tier.HIGH: 5, Tier.MEDIUM: 10, Tier.LOW: 25},
        description="So many documents of a tenant of a tier, delayed now or by the next cut-off, are critical.",
    )
    critical_value: dict[Tier, float] = Field(
        default={Tier.CRITICAL: 2_000.0, Tier.HIGH: 10_000.0, Tier.MEDIUM: 50_000.0, Tier.LOW: 200_000.0},
        description="So much value of theirs is critical, in the tenant's currency.",
    )
    calls: float = Field(
        0.25, gt=0, le=1, description="A cause that is not the first calls its roles from this probability on."
    )
    many_tenants: int = Field(
        3,
        ge=1,
        description="So many tenants whose documents wait, with money in it and critical, are told to executives.",
    )
    forecast_warns_ms: int = Field(14 * DAY_MS, gt=0, description="A forecast that comes true sooner is a warning, ms.")

    reopen_ms: int = Field(
        600_000, ge=0, description="A story whose cause returns within so long is the same incident, ms."
    )
    flap_slot_ms: int = Field(30_000, gt=0, description="Length of a slot of the flap history, ms; it has twenty.")
    flap_high: float = Field(
        30.0, gt=0, le=100, description="A story flaps from this weighted state-change rate on, %."
    )
    flap_low: float = Field(25.0, gt=0, le=100, description="And no longer below this one, %.")
    flap_tell_ms: int = Field(300_000, gt=0, description="A flapping story is told so often at most, ms.")

    signals_max: int = Field(2_000, ge=10, description="Signals kept a cell; ended ones go first, then the oldest.")
    changes_max: int = Field(200, ge=1, description="Changes kept a cell; the oldest go first.")
    silences_max: int = Field(200, ge=1, description="Silences kept a cell; those that end first go first.")
    closed_max: int = Field(200, ge=1, description="Closed stories that may reopen, a cell; the oldest go first.")

    @cached_property
    def pause_ms(self) -> int:
        """Time from one look at the stories to the next, ms."""
        return max(self.look_every_ms, round(self.looks * self.interval_ms()))

    @cached_property
    def topology(self) -> Topology:
        """Who needs what in the cell."""
        return Topology(self.declared)
