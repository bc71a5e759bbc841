"""What every record passes on its way to Kafka: a durable queue on disk.

An accepted record survives kill -9 and power cuts, leaves in the order of its sequence, and leaves with the same
source and sequence however often it is sent. Positions of collectors and ids of deliveries are kept in the same
transaction as their records, so nothing is lost or told twice between a source and here. The order of `seq` is the
order of `recorded_ms`; heartbeats stand in the same queue, so whatever was recorded before one stands before it.

Fair shares: who fills the spool must leave room for the others. A named source may hold at most `SHARE` times what is still
free, so one that floods gets two thirds, two get two fifths each, and there is always room for one that comes later;
what strangers send (`RECEIVED`) leaves a reserve to the collectors besides. Source: Choudhury and Hahne, "Dynamic
queue length thresholds for shared-memory packet switches" (1998).

Disk trouble: what cannot be written is refused (`SpoolFull`), and what Kafka has is passed over in memory until its rows can be
deleted, so the queue drains also while the disk is full or read-only; a restart before that sends them once more under
the same sequences.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ingest.counts import Count, Counts
from ingest.group_commit import GroupCommit
from ingest.oversize import letters as letters_of
from ingest.oversize import parts
from ingest.private_files import make_private
from ingest.references import ConfigurationError
from schemas.bounds import reached
from schemas.codec import MAX_PAYLOAD_BYTES, Reason, encode_dead_letter
from schemas.masking import masked, masked_data
from schemas.records import DeadLetter, Heartbeat, OperationsEvent, Record
from schemas.topics import DEAD_LETTERS, INPUTS, topic_of

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Clock = Callable[[], int]  # Unix time in ms, UTC

SHARE = 2.0
RECEIVED = "received:"  # begins the source of what others send
DELIVERY_MS = 24 * 3_600_000
ROW_BYTES = 100  # what SQLite needs beside key and value
SENT_HEARTBEAT_BYTES = 50_000  # one row becomes a message in every partition of every input topic
CELL_EVERY_MS = 600_000  # that a cell was heard of is written down so often
CELLS_MAX = 10_000  # that are known; the one longest unheard of is forgotten
FALLS_MS = 300_000  # a clock that has fallen by more is followed, for readers would wait as long
GIVEN_BACK_PAGES = 4096  # freed pages returned to the file system at a time

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice, also when the queue was empty
    topic TEXT NOT NULL, key TEXT NOT NULL, type TEXT NOT NULL,
    time_ms INTEGER NOT NULL, recorded_ms INTEGER NOT NULL, value BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS positions (source TEXT PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, seen_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cells (name TEXT PRIMARY KEY, seen_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deliveries_by_age ON deliveries (seen_ms);
"""
INPUT_NAMES = frozenset(topic.name for topic in INPUTS)
ADDED = ("outbox", "deliveries")  # tables whose `source` files of before do not have
COLUMNS = "topic, key, type, time_ms, recorded_ms, value, source"
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
UNWRITABLE = {
    sqlite3.SQLITE_FULL: "is full; make room",
    sqlite3.SQLITE_IOERR: "cannot be written; make room, raise the quota, or see what the kernel's log says of it",
    sqlite3.SQLITE_READONLY: "is read-only; mount it for writing, or give the program its rights on the file back",
    sqlite3.SQLITE_PERM: "may not be written by this program; give it its rights on the file back",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened any more; bring the folder back",
    sqlite3.SQLITE_BUSY: "is locked by another program; stop that",
    sqlite3.SQLITE_LOCKED: "is locked by another program; stop that",
}
EARLY = "\0early"  # counts what was forgotten within 24 hours, beside the sources
INSERT = f"INSERT INTO outbox ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"


class SpoolError(ConfigurationError):
    """The spool cannot be used; the message names the file and the mend."""


