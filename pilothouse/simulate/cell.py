"""What the collectors see of a cell: load meets capacity, and everything follows from that.

Busy backends add up over the tenants; what they use of the server's capacity makes every statement slower by the waiting
time of an M/M/c queue (Sakasegawa 1977); slower statements make slower requests. Jobs stand in a fluid queue before their
workers (Lindley 1952). So a fault at one place shows at all others that it would reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pilothouse.simulate import noise
from pilothouse.simulate.board import Board, Carry, Sheet
from pilothouse.simulate.documents import Documents, Labels, draw_documents
from pilothouse.simulate.drawing import CRONS, Character, Drawn
from pilothouse.simulate.drivers import Drivers, Knob
from pilothouse.simulate.load import day_factor, expected_load
from pilothouse.simulate.noise import Floats
from pilothouse.simulate.queues import Jobs, look_at_pool, runs_of_cron, waiting_factor, waits_of_pool
from schemas.calendar import DAY_MS

WANDER_S = 2_700.0


@dataclass
class Tenant:
    """A tenant over a span, as it really is."""

    character: Character
    load: Floats
    requests_per_s: Floats
    busy: Floats
    request_s: Floats
    jobs: dict[str, Jobs]
    documents: Documents
    labels: Labels


class World:
    """A cell over a span, as it really is; `sheets` and `events` are what is seen of it."""

    def __init__(self, drawn: Drawn, drivers: Drivers, carry: Carry, seed: int, start_ms: int) -> None:
        self.drawn, self.drivers, self.span, self.carry = drawn, drivers, drivers.span, carry
        self.random = np.random.default_rng([drawn.seed, seed, 11])
        self.start_ms, self._seed = start_ms, seed
        loads = {one.name: self._load(one) for one in drawn.tenants}
        wanted = {one.name: self._busy(one, loads[one.name]) for one in drawn.tenants}
        self.use: Floats = np.sum(list(wanted.values()), axis=0) / drawn.capacity
        self.slow = waiting_factor(self.use, drawn.capacity) * (1 + 0.35 * (drivers.factor(Knob.DISK) - 1))
        self.redis_s = drawn.ping_s * noise.scatter(self.random, self.span.size, 0.4) + drivers.extra(Knob.REDIS_DELAY)
        self.tenants = [self._tenant(one, loads[one.name], wanted[one.name]) for one in drawn.tenants]
        self.workers = sum(one.workers for one in drawn.tenants)
        self.web_load: Floats = np.sum([one.requests_per_s * one.request_s for one in self.tenants], axis=0)
        self._wait_for_workers()

    def sheets(self, besides: frozenset[str] = frozenset()) -> list[Sheet]:
        """A sheet for each resource; `besides` are systems that only some stories look at."""
        boards = [*self._boards(), *([self._web_workers()] if "odoo_workers" in besides else [])]
        return [Sheet(board, self.drawn.cell, self.start_ms) for board in boards]

    def _wait_for_workers(self) -> None:
        """Workers that somebody outside holds make all wait for the others; without them the waits are in `app_s`."""
        held = self.drivers.extra(Knob.HELD)
        if held.any():
            more = waits_of_pool(self.web_load + held, self.workers) - waits_of_pool(self.web_load, self.workers)
            for tenant in self.tenants:
                tenant.request_s = tenant.request_s * (1 + more)
            self.web_load = self.web_load + held

    def _slow_process(self, name: str, spread: float, memory_s: float) -> Floats:
        values = noise.wander(self.random, self.span.dt_s, spread, memory_s, self.carry.slow.get(name))
        self.carry.slow[name] = float(values[-1])
        return values

    def _load(self, one: Character) -> Floats:
        usual = expected_load(one, self.span.times_ms, self.drawn.start_ms)
        chance = self._slow_process(f"load {one.name}", one.wander, WANDER_S)
        usual *= np.exp(chance) * day_factor(one, self.span.times_ms, self.drawn.seed)
        return usual * self.drivers.factor(Knob.DEMAND, one.name)

    def _busy(self, one: Character, load: Floats) -> Floats:
        orders = one.orders_per_s * one.order_query_s * self.drivers.factor(Knob.ORDERS, one.name)
        own = load * (one.requests_per_s * one.query_s * self.drivers.factor(Knob.QUERY, one.name) + orders)
        return own + self.drivers.extra(Knob.DATABASE, one.name)

    def _tenant(self, one: Character, load: Floats, wanted: Floats) -> Tenant:
        drivers, name = self.drivers, one.name
        query_s = one.query_s * drivers.factor(Knob.QUERY, name) * self.slow
        locked = drivers.extra(Knob.LOCKED, name)
        # Of the workers that serve people, those that wait for a lock serve nobody.
        held = 1 / np.maximum(1 - locked / (one.workers * 2), 0.1)
        request_s = (one.app_s * drivers.factor(Knob.REQUEST, name) + query_s + 2 * self.redis_s) * held
        jobs = self._jobs(one, load)
        carrier = jobs[one.partners[0]]
        before = self.carry.documents.get(name)
        labels = Labels(carrier.delay_s(self.span), self._failing(one, one.partners[0]))
        documents = draw_documents(self.drawn, one, drivers, labels, self._seed, before)
        self.carry.documents[name] = documents.open(int(self.span.times_ms[-1]))
        return Tenant(one, load, one.requests_per_s * load, wanted, request_s, jobs, documents, labels)

    def _failing(self, one: Character, partner: str) -> Floats:
        """Share of a tenant's jobs with a partner that somebody outside makes fail."""
        extra = self.drivers.extra
        failing: Floats = np.clip(extra(Knob.JOB_FAILURES, one.name) + extra(Knob.JOB_FAILURES, partner), 0, 1)
        return failing

    def _jobs(self, one: Character, load: Floats) -> dict[str, Jobs]:
        """Labels go out to the first partner; what comes in from the second is not ours to pace."""
        drivers, name = self.drivers, one.name
        usual = one.orders_per_s * one.jobs_per_order
        speed = drivers.factor(Knob.WORKERS, name) / (1 + 8 * drivers.extra(Knob.REDIS_DELAY) / one.job_s)
        speed /= np.sqrt(self.slow)
        found: dict[str, Jobs] = {}
        for partner in one.partners:
            mean = (
                usual * load * drivers.factor(Knob.INBOUND, partner) * drivers.factor(Knob.INBOUND, f"{name}/{partner}")
            )
            arrivals = noise.clumped(self.random, mean * self.span.dt_s, one.clumps)
            pace = 6.0 * usual * speed * drivers.factor(Knob.PARTNER, partner)
            key = f"{name} {partner}"
            found[partner] = Jobs.fold(self.span, arrivals, pace * self.span.dt_s, self.carry.waiting.get(key, 0.0))
            self.carry.waiting[key] = float(found[partner].waiting[-1])
        return found

    def _boards(self) -> Iterator[Board]:
        yield self._postgresql()
        yield self._redis()
        yield self._log()
        yield self._health()
        yield self._host()
        yield self._tls()
        for tenant in self.tenants:
            yield self._odoo(tenant)

    def _board(self, resource: str, system: str) -> Board:
        return Board(resource, system, self.span, self.random, self.carry)

    def _postgresql(self) -> Board:
        drivers, drawn, board = self.drivers, self.drawn, self._board(f"pg-{self.drawn.cell}", "postgresql")
        disk = drivers.factor(Knob.DISK)
        orders = sum(one.load * one.character.orders_per_s for one in self.tenants)
        pools = sum(one.character.pool for one in self.tenants)
        active = noise.clumped(self.random, self.use * drawn.capacity * self.slow * 0.3, 0.0)
        board.gauge("postgresql.connection.used", pools + 3 + active + np.floor(drivers.extra(Knob.CONNECTIONS)))
        board.gauge("postgresql.connection.max", float(round(pools * 2.2, -1) + 97))
        board.count("postgresql.checkpoint.requested", 0.00001 * disk)
        board.count("postgresql.checkpoint.timed", 1 / 300)
        board.amount("postgresql.checkpoint.sync.time", (0.0005 + 0.002 * orders) * disk, 0.5)
        board.amount("postgresql.checkpoint.write.time", 0.05 + 0.2 * orders, 0.3)
        board.amount("postgresql.wal.bytes", 2_000 + 90_000 * orders, 0.3)
        client = board.of(postgresql__backend__type="client backend", postgresql__io__object="relation")
        client.amount("postgresql.io.read.time", 0.002 * self.use * disk + 0.0004, 0.4)
        client.amount("postgresql.io.write.time", 0.001 * self.use * disk + 0.0002, 0.4)
        client.amount("postgresql.io.fsync.time", (0.0002 + 0.003 * orders) * disk, 0.5)
        for tenant in self.tenants:
            self._database(board, tenant)
        return board

    def _database(self, whole: Board, tenant: Tenant) -> None:
        one, drivers = tenant.character, self.drivers
        board = whole.of(db__namespace=one.tenant.db_namespace, tenant__id=one.name)
        locked = np.floor(drivers.extra(Knob.LOCKED, one.name) + 0.5)
        calm = self._month_end_waits(one)
        orders = one.orders_per_s * tenant.load
        busy = tenant.busy * self.slow
        work = tenant.requests_per_s + drivers.extra(Knob.DATABASE, one.name) * 5
        board.amount("postgresql.active.time", busy + locked, 0.1)
        board.amount("postgresql.query.time", busy * 0.9 + locked, 0.1)
        board.count("postgresql.query.count", 12 * work + 150 * orders, one.clumps)
        board.count("postgresql.query.rows", 40 * work + 150 * orders, one.clumps)
        board.count("postgresql.commits", 1.2 * work + 9 * orders + 0.2, one.clumps)
        board.count("postgresql.rollbacks", 0.002 * work, one.clumps)
        board.count("postgresql.blocks.read", 20 * work * noise.scatter(self.random, self.span.size, 0.5), one.clumps)
        board.count("postgresql.deadlocks", 2e-6 * work)
        board.total("postgresql.temp.bytes", noise.rare(self.random, self.span.size, 0.01, 5e6))
        board.gauge("postgresql.lock.waiting", locked + (calm > 0))
        since_s = np.where(locked > 0, np.cumsum(np.where(locked > 0, self.span.dt_s, 0.0)), 0.0)
        board.gauge("postgresql.lock.wait.max", np.maximum(since_s, calm))
        board.gauge("postgresql.transaction.age.max", since_s + self.random.exponential(0.05, self.span.size))
        board.gauge("postgresql.idle_in_transaction.age.max", self.random.exponential(0.02, self.span.size))
        board.of(db__client__connection__state="idle").gauge("postgresql.connection.count", float(one.pool))
        board.of(db__client__connection__state="active").gauge(
            "postgresql.connection.count", noise.clumped(self.random, busy, 0.0) + locked
        )
        board.gauge("postgresql.database.size", self._size(one))

    def _month_end_waits(self, one: Character) -> Floats:
        """Short waits for the sequence of invoices; they are a little more frequent at month end. Waiting time, s."""
        often = 0.004 + 0.02 * np.array([one.calendar.at(at).is_month_end for at in self.span.times_ms.tolist()])
        return np.where(self.random.random(self.span.size) < often, self.random.exponential(0.15, self.span.size), 0.0)

    def _size(self, one: Character) -> Floats:
        weeks = (self.span.times_ms - self.drawn.start_ms) / (7 * DAY_MS)
        return 1e4 * np.floor(one.size_bytes * (1 + 0.004 * weeks) / 1e4)

    def _redis(self) -> Board:
        drivers, board = self.drivers, self._board(f"valkey-{self.drawn.cell}", "redis")
        requests = sum(one.requests_per_s for one in self.tenants)
        size, slow_s = self.span.size, drivers.extra(Knob.REDIS_DELAY)
        board.gauge("redis.ping.duration", self.redis_s + noise.rare(self.random, size, 0.003, 0.004))
        for name, base_s in (("GET", 2e-6), ("SET", 1.2e-5), ("BRPOP", 2e-5), ("HSET", 1.3e-5)):
            values = base_s * noise.scatter(self.random, size, 0.3) + slow_s * 0.5
            board.of(db__operation__name=name).gauge("redis.command.duration", values)
        board.count("redis.commands", 3 + 4 * requests, 0.1)
        board.count("redis.slowlog.count", 0.0005 + np.where(slow_s > 0.01, 0.5 * requests, 0.0))
        board.count("redis.client.rejected", 0.0)
        board.count("redis.keys.expired", 0.02 * requests, 0.1)
        clients = sum(one.character.workers for one in self.tenants) * 3
        board.gauge("redis.client.connected", clients + noise.clumped(self.random, np.full(size, 4.0), 0.0))
        used = 4e8 * (1 + 0.1 * self.use) * np.exp(self._slow_process("redis memory", 0.02, 7_200))
        limit = 2e9
        wanted = used + drivers.extra(Knob.REDIS_MEMORY)
        board.gauge("redis.memory.used", np.minimum(wanted, limit))
        board.gauge("redis.memory.max", limit)
        board.gauge("redis.memory.fragmentation", 1.3 * noise.scatter(self.random, size, 0.02))
        board.count("redis.keys.evicted", np.maximum(wanted - limit, 0) / 2e5)
        board.gauge("redis.persistence.ok", 1.0)
        return board

    def _log(self) -> Board:
        drivers, board = self.drivers, self._board(f"log-{self.drawn.cell}", "odoo_log")
        for tenant in self.tenants:
            one = tenant.character
            mine = board.of(tenant__id=one.name)
            answers = drivers.factor(Knob.WEB) * np.maximum(1 - drivers.extra(Knob.LOCKED, one.name) / 40, 0.1)
            failing = drivers.extra(Knob.ERRORS, one.name)
            requests = mine.of(http__response__status_class="2xx").count(
                "odoo.http.requests", tenant.requests_per_s * answers * (1 - failing), one.clumps
            )
            own = noise.rare(self.random, self.span.size, 0.004, 1.0).round()
            errors = noise.clumped(self.random, tenant.requests_per_s * failing * self.span.dt_s, one.clumps) + own
            mine.total("odoo.http.errors", errors)
            mine.total("odoo.log.errors", errors + noise.clumped(self.random, np.full(self.span.size, 0.02), 0.0))
            mean = noise.mean_of_few(self.random, tenant.request_s, requests)
            mine.gauge("odoo.http.request.duration.mean", mean)
            mine.gauge("odoo.http.request.duration.max", mean * (2 + np.log1p(requests)))
            mine.total("odoo.http.request.time", np.nan_to_num(mean) * requests)
            mine.count("odoo.sql.queries", tenant.requests_per_s * 12, one.clumps)
            mine.amount("odoo.sql.time", tenant.requests_per_s * one.query_s * self.slow, 0.15)
            mine.count("odoo.log.retries", 0.0002 + 0.05 * drivers.extra(Knob.LOCKED, one.name))
            mine.of(odoo__log__level="INFO").count("odoo.log.records", 0.2 + tenant.requests_per_s, one.clumps)
        board.count("odoo.worker.killed", 0.0)
        return board

    def _web_workers(self) -> Board:
        """Drawn by themselves, so that looking at them changes nothing else."""
        random = np.random.default_rng([self.drawn.seed, self._seed, 31])
        board = Board(f"workers-{self.drawn.cell}", "odoo_workers", self.span, random, self.carry)
        http = board.of(odoo__worker__type="http")
        busy, waiting = look_at_pool(random, self.web_load, self.workers, 8 * self.workers)
        http.gauge("odoo.worker.count", float(self.workers))
        http.gauge("odoo.worker.busy", busy)
        http.gauge("odoo.worker.waiting", waiting)
        return board

    def _health(self) -> Board:
        board = self._board(f"web-{self.drawn.cell}", "odoo_health")
        up = (self.drivers.factor(Knob.WEB) > 0.5).astype(float)
        board.gauge("odoo.health.up", up)
        duration = 0.004 * noise.scatter(self.random, self.span.size, 0.6) * np.minimum(self.slow, 3)
        board.gauge("odoo.health.duration", np.where(up > 0, duration, np.nan))
        return board

    def _host(self) -> Board:
        drivers, drawn, board = self.drivers, self.drawn, self._board(f"host-{self.drawn.cell}", "host")
        size, disk = self.span.size, drivers.factor(Knob.DISK)
        # A disk that waits leaves the CPUs idle.
        cpu = 0.06 + 0.55 * np.minimum(self.use, 1.2) + drivers.extra(Knob.CPU)
        cpu = np.clip(cpu * noise.scatter(self.random, size, 0.06), 0.01, 0.995)
        board.gauge("system.cpu.utilization", cpu)
        waits = np.clip(0.008 * disk * noise.scatter(self.random, size, 0.5), 0, 0.6)
        board.gauge("system.cpu.iowait", waits)
        board.gauge("system.cpu.load_average.1m", drawn.cores * (cpu + waits) * noise.scatter(self.random, size, 0.1))
        taken = 0.45 + 0.1 * self.use + self._slow_process("memory", 0.02, 20_000) + drivers.extra(Knob.MEMORY)
        board.gauge("system.memory.utilization", np.clip(taken, 0.05, 0.99))
        sda = board.of(system__device="sda")
        sda.amount("system.disk.io_time", np.clip(0.04 + 0.1 * self.use, 0, 0.3) * np.minimum(disk, 6), 0.3)
        for way in ("read", "write"):
            sda.of(disk__io__direction=way).amount("system.disk.io", 2e6 * (0.3 + self.use), 0.4)
        place = board.of(system__filesystem__mountpoint="/var/lib/postgresql")
        used = self._disk_bytes()
        place.gauge("system.filesystem.usage", used)
        place.gauge("system.filesystem.limit", drawn.disk_bytes)
        place.gauge("system.filesystem.utilization", used / drawn.disk_bytes)
        for kind, share in (("cpu", np.maximum(cpu - 0.7, 0.01)), ("io", waits * 0.7), ("memory", np.full(size, 1e-4))):
            board.of(system__pressure__resource=kind).amount("system.pressure.some", share, 0.4)
        for way in ("receive", "transmit"):
            board.of(network__io__direction=way).amount("system.network.io", 5e5 * (0.2 + self.use), 0.4)
            board.of(network__io__direction=way).count("system.network.errors", 1e-5)
        board.gauge("system.uptime", (self.span.times_ms - self.start_ms) / 1000)
        return board

    def _disk_bytes(self) -> Floats:
        """Slow growth, log files that are rotated at night, and what faults add."""
        drawn, times = self.drawn, self.span.times_ms
        weeks = (times - drawn.start_ms) / (7 * DAY_MS)
        daily = 0.012 * ((times - drawn.start_ms) % DAY_MS) / DAY_MS
        wobble = self._slow_process("disk", 0.0008, 10_000)
        used = drawn.disk_bytes * (drawn.disk_used + 0.003 * weeks + daily + wobble)
        used += self.drivers.extra(Knob.DISK_BYTES) + self.drivers.extra(Knob.WAL_BYTES)
        kept = np.clip(used, 0, drawn.disk_bytes)
        return 1e3 * np.floor(kept / 1e3)

    def _tls(self) -> Board:
        board = self._board(f"tls-{self.drawn.cell}", "tls")
        # Renewed in good time, every sixty days.
        period = 60 * DAY_MS
        left_s = (90 * DAY_MS - (self.span.times_ms + self.drawn.seed * DAY_MS) % period) / 1000
        left_s = left_s - self.drivers.extra(Knob.CERTIFICATE)
        board.gauge("tls.certificate.validity.remaining", left_s)
        board.gauge("tls.handshake.success", (left_s > 0).astype(float))
        board.gauge("tls.handshake.duration", 0.012 * noise.scatter(self.random, self.span.size, 0.4))
        board.gauge("tls.certificate.host_match", 1.0)
        return board

    def _odoo(self, tenant: Tenant) -> Board:
        one, drivers = tenant.character, self.drivers
        whole = self._board(f"odoo-{one.name}", "odoo")
        board = whole.of(tenant__id=one.name)
        self._crons(board, one)
        for partner, jobs in tenant.jobs.items():
            here = board.of(odoo__queue_job__channel=f"root.{partner}")
            failed = np.clip(self._failing(one, partner) + 0.001, 0, 1)
            lost = self.random.binomial(np.round(jobs.done).astype(int), failed).astype(float)
            here.total("odoo.queue_job.done", np.round(jobs.done) - lost)
            here.total("odoo.queue_job.failed", lost)
            waiting = np.floor(jobs.waiting) + (self.random.random(self.span.size) < 0.3)
            here.of(odoo__queue_job__state="pending").gauge("odoo.queue_job.count", waiting)
            here.of(odoo__queue_job__state="started").gauge(
                "odoo.queue_job.count",
                np.minimum(noise.clumped(self.random, jobs.done / self.span.dt_s * one.job_s, 0.0), one.workers),
            )
            here.of(odoo__queue_job__state="failed").gauge("odoo.queue_job.count", 0.0)
            here.gauge("odoo.queue_job.age.max", jobs.oldest_s(self.span))
            here.gauge("odoo.queue_job.dead", 0.0)
        board.gauge("odoo.mail.exception", 0.0)
        board.gauge("odoo.mail.outgoing.age.max", self.random.exponential(90, self.span.size))
        board.gauge("odoo.module.changing", np.floor(drivers.extra(Knob.MODULES, one.name)))
        self._business(board, tenant)
        return whole

    def _crons(self, board: Board, one: Character) -> None:
        running = self.drivers.factor(Knob.CRONS, one.name)
        late: list[Floats] = []
        for place, (name, interval_s) in enumerate(CRONS):
            goes = np.minimum(running, self.drivers.factor(Knob.CRON, f"{one.name}/{name}"))
            # A cron that somebody switched off is not overdue; one that nobody runs is.
            runs, delay_s = runs_of_cron(
                self.span, interval_s, (place * 37 + self.drawn.seed * 13) % interval_s, goes, running
            )
            board.of(odoo__cron__name=name).total("odoo.cron.runs", np.minimum(runs, 1.0))
            late.append(delay_s + self.random.exponential(0.8, self.span.size))
        delays = np.array(late)
        board.gauge("odoo.cron.active", float(len(CRONS)))
        board.gauge("odoo.cron.overdue", (delays > 60).sum(axis=0).astype(float))
        board.gauge("odoo.cron.delay.max", delays.max(axis=0))
        board.gauge("odoo.cron.failing", 0.0)

    def _business(self, board: Board, tenant: Tenant) -> None:
        names = {"count": "erp.document.count", "age": "erp.document.age.max"}
        for (what, model, state), values in tenant.documents.columns(self.span).items():
            mine = board.of(erp__document__type=model, erp__document__state=state)
            if what == "transitions":
                mine.total("erp.document.transitions", values)
                if state == "sale":
                    value = values * tenant.character.order_value
                    board.total("erp.order.value", value * noise.scatter(self.random, self.span.size, 0.3))
            else:
                mine.gauge(names[what], values)
