"""`pilothouse demo`: a company on real servers, watched by the real Pilothouse, with real faults.

The past is played through the same topics first, and folded by a worker before the company opens. Then the calendar
announces what is to come, the worker begins anew with it, ingest looks at the live servers, faults are injected and
healed one after the other, and what Pilothouse tells is read from its topics and its webhook, as anybody would. What
was handed over and what the store holds are counted at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiokafka import AIOKafkaConsumer, TopicPartition

from ingest.backfill import backfill
from ingest.producer import connector
from pilothouse import logs
from pilothouse.broker import lag, partitions
from pilothouse.demo import faults, history, report, timeline
from pilothouse.demo.company import Peak, Plan
from pilothouse.demo.count import count
from pilothouse.demo.estate import DemoEstate, servers
from pilothouse.demo.faults import Fault, Webhook
from pilothouse.demo.receiver import Receiver
from pilothouse.demo.story import Story
from pilothouse.programs import GROUP, plan
from pilothouse.services.child import DataDirError, ServiceError
from pilothouse.services.stack import MARKER, STORE, Stack
from pilothouse.settings import Settings
from pilothouse.supervisor import Program, Supervisor
from pilothouse.whole import environment, make_topics, our_programs
from schemas.codec import Received, decode
from schemas.estate import Estate, Reference, Route
from schemas.estate import Receiver as ReceiverKeys
from schemas.records import Incident, Signal
from schemas.topics import DETECTIONS, INCIDENTS

CONFIG = "estate"
STARTUP_S = 10.0  # from planning to the first live record; a peak is announced by it
FIRST_RECORD_TIMEOUT_S = 90.0
FOLD_TIMEOUT_S = 600.0
FOLD_TELL_S = 15.0
LAG_MAX = 100
SETTLE_S = 12.0
PARTITIONS = 4
GITHUB_KEY, ALERT_URL, ALERT_KEY = "PILOTHOUSE_DEMO_GITHUB", "PILOTHOUSE_DEMO_ALERTS", "PILOTHOUSE_DEMO_ALERT_KEY"

Group = tuple[Fault, ...]


async def demo(
    settings: Settings, seconds: float, scenario: str, report_file: Path | None, *, tells: bool = True
) -> int:
    """Run the demo; gives the exit code: 0 when all was seen as it was, 1 when not. Unless it `tells`, only the end is said."""
    logs.configure()
    story, stop = Story(tells=tells), asyncio.Event()
    names = _names(scenario)
    slots = timeline.slots(len(names), seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    directory = fresh_directory(settings)
    own = settings.model_copy(update={"data_dir": directory, "partitions": PARTITIONS})
    story.say(
        "This company stands in for a host of Odoos: real servers, real load, Odoo's tables and log, but no Odoo.",
        "bold",
    )
    wanted = servers()
    async with (
        Receiver() as receiver,
        Stack(own, postgres={STORE: {}, **wanted.postgres}, valkey=wanted.valkey) as stack,
        _house(stack, DemoEstate(stack, Plan.at(_now_ms())), receiver, story) as house,
    ):
        house.weak = scenario == "weak"
        await house.fold_the_past(stop)
        if stop.is_set():
            story.say("stopped before the company opened: nothing was injected, nothing is reported")
            return 1
        await house.open(_peaks(names, slots))
        await house.play(names, slots, seconds, stop)
        report_made = await house.report()
    if report_file:
        await asyncio.to_thread(report_file.write_text, json.dumps(report_made, indent=2) + "\n")
    _conclude(story, report_made)
    return 0 if report.is_good(report_made) else 1


def _names(scenario: str) -> tuple[str, ...]:
    if scenario in ("all", "weak"):
        return timeline.ORDER
    if scenario == "double":
        return tuple(f"D{number}" for number in range(1, 6))
    return () if scenario == "none" else timeline.chosen(scenario)


def _peaks(names: Sequence[str], slots: Sequence[timeline.Slot]) -> list[timeline.Slot]:
    return [slot for name, slot in zip(names, slots, strict=True) if name == "S12"]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def fresh_directory(settings: Settings) -> Path:
    """An empty directory for a demo. One that an earlier demo made is made anew. Raises DataDirError for another's."""
    directory = settings.data_dir if settings.data_dir.name.endswith("demo") else settings.data_dir / "demo"
    if directory.exists() and any(directory.iterdir()) and not (directory / MARKER).exists():
        raise DataDirError(f"{directory} holds something that no demo made; name an empty directory with --data")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    directory.chmod(0o711)
    (directory / MARKER).write_text("{}\n")
    return directory


