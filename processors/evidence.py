"""What every finding owes its reader, whichever step raised it: a cause that is a name, and facts with their time.

Causes are made of what others have named: tenants, services, revisions, partners. Each may be as long as a name may be, and some may hold
blanks, so a cause is fitted where it is built: the same parts always give the same cause, and two causes stay two.
"""

from __future__ import annotations

import hashlib
import re

from processors.step import Findings, StepConfig
from schemas.records import Evidence, Signal

NAME_MAX = 255
DIGEST = 12  # hex digits that stand for what was cut


def cause_of(kind: str, what: object) -> str:
    """KIND:WHAT as a record may hold it: blanks become underscores, and what is too long ends in a digest of all of it."""
    return name_of(f"{kind}:{what}")


def name_of(said: str) -> str:
    """A text as a name that a record may hold."""
    text = "_".join(re.split(r"[\s\x00-\x1f]+", said))
    if len(text) <= NAME_MAX:
        return text or "unnamed"
    digest = hashlib.blake2b(said.encode(errors="replace"), digest_size=DIGEST // 2).hexdigest()
    return f"{text[: NAME_MAX - DIGEST - 1]}~{digest}"


def dated(config: StepConfig, found: Findings) -> Findings:
    """The findings, each fact of a signal with its time and the phase of the tenant's calendar."""
    return [_signal(config, one) if isinstance(one, Signal) and one.evidence else one for one in found]


def _signal(config: StepConfig, signal: Signal) -> Signal:
    return signal.model_copy(update={"evidence": tuple(_fact(config, signal, fact) for fact in signal.evidence)})


def _fact(config: StepConfig, signal: Signal, fact: Evidence) -> Evidence:
    time_ms = signal.time_ms if fact.time_ms is None else fact.time_ms
    phase = fact.phase or config.calendar(signal.tenant).at(time_ms).phase
    return fact.model_copy(update={"time_ms": time_ms, "phase": phase})