class SpoolFull(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """No more is accepted until Kafka has taken some of it. Nothing of what was offered is kept."""

    def __init__(self, detail: str, retry_after_s: float = 10.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class ShareFull(SpoolFull):
    """The spool has room, but not for this source, which fills its share of it."""


class Row(NamedTuple):
    """A record in the queue. `seq` is its sequence for good, 0 before it has one."""

    seq: int
    topic: str
    key: str
    type: str
    time_ms: int
    recorded_ms: int
    value: bytes
    source: str = ""

    @property
    def size(self) -> int:
        """Bytes that count against the bound."""
        return len(self.value) + len(self.key) + ROW_BYTES


class Item(NamedTuple):
    """What is kept or dropped as a whole: the rows of one record, with the id it was delivered under, if any."""

    delivery: str | None
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Bounds:
    """When the spool is full: on disk, on the way to it, and how many deliveries it remembers."""

    max_bytes: int = 2 * 2**30
    max_records: int = 5_000_000
    max_waiting_bytes: int = 64 * 2**20
    max_deliveries: int = 500_000
    reserved: float = 0.0
    """Part of the spool, 0 to 1, that what others send leaves to the collectors."""


class Held:
    """What a source has in the spool, on its way to the disk included."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0


class Spool:
    """The queue in the file at `path`; `name` is the publisher's, `clock` stamps what is accepted."""

    def __init__(
        self, path: Path, *, name: str, clock: Clock, counts: Counts | None = None, bounds: Bounds | None = None
    ) -> None:
        self.source = ""
        """Who publishes: the name and a random part as old as the file, so that a wiped spool is a new source."""
        self.records = 0
        self.bytes = 0
        self.cells: dict[str, int] = {}
        """When each cell was heard of last, about, Unix ms: whose partitions are to be beaten on, also after a restart."""
        self.filled = asyncio.Event()
        """Set when there may be something to send."""
        self.emptied = asyncio.Event()
        """Set when everything has been sent."""
        self._path, self._name, self._clock = path, name, clock
        self._counts = counts if counts is not None else Counts()
        self._bounds = bounds or Bounds()
        self._waiting_bytes = 0
        self._recorded_ms = 0
        self._held: dict[str, Held] = {}
        self._remembered: Counter[str] = Counter()
        self._passed = 0
        """The last sequence that Kafka has; its row may still be on disk."""
        self._is_stuck = False
        self._inode = 0
        self._file = GroupCommit(path, _create)

    async def open(self) -> None:
        """Open or create the file. Raises SpoolError."""
        try:
            make_private(self._path)
            await self._file.open()
            await self._file.run(self._load)
            self._inode = self._path.stat().st_ino
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"spool {self._path}: {error}; {_mend(error)}") from error
        self.filled.set()

    async def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        await self._file.close()

    async def accept(
        self,
        records: Iterable[Record],
        *,
        letters: Iterable[DeadLetter] = (),
        position: tuple[str, str] | None = None,
        deliveries: Sequence[str | None] = (),
        source: str = "",
    ) -> int:
        """How many of the records are new; returned once they, the letters and the position are durable together.

        `position` is (source, where it goes on). `deliveries` has one id a record: a record whose id was seen within
        24 hours is dropped, one whose id is None is always new. A batch too large for Kafka is kept in parts. `source` names
        whose share of the spool it takes; without one it is bounded by the whole spool alone. Raises SpoolFull.
        """
        now_ms = self._stamp()
        items = list(_items(records, deliveries, now_ms, source))
        refused = [_letter_row(letter, now_ms, source) for letter in letters]
        rows = [*refused, *(row for item in items for row in item.rows)]
        self._refuse_if_full(source, len(rows), _size(rows))
        remembered = Counter(self._remembered)
        # Asked for before anything is awaited, so that the order on disk is the order of the stamps.
        answer = self._file.run(lambda db: self._keep(db, items, refused, position, now_ms, remembered))
        self._waiting_bytes += _size(rows)
        self._hold(rows, 1)
        # Shielded: what the disk has taken is counted also when the caller has gone.
        new = await asyncio.shield(self._accepted(answer, refused, rows))
        self._counts[Count.DUPLICATE] += len(items) - len(new)
        return len(new)

    async def beat(self) -> None:
        """Queue a heartbeat; never refused. It takes the place of one that stands last, so idle hours leave one."""
        beat = Heartbeat(publisher=self.source, time_ms=self._stamp())
        await self._answered(self._file.run(lambda db: _keep_heartbeat(db, beat)))
        self._announce()

    async def advance(
        self, sent: Sequence[Row], *, letters: Iterable[DeadLetter] = (), max_bytes: int, max_rows: int = 10_000
    ) -> list[Row]:
        """Forget the rows that Kafka has, and read the next ones, oldest first: at least one if there is any.

        `letters` stand for rows of `sent` that Kafka will never take; they are queued in the same transaction.
        """
        now_ms = self._stamp()
        new = [_letter_row(letter, now_ms) for letter in letters]
        passed = max(self._passed, sent[-1].seq) if sent else self._passed
        self.filled.clear()  # what comes from now on is either read below or sets it again
        try:
            rows = await self._answered(
                self._file.run(lambda db: _advance(db, passed, new, max_bytes, max_rows), frees=True)
            )
        except SpoolFull:
            if new:  # the letters are the only copy of what they stand for
                raise
            reading = self._file.run(lambda db: _following(db, passed, max_bytes, max_rows), writes=False)
            rows = await self._answered(reading, heals=False)
        self._passed = passed
        if sent:
            self._file.run(_give_back).add_done_callback(_looked_at)
        self._settle(sent, -1)
        self._settle(new, 1)
        if not rows:
            self.emptied.set()
        return rows

    async def position(self, source: str) -> str | None:
        """Where the source goes on; None before its first look."""
        query = "SELECT position FROM positions WHERE source = ?"
        reading = self._file.run(lambda db: _one(db, query, source), writes=False)
        found: str | None = await self._answered(reading, heals=False)
        return found

    @property
    def recorded_ms(self) -> int:
        """What was stamped last, Unix ms; 0 before the first."""
        return self._recorded_ms

    def now_ms(self) -> int:
        """What its clock says, Unix ms."""
        return self._clock()

    @property
    def is_full(self) -> bool:
        """Whether the next record would be refused."""
        return self.records >= self._bounds.max_records or self.bytes >= self._bounds.max_bytes

    async def _accepted(
        self, answer: asyncio.Future[tuple[list[Item], Counter[str]]], refused: Sequence[Row], rows: Sequence[Row]
    ) -> list[Item]:
        try:
            new, forgotten = await self._answered(answer)
        finally:
            self._waiting_bytes -= _size(rows)
            self._hold(rows, -1)
        self._settle(refused, 1)
        self._settle([row for item in new for row in item.rows], 1)
        self._remembered.update(item.rows[0].source for item in new if item.delivery is not None)
        self._counts[Count.DELIVERIES_FORGOTTEN] += forgotten.pop(EARLY, 0)
        self._remembered.subtract(forgotten)
        self._remembered = +self._remembered
        self._announce()
        return new

    async def _answered(self, answer: asyncio.Future[Answer], *, heals: bool = True) -> Answer:
        try:
            result = await answer
        except sqlite3.DatabaseError as error:
            raise self._trouble(error) from error
        if self._is_stuck and heals:
            self._is_stuck = False
            log.info("the disk of the spool takes records again", extra={"spool": str(self._path)})
        return result

    def _trouble(self, error: sqlite3.DatabaseError) -> Exception:
        """What the error means to whoever asked: try later, end, or that it is our bug."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in DAMAGED:
            return SpoolError(f"spool {self._path}: {error}; {_mend(error)}")
        if code not in UNWRITABLE:
            return error
        return self._stuck(f"the disk of spool {self._path} {UNWRITABLE[code]}", str(error))

    def _stuck(self, told: str, why: str) -> SpoolFull:
        """The refusal; said in the log when it begins."""
        self._counts[Count.SPOOL_FULL] += 1
        if not self._is_stuck:
            self._is_stuck = True
            log.error("%s: %s", told, why)
        return SpoolFull(told)

    def _announce(self) -> None:
        self.emptied.clear()
        self.filled.set()

    def _stamp(self) -> int:
        now_ms = self._clock()
        if now_ms < self._recorded_ms:
            self._counts[Count.CLOCK_FELL] += 1
        has_fallen = now_ms < self._recorded_ms - FALLS_MS
        self._recorded_ms = now_ms if has_fallen else max(self._recorded_ms, now_ms)
        return self._recorded_ms

    def _refuse_if_full(self, source: str, records: int, size: int) -> None:
        bounds = self._bounds
        if not self._is_in_place():
            told = f"spool {self._path} was removed or replaced; start again once it has sent what it still holds"
            raise self._stuck(told, "what is written to it now would be gone at the next start")
        if self._waiting_bytes and self._waiting_bytes + size > bounds.max_waiting_bytes:
            detail = f"{self._waiting_bytes} bytes wait for the disk of spool {self._path}; at most {bounds.max_waiting_bytes} may"
        elif self.records + records > bounds.max_records or self.bytes + self._waiting_bytes + size > bounds.max_bytes:
            detail = (
                f"spool {self._path} holds {self.records} records and {self.bytes} bytes that Kafka has not taken; "
                f"it is bounded at {bounds.max_records} records and {bounds.max_bytes} bytes"
            )
        elif source:
            self._refuse_if_unfair(source, records, size)
            return
        else:
            return
        self._counts[Count.SPOOL_FULL] += 1
        raise SpoolFull(detail)

    def _is_in_place(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False
        except OSError:  # SQLite says what is the matter
            return True

    def _refuse_if_unfair(self, source: str, records: int, size: int) -> None:
        """Raises ShareFull when the source would hold more than its share, or what others send more than all of theirs."""
        bounds, held = self._bounds, self._held.get(source) or Held()
        free_records = bounds.max_records - self.records
        free_bytes = bounds.max_bytes - self.bytes - self._waiting_bytes
        is_over = held.records + records > SHARE * free_records or held.bytes + size > SHARE * free_bytes
        if not is_over and source.startswith(RECEIVED) and bounds.reserved:
            sent = [one for name, one in self._held.items() if name.startswith(RECEIVED)]
            theirs = 1 - bounds.reserved
            is_over = (
                sum(one.records for one in sent) + records > theirs * bounds.max_records
                or sum(one.bytes for one in sent) + size > theirs * bounds.max_bytes
            )
        if is_over:
            self._counts[Count.SHARE_FULL] += 1
            raise ShareFull(
                f"{source} fills its share of spool {self._path} with {held.records} records and {held.bytes} bytes that "
                "Kafka has not taken"
            )

    def _settle(self, rows: Iterable[Row], sign: int) -> None:
        counted = [row for row in rows if row.type != Heartbeat.type]
        self.records += sign * len(counted)
        self.bytes += sign * _size(counted)
        self._hold(counted, sign)

    def _hold(self, rows: Iterable[Row], sign: int) -> None:
        for row in rows:
            if not row.source:
                continue
            held = self._held.setdefault(row.source, Held())
            held.records += sign
            held.bytes += sign * row.size
            if not held.records:
                del self._held[row.source]

    def _load(self, db: sqlite3.Connection) -> None:
        db.execute("INSERT OR IGNORE INTO meta VALUES ('instance', ?)", [secrets.token_hex(4)])
        self.source = f"{self._name}-{_one(db, 'SELECT value FROM meta WHERE name = ?', 'instance')}"
        self._recorded_ms = _one(db, "SELECT value FROM meta WHERE name = ?", "recorded_ms") or 0
        self.records, self.bytes, self._held = 0, 0, {}
        size = f"count(*), coalesce(sum(length(value) + length(key) + {ROW_BYTES}), 0)"
        self.cells = dict(db.execute("SELECT name, seen_ms FROM cells").fetchall())
        query = f"SELECT source, {size} FROM outbox WHERE type <> ? GROUP BY source"
        for source, records, total in db.execute(query, [Heartbeat.type]):
            self.records += records
            self.bytes += total
            if source:
                held = self._held[source] = Held()
                held.records, held.bytes = records, total
        self._remembered = Counter(dict(db.execute("SELECT source, count(*) FROM deliveries GROUP BY source")))

    def _keep(
        self,
        db: sqlite3.Connection,
        items: Sequence[Item],
        refused: Sequence[Row],
        position: tuple[str, str] | None,
        now_ms: int,
        remembered: Counter[str],
    ) -> tuple[list[Item], Counter[str]]:
        new = [item for item in items if item.delivery is None or _first_seen(db, item, now_ms)]
        remembered.update(item.rows[0].source for item in new if item.delivery is not None)
        forgotten = (
            _forget_deliveries(db, now_ms, self._bounds.max_deliveries, remembered) if _has_ids(new) else Counter()
        )
        _insert(db, refused)
        _insert(db, (row for item in new for row in item.rows))
        if position:
            db.execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", position)
        self._remember_cells(db, {row.key for item in new for row in item.rows if row.topic in INPUT_NAMES}, now_ms)
        _remember_time(db, now_ms)
        return new, forgotten

    def _remember_cells(self, db: sqlite3.Connection, names: set[str], now_ms: int) -> None:
        heard = [name for name in names if abs(now_ms - self.cells.get(name, 0)) > CELL_EVERY_MS]
        for name in heard:
            self.cells[name] = now_ms
            db.execute("INSERT OR REPLACE INTO cells VALUES (?, ?)", (name, now_ms))
        while len(self.cells) > CELLS_MAX:
            reached("spool.cells")
            oldest = min(self.cells, key=lambda one: (self.cells[one], one))
            del self.cells[oldest]
            db.execute("DELETE FROM cells WHERE name = ?", [oldest])
            self._counts[Count.CELL_FORGOTTEN] += 1


def _create(db: sqlite3.Connection) -> None:
    db.executescript(SCHEMA)
    for table in ADDED:
        if "source" not in {column[1] for column in db.execute(f"PRAGMA table_info({table})")}:
            db.execute(f"ALTER TABLE {table} ADD COLUMN source TEXT NOT NULL DEFAULT ''")


def _items(records: Iterable[Record], deliveries: Sequence[str | None], now_ms: int, source: str) -> Iterator[Item]:
    all_records = [_without_secrets(record) for record in records]
    ids = deliveries or [None] * len(all_records)
    for record, delivery in zip(all_records, ids, strict=True):
        yield Item(delivery, [row for part, body in parts(record) for row in _record_rows(part, body, now_ms, source)])


def _without_secrets(record: Record) -> Record:
    """An event, whose words may be anybody's, without secrets: whoever made it, nothing passes here unmasked."""
    if not isinstance(record, OperationsEvent):
        return record
    body, attributes = masked(record.body), masked_data(record.attributes)
    if body == record.body and attributes == record.attributes:
        return record
    return record.model_copy(update={"body": body, "attributes": attributes})


def _record_rows(record: Record, body: bytes, now_ms: int, source: str) -> Iterator[Row]:
    topic = topic_of(record).name
    if len(body) <= MAX_PAYLOAD_BYTES:
        yield Row(0, topic, record.cell, record.type, record.time_ms, now_ms, body, source)
        return
    detail = f"{record.type} of cell {record.cell} has {len(body)} bytes; at most {MAX_PAYLOAD_BYTES} are read"
    for letter in letters_of(
        body, reason=Reason.OVERSIZED, detail=detail, topic=topic, rejected_by="spool", time_ms=now_ms
    ):
        yield _letter_row(letter, now_ms, source)


def _letter_row(letter: DeadLetter, now_ms: int, source: str = "") -> Row:
    wire = encode_dead_letter(letter)
    key = (wire.key or b"").decode()
    return Row(0, DEAD_LETTERS.name, key, letter.type, letter.time_ms, now_ms, wire.value, source)


def _size(rows: Iterable[Row]) -> int:
    return sum(row.size for row in rows)


def _has_ids(items: Iterable[Item]) -> bool:
    return any(item.delivery is not None for item in items)


def _insert(db: sqlite3.Connection, rows: Iterable[Row]) -> None:
    db.executemany(INSERT, (row[1:] for row in rows))


def _first_seen(db: sqlite3.Connection, item: Item, now_ms: int) -> bool:
    db.execute("DELETE FROM deliveries WHERE id = ? AND seen_ms < ?", (item.delivery, now_ms - DELIVERY_MS))
    insert = "INSERT OR IGNORE INTO deliveries (id, seen_ms, source) VALUES (?, ?, ?)"
    return db.execute(insert, (item.delivery, now_ms, item.rows[0].source)).rowcount == 1


def _forget_deliveries(db: sqlite3.Connection, now_ms: int, most: int, remembered: Counter[str]) -> Counter[str]:
    """Forget the old ones, then beyond the bound the oldest of whoever has most; how many by source, and `EARLY`."""
    old = db.execute("DELETE FROM deliveries WHERE seen_ms < ? RETURNING source", [now_ms - DELIVERY_MS]).fetchall()
    forgotten = Counter(source for (source,) in old)
    remembered.subtract(forgotten)
    if (excess := remembered.total() - most) > 0:
        ((heaviest, _),) = remembered.most_common(1)
        oldest = "SELECT n FROM deliveries WHERE source = ? ORDER BY n LIMIT ?"
        gone = db.execute(f"DELETE FROM deliveries WHERE n IN ({oldest})", [heaviest, excess]).rowcount
        forgotten[heaviest] += gone
        forgotten[EARLY] += gone
    return forgotten


def _keep_heartbeat(db: sqlite3.Connection, beat: Heartbeat) -> None:
    db.execute("DELETE FROM outbox WHERE seq = (SELECT max(seq) FROM outbox) AND type = ?", [beat.type])
    body = beat.model_dump_json().encode()
    db.execute(INSERT, ("", "", beat.type, beat.time_ms, beat.time_ms, body, ""))
    _remember_time(db, beat.time_ms)


def _remember_time(db: sqlite3.Connection, now_ms: int) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES ('recorded_ms', ?)", [now_ms])


def _advance(db: sqlite3.Connection, passed: int, new: Sequence[Row], max_bytes: int, max_rows: int) -> list[Row]:
    _insert(db, new)
    db.execute("DELETE FROM outbox WHERE seq <= ?", [passed])
    return _following(db, passed, max_bytes, max_rows)


def _looked_at(answer: asyncio.Future[None]) -> None:
    """Space that is not given back now is given back later."""
    if not answer.cancelled():
        answer.exception()


def _give_back(db: sqlite3.Connection) -> None:
    """Return freed pages to the file system. Alone in its transaction: on a full disk the deleting must not fail with it."""
    if _one(db, "PRAGMA freelist_count") > GIVEN_BACK_PAGES:
        db.execute(f"PRAGMA incremental_vacuum({GIVEN_BACK_PAGES})").fetchall()


def _following(db: sqlite3.Connection, passed: int, max_bytes: int, max_rows: int) -> list[Row]:
    rows: list[Row] = []
    size = 0
    query = f"SELECT seq, {COLUMNS} FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?"
    for values in db.execute(query, [passed, max_rows]):
        row = Row(*values)
        size += SENT_HEARTBEAT_BYTES if row.type == Heartbeat.type else row.size
        if rows and size > max_bytes:
            break
        rows.append(row)
    return rows


def _one(db: sqlite3.Connection, query: str, *arguments: object) -> Any:
    found = db.execute(query, arguments).fetchone()
    return found[0] if found else None


def _mend(error: Exception) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if "locked" in str(error):
        return "another program has it open; stop that, or give this one a spool of its own"
    if code in DAMAGED or "not a database" in str(error):
        return "the file is damaged; move it away, which loses what it holds, and start again"
    if code in UNWRITABLE:
        return f"the disk {UNWRITABLE[code]}"
    if getattr(error, "errno", 0) == errno.ENOSPC:
        return "the disk is full; make room"
    return "choose a path that this program can write"