@dataclass
class House:
    """Pilothouse and the company while the demo runs."""

    stack: Stack
    company: DemoEstate
    receiver: Receiver
    story: Story
    supervisor: Supervisor
    seen: report.Seen = field(default_factory=report.Seen)
    faults: list[report.Done] = field(default_factory=list)
    peaks: list[report.Done] = field(default_factory=list)
    weak: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    past_ms: int = 0
    """Unix ms up to which the past is told."""
    live_ms: int = 0
    """Unix ms at which the past was over; what is told of the past says nothing of how fast it is told."""

    def program(self, name: str) -> Program:
        """One of ours by its verb."""
        return next(one for one in self.supervisor.programs if one.name == f"program/{name}")

    @property
    def kafka(self) -> dict[str, Any]:
        """How to reach the broker."""
        assert self.stack.settings.kafka
        return self.stack.settings.kafka.aiokafka_options()

    async def fold_the_past(self, stop: asyncio.Event) -> None:
        """Wait until the worker has folded what is on the topics, or until `stop`, and end it.

        Until then nothing of the present would be told in time: a fault would seem to be seen late, or not at all.
        Raises ServiceError when that takes too long.
        """
        since_s, tell_s = time.time(), FOLD_TELL_S
        prefix, read = self.stack.settings.topic_prefix, plan(None)
        known = await partitions(self.kafka, [f"{prefix}{read.inputs[place].name}" for place in read.listens])
        while not stop.is_set():
            behind, waited_s = await lag(self.kafka, prefix + GROUP, known), time.time() - since_s
            if behind is not None and behind <= LAG_MAX:
                self.story.say(f"the worker has folded the past, {waited_s:.1f} s")
                break
            left = "all" if behind is None else f"{behind:,}"
            if waited_s > FOLD_TIMEOUT_S:
                log = self.program("process").log
                raise ServiceError(f"after {waited_s:.0f} s {left} records of the past are left to fold; see {log}")
            if waited_s > tell_s:
                self.story.say(f"the worker folds the past; {left} records are left")
                tell_s += FOLD_TELL_S
            # A worker commits when something comes, as live heartbeats do.
            await backfill([(self.past_ms, [])], connector(self.kafka, prefix))
            await asyncio.sleep(1.0)
        await self.program("process").stop()

    async def open(self, peaks: Sequence[timeline.Slot]) -> None:
        """Announce what is to come, start the company and look at it; then the first live record is in the store."""
        began_ms = _now_ms()
        ahead = [(STARTUP_S + slot.starts_s, STARTUP_S + slot.ends_s) for slot in peaks]
        self.company.announce(Peak(began_ms + round(one * 1000), began_ms + round(two * 1000)) for one, two in ahead)
        await self.company.start()
        os.environ.update(self.company.environ)
        await asyncio.to_thread(_write_estate, self.stack.data_dir / CONFIG, _estate(self.company))
        self.live_ms = _now_ms()
        self.tasks.append(asyncio.create_task(self.watch()))
        for name in ("process", "ingest"):
            await self.program(name).start()
        self.tasks.append(asyncio.create_task(self.supervisor.watch()))
        await _first_row(self.stack.settings.database_url or "", self.live_ms)
        took_s, memory_mib = (_now_ms() - began_ms) / 1000, _memory_mib(self)
        self.story.say(f"the first live rows are in the database, {took_s:.1f} s; memory {memory_mib:.0f} MiB")

    async def play(
        self, names: Sequence[str], slots: Sequence[timeline.Slot], seconds: float, stop: asyncio.Event
    ) -> None:
        """Inject and heal one thing after the other until the time is over or `stop` is set."""
        began_s = self.story.began_s = time.time()
        webhook = Webhook(f"{self.program('ingest').url}/v1/changes/github", os.environ[GITHUB_KEY])
        for name, slot in zip(names, slots, strict=True):
            if await _wait(began_s + slot.starts_s, stop):
                return
            group = self._group(name, webhook)
            await self._run(name, group, slot.ends_s - slot.starts_s, stop)
        end_s = began_s + seconds if seconds else (time.time() + SETTLE_S if names else float("inf"))
        await _wait(end_s, stop)

    async def _run(self, name: str, group: Group, seconds: float, stop: asyncio.Event) -> None:
        done = [self._note(name, fault) for fault in group]
        for fault, note in zip(group, done, strict=True):
            self.story.done(f"{name}: {fault.sentence}")
            note.injected_s = time.time()
            await fault.inject()
        await _wait(time.time() + seconds, stop)
        for fault, note in zip(group, done, strict=True):
            await fault.heal()
            note.healed_s = time.time()
            self.story.done(f"{name}: {fault.name} is over")

    def _note(self, name: str, fault: Fault) -> report.Done:
        done = report.Done(name, fault.cell, fault.true_cause, fault.tenants, time.time())
        (self.faults if fault.true_cause else self.peaks).append(done)
        return done

    def _group(self, name: str, webhook: Webhook) -> Group:
        strength = faults.WEAK if self.weak else 1.0
        company = self.company
        if name.startswith("D"):
            return faults.double(company, webhook)[int(name[1:]) - 1]
        single = {
            "S1": lambda: faults.redis_slow(company, strength=strength),
            "S2": lambda: faults.month_end_locks(company, strength=strength),
            "S4": lambda: faults.bad_release(company, webhook, strength=strength),
            "S5": lambda: faults.noisy_import(company, strength=strength),
            "S10": lambda: faults.lock_storm(company, strength=strength),
            "S12": lambda: faults.expected_peak(company),
        }
        return (single[name](),)

    async def watch(self) -> None:
        """Read what the processors tell, and tell the story; until cancelled."""
        prefix = self.stack.settings.topic_prefix
        known = await partitions(self.kafka, [prefix + DETECTIONS.name, prefix + INCIDENTS.name])
        reader = AIOKafkaConsumer(**self.kafka, enable_auto_commit=False, auto_offset_reset="latest")
        await reader.start()
        try:
            reader.assign([TopicPartition(topic, number) for topic, numbers in known.items() for number in numbers])
            async for message in reader:
                decoded = decode(message.headers, message.value, message.timestamp)
                if isinstance(decoded, Received):
                    self._take(time.time(), decoded)
        finally:
            await reader.stop()

    def _take(self, at_s: float, received: Received) -> None:
        record = received.record
        if received.envelope.recorded_ms >= self.live_ms:
            self.seen.latencies_s.append(at_s - received.envelope.recorded_ms / 1000)
        if isinstance(record, Signal):
            self.seen.signals.append((at_s, record))
        elif isinstance(record, Incident):
            self.seen.incidents.append((at_s, record))
            self.story.seen(record)

    async def report(self) -> dict[str, Any]:
        """Stop looking, let the store catch up, count."""
        memory_mib = round(_memory_mib(self))
        await self.supervisor.rest(self.program("ingest"))
        url = self.stack.settings.database_url
        assert url
        spool = self.stack.data_dir / "ingest" / "spool.db"
        stored = await count(self.kafka, self.stack.settings.topic_prefix, url, spool)
        return report.build(self.faults, self.peaks, self.seen, stored) | {"memory_mib": memory_mib}


