"""What every registered collector keeps, whatever its target says, and when."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ingest.collector import Collected, Target, Unavailable
from ingest.collectors.registry import COLLECTORS
from ingest.counts import Count, Counts
from ingest.edges import Edges
from ingest.scheduler import Scheduler, Watched
from ingest.spool import SpoolFull
from ingest.threads import HangsError
from schemas.records import DeadLetter, OperationsEvent, Record, Scrape
from tests.support.liars import CANARY, LIARS, Liar, Mood

NOW_MS = 1_795_233_600_000
SEEDS = range(25)
PATIENCE_S = 20
every_collector = pytest.mark.parametrize("system", sorted(COLLECTORS))
# A log has no target that could hang, and neither has /proc; what stands in their place is tried with the log.
CAN_HANG = sorted(set(COLLECTORS) - {"odoo_log", "odoo_workers"})


def test_every_registered_collector_has_a_hostile_target() -> None:
    assert set(LIARS) == set(COLLECTORS)


def written(seen: Collected) -> str:
    """Everything of a look as text, as the spool would write it."""
    records = [record.model_dump_json() for record in seen.records]
    faults = [
        json.dumps([part, fault.reason, fault.mend, dict(fault.attributes)]) for part, fault in seen.faults.items()
    ]
    refused = [f"{why} {payload.decode(errors='backslashreplace')}" for why, payload in (*seen.refused, *seen.rows)]
    return "\n".join([*records, *faults, *refused, seen.position or ""])


async def looked(one: Any, now_ms: int, position: str | None) -> Collected | Unavailable:
    try:
        return await one.collect(now_ms, position)  # type: ignore[no-any-return]
    except Unavailable as away:
        return away
    except HangsError as hangs:  # the scheduler tells it as that
        return Unavailable("", str(hangs), "")


@every_collector
async def test_garbage_in_every_field_stops_no_look(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar, gave = LIARS[system], 0
    for seed in SEEDS:
        mood = Mood(random.Random(seed))
        with monkeypatch.context() as patch:
            async with liar.open(mood, tmp_path, patch) as url:
                _, one = liar.make(system, url)
                position: str | None = None
                for look in range(4):
                    seen = await looked(one, NOW_MS + look * 61_000, position)
                    if isinstance(seen, Collected):
                        text, gave = written(seen), gave + 1
                        text.encode()
                        position = seen.position if seen.position is not None else position
                await one.close()
    assert gave or system == "odoo_workers"  # where nothing of the garbage is an Odoo, none is there


@every_collector
@pytest.mark.parametrize(
    "position", ["garbage", "{}", "null", "[1]", '{"since_ms":"\\ud800"}', "\x00" * 10, "9" * 5_000]
)
async def test_a_position_of_something_else_stops_no_look(
    system: str, position: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar, mood = LIARS[system], Mood(random.Random(1))
    async with liar.open(mood, tmp_path, monkeypatch) as url:
        _, one = liar.make(system, url)
        seen = [await looked(one, NOW_MS + look * 1_000, position) for look in range(3)]
        await one.close()
    assert all(isinstance(look, Collected | Unavailable) for look in seen)


@pytest.mark.parametrize("system", CAN_HANG)
async def test_a_target_that_hangs_is_given_up_and_read_again_when_it_answers(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar, mood = LIARS[system], Mood(random.Random(2), hangs=True)
    async with asyncio.timeout(PATIENCE_S), liar.open(mood, tmp_path, monkeypatch) as url:
        _, one = liar.make(system, url, timeout_s=0.3)
        with_hang = await within(one, 0.4)
        assert with_hang is None or isinstance(with_hang, Collected | Unavailable)
        mood.hangs = False
        await asyncio.sleep(0.1)
        assert isinstance(await within(one, 5.0), Collected | Unavailable)
        mood.hangs = True
        await one.close()


async def within(one: Any, time_s: float) -> Collected | Unavailable | None:
    """A look as the scheduler gives it up; None when it was."""
    try:
        async with asyncio.timeout(time_s):
            return await looked(one, NOW_MS, None)
    except TimeoutError:
        return None


@every_collector
async def test_a_look_that_is_cancelled_leaves_nothing_for_the_next(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar, mood = LIARS[system], Mood(random.Random(3))
    async with asyncio.timeout(PATIENCE_S), liar.open(mood, tmp_path, monkeypatch) as url:
        _, one = liar.make(system, url)
        for pauses in range(12):
            look = asyncio.create_task(looked(one, NOW_MS, None))
            for _ in range(pauses):
                await asyncio.sleep(0)
            look.cancel()
            await asyncio.wait([look])
        assert isinstance(await looked(one, NOW_MS, None), Collected | Unavailable)
        await one.close()


SECRETS = [f"{CANARY}{odd}x" for odd in ("", "/", "#", "?", "@", ":", "[", "%", " ", "\n", "é", "/12@h:")]


@pytest.mark.parametrize("system", sorted(system for system, liar in LIARS.items() if liar.secret))
@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("encoded", [True, False], ids=["encoded", "plain"])
async def test_no_secret_of_a_url_is_in_an_error_or_a_record(system: str, secret: str, encoded: bool) -> None:
    liar = LIARS[system]
    assert liar.secret
    url = liar.secret.format(secret=quote(secret, safe="") if encoded else secret)
    refusal = ""
    try:
        _, one = liar.make(system, url)
    except ValueError as error:
        refusal = str(error)
    assert CANARY not in refusal
    if refusal:
        assert not encoded, refusal
        return
    seen = await within(one, 5.0)
    await one.close()
    assert seen is not None
    assert CANARY not in (written(seen) if isinstance(seen, Collected) else f"{seen} {seen.reason} {seen.mend}")


class Kept:
    """A spool that is full for so many looks, and then a list."""

    def __init__(self, full_for: int) -> None:
        self.full_for, self.position_, self.records = full_for, dict[str, str](), list[Record]()

    async def accept(
        self, records: Iterable[Record], *, letters: Iterable[DeadLetter] = (), position: tuple[str, str] | None = None
    ) -> int:
        told = list(records)
        [record.model_dump_json() for record in told]
        if self.full_for > 0:
            self.full_for -= 1
            raise SpoolFull("full")
        self.records += told
        self.position_.update([position] if position else [])
        return len(told)

    async def position(self, source: str) -> str | None:
        return self.position_.get(source)


@every_collector
async def test_what_a_full_spool_refused_is_told_later_and_once(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = LIARS[system]
    async with asyncio.timeout(PATIENCE_S), liar.open(Mood(random.Random(4)), tmp_path, monkeypatch) as url:
        kept, counts = Kept(full_for=3), Counts()
        await run(liar, system, url, kept, counts, looks=5)
        first = edges(kept)
        await run(liar, system, url, kept, Counts(), looks=2)  # after a restart of the program
    assert counts[Count.LOOK_SKIPPED] == 3
    assert kept.records
    for part, names in edges(kept).items():
        assert alternate(names), part
        assert part in first or len(names) >= 1


def alternate(names: list[str]) -> bool:
    """Whether no fault is over that has not begun. One that changes begins anew."""
    is_open = False
    for name in names:
        begins = name.rpartition(".")[2] in ("degraded", "problem", "unavailable", "failed")
        if not begins and not is_open:
            return False
        is_open = begins
    return True


def edges(kept: Kept) -> dict[str, list[str]]:
    """Names of the events of each part, in order."""
    found: dict[str, list[str]] = {}
    for record in kept.records:
        if isinstance(record, OperationsEvent) and record.name.startswith(("collector.", "tls.certificate")):
            part = str(record.attributes.get("pilothouse.collector.part", ""))
            if record.name != "collector.gap":
                found.setdefault(part, []).append(record.name)
    return found


async def run(liar: Liar, system: str, url: str, kept: Kept, counts: Counts, looks: int) -> None:
    """So many looks of the scheduler, without pauses between them."""
    target, one = liar.make(system, url)
    now_ms = NOW_MS

    class Counted:
        left = looks

        async def collect(self, now_ms: int, position: str | None) -> Collected:
            if not self.left:
                raise asyncio.CancelledError
            self.left -= 1
            return await one.collect(now_ms, position)

        async def close(self) -> None:
            await one.close()

    def clock() -> int:
        nonlocal now_ms
        now_ms += 61_000
        return now_ms

    hurried = Target(target.cell, target.resource.model_copy(update={"interval_s": 0.001}), target.url)
    counted = Counted()
    monkey = pytest.MonkeyPatch()
    monkey.setattr("ingest.scheduler.LONGEST_BACKOFF_S", 0.001)
    try:
        running = asyncio.create_task(Scheduler(kept, [Watched(hurried, counted)], clock=clock, counts=counts).run())
        while counted.left and not running.done():  # noqa: ASYNC110 (the scheduler tells nobody)
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])
    finally:
        monkey.undo()


# The scheduler's own part of the contract


async def test_an_edge_is_known_only_once_the_spool_has_it() -> None:
    target, _ = LIARS["tls"].make("tls", "tls://127.0.0.1:1")
    from ingest.collector import Fault

    seen = Collected(faults={"a": Fault("broken", "mend it")})
    events, after, _ = Edges(target).after(seen, NOW_MS)
    assert [event.name for event in events] == ["collector.degraded"]
    stored = after.stored("my position")
    again, position = Edges.restored(target, stored)
    assert position == "my position"
    assert again.after(seen, NOW_MS)[0] == []
    over, _, _ = again.after(Collected(tried=["a"]), NOW_MS)
    assert [event.name for event in over] == ["collector.restored"]
    assert Edges.restored(target, "a position of before") == (Edges(target), "a position of before")


async def test_a_record_that_cannot_be_written_is_a_dead_letter_and_the_others_go_on() -> None:
    fine = Scrape.of({"a": 1.0}, cell="eu1", resource="r", system="s", time_ms=NOW_MS)
    ill = fine.model_copy(update={"resource": "\udcff"})

    class Both:
        async def collect(self, now_ms: int, position: str | None) -> Collected:
            return Collected([ill, fine, "no record"])  # type: ignore[list-item]

        async def close(self) -> None: ...

    letters: list[DeadLetter] = []

    class Writing(Kept):
        async def accept(
            self, records: Iterable[Record], *, letters: Iterable[DeadLetter] = (), position: Any = None
        ) -> int:
            dead.extend(letters)
            return await super().accept(records, letters=letters, position=position)

    dead = letters
    kept, counts = Writing(0), Counts()
    target, _ = LIARS["tls"].make("tls", "tls://127.0.0.1:1")
    hurried = Target(target.cell, target.resource.model_copy(update={"interval_s": 0.001}), target.url)
    running = asyncio.create_task(
        Scheduler(kept, [Watched(hurried, Both())], clock=lambda: NOW_MS, counts=counts).run()
    )
    async with asyncio.timeout(PATIENCE_S):
        while not kept.records:  # noqa: ASYNC110 (the scheduler tells nobody)
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    assert fine in kept.records
    assert ill not in kept.records
    assert any("no record" in letter.detail for letter in dead)
    assert any("cannot be written" in letter.detail for letter in dead)