@asynccontextmanager
async def _house(stack: Stack, company: DemoEstate, receiver: Receiver, story: Story) -> AsyncIterator[House]:
    """Start what folds and stores, and play the past; the company is still closed when this is entered."""
    began_s = time.time()
    os.environ.update(environment(stack.settings))
    os.environ.update({GITHUB_KEY: secrets.token_hex(24), ALERT_URL: receiver.url, ALERT_KEY: receiver.secret})
    estate, config = _estate(company), stack.data_dir / CONFIG
    await asyncio.to_thread(_write_estate, config, estate)
    await make_topics(stack.settings)
    house = House(stack, company, receiver, story, Supervisor(our_programs(estate, config, stack.settings)))
    try:
        for name in ("process", "sink"):
            await house.program(name).start()
        now_ms = _now_ms()
        records = await backfill(history.moments(company, now_ms), connector(house.kafka, stack.settings.topic_prefix))
        house.past_ms = history.last_look(now_ms) + plan(None).grace_ms + 1
        story.say(f"{records:,} records of the last two weeks stand on the topics, {time.time() - began_s:.1f} s")
        yield house
    finally:
        for task in house.tasks:
            task.cancel()
        await asyncio.gather(*house.tasks, return_exceptions=True)
        await house.supervisor.down()
        await company.stop()


def _estate(company: DemoEstate) -> Estate:
    reached = {"url": Reference(env=ALERT_URL), "secret": Reference(env=ALERT_KEY), "allow_private": True}
    route = Route(name="on-call", min_severity="warning", **reached)
    github = ReceiverKeys(name="github", keys=(Reference(env=GITHUB_KEY),))
    return company.estate.model_copy(update={"routes": (route,), "receivers": (github,)})


def _write_estate(config: Path, estate: Estate) -> None:
    config.mkdir(exist_ok=True)
    content = estate.model_dump(mode="json", exclude_defaults=True)
    (config / "estate.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


async def _first_row(database_url: str, since_ms: int) -> None:
    import asyncpg

    async with asyncio.timeout(FIRST_RECORD_TIMEOUT_S):
        while True:
            with contextlib.suppress(asyncpg.PostgresError, OSError):
                connection = await asyncpg.connect(database_url)
                try:
                    query = "SELECT 1 FROM metrics WHERE time >= to_timestamp($1) LIMIT 1"
                    if await connection.fetchval(query, since_ms / 1000):
                        return
                finally:
                    await connection.close()
            await asyncio.sleep(0.2)


def _memory_mib(house: House) -> float:
    ours = sum(program.pss_mib for program in house.supervisor.programs if program.running)
    return ours + sum(child.pss_mib for child in house.stack.children)


async def _wait(until_s: float, stop: asyncio.Event) -> bool:
    """Wait for a Unix second; True when `stop` came first."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), None if until_s == float("inf") else max(until_s - time.time(), 0.01))
    return stop.is_set()


def _conclude(story: Story, made: dict[str, Any]) -> None:
    story.tells = True
    for fault in made["faults"]:
        right = fault["named_cause"] == fault["true_cause"]
        after = f"{fault['detected_at'] - fault['injected_at']:.1f} s" if fault["detected_at"] else "never"
        named = fault["named_cause"] or "nothing"
        story.say(
            f"{fault['name']:4} {fault['true_cause']}: seen after {after}, named {named}",
            "green" if right else "bold red",
        )
    for peak in made["peaks"]:
        story.say(f"{peak['name']:4} expected peak: {'silent' if not peak['signals'] else 'a false alarm'}")
    story.say(
        f"{made['records_in']:,} records, {made['points_in']:,} points, lost {made['lost']}, duplicates {made['duplicates']}, "
        f"false alarms {len(made['false_alarms'])}, memory {made['memory_mib']} MiB"
    )
