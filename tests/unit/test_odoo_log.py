"""An Odoo log is read as it was recorded on running 17, 18 and 19, however it arrives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.collector import Collected, Target, Unavailable
from ingest.collectors.odoo_log import OdooLog
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.records import LogBatch, OperationsEvent, Record, Scrape, SecurityEvent
from schemas.series import parse
from tests.support.collected import points
from tests.support.golden import GOLDEN, agrees, told

VERSIONS = ("17.0", "18.0", "19.0")
NOW_MS = 1_795_240_000_000  # a day on which the recordings are recent
SETTLED_MS = NOW_MS + 3_600_000
CELL = Cell(
    name="eu1",
    tenants=(Tenant(name="acme"), Tenant(name="bolt", database="acme17"), Tenant(name="coral", database="c")),
)
PREFIX = "2026-11-21 03:00:00,125 77 "


def watch(path: Path, **options: object) -> OdooLog:
    resource = Resource(name="odoo-log", system="odoo_log", url=path.as_uri(), options=options)
    return OdooLog(Target(CELL, resource, path.as_uri()))


def write(path: Path, data: bytes) -> None:
    """Append, with a fixed time of writing, so that only `now_ms` decides what has settled."""
    with path.open("ab") as file:
        file.write(data)
    os.utime(path, ns=(NOW_MS * 1_000_000, NOW_MS * 1_000_000))


async def look(collector: OdooLog, position: str | None = None, now_ms: int = SETTLED_MS) -> Collected:
    return await collector.collect(now_ms, position)


async def read_lines(tmp_path: Path, *lines: str, **options: object) -> Collected:
    """One look at a log of these lines."""
    path = tmp_path / "odoo.log"
    write(path, "".join(f"{line}\n" for line in lines).encode())
    return await look(watch(path, **options))


def events(collected: Collected) -> list[OperationsEvent]:
    return [record for record in collected.records if isinstance(record, OperationsEvent)]


def bodies(collected: Collected) -> list[str]:
    return [body for record in collected.records if isinstance(record, LogBatch) for body in record.bodies]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_recorded_log_is_told_as_in_its_golden_file(version: str, tmp_path: Path) -> None:
    golden = GOLDEN / "odoo_log" / f"{version}.log"
    path = tmp_path / golden.name  # a copy: when the clone wrote the file would decide what has settled
    write(path, golden.read_bytes())
    collected = await look(watch(path))
    assert not collected.refused
    agrees(told(collected.records), golden.with_suffix(".told"))
    assert {parse(series).name for series in points(collected)} <= set(BY_NAME)


@settings(max_examples=25)
@given(data=st.data(), version=st.sampled_from(VERSIONS))
async def test_any_chunking_of_a_log_gives_the_same_records(
    data: st.DataObject, version: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = (GOLDEN / "odoo_log" / f"{version}.log").read_bytes()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(content)), max_size=6)))
    path = tmp_path_factory.mktemp("log") / "odoo.log"
    collector, position, single = watch(path, max_bytes=8_192), None, watch(path)
    pieces: list[Collected] = []
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        write(path, content[start:end])
        for _ in range(end // 8_192 + 2):
            pieces.append(await look(collector, position, NOW_MS if end < len(content) else SETTLED_MS))
            position = pieces[-1].position
    assert told(plain(pieces)) == told(plain([await look(single)]))
    assert sums(points(pieces[-1])) == sums(points(await look(single)))


def plain(pieces: list[Collected]) -> list[Record]:
    """What does not depend on where a look ends: single log lines and single events."""
    parts = [record for piece in pieces for record in piece.records if not isinstance(record, Scrape)]
    lines = [line for part in parts if isinstance(part, LogBatch) for line in _one_by_one(part)]
    grouped = {"odoo.worker.recycled", "odoo.module.loaded", "odoo.pool.full"}
    single = [part for part in parts if isinstance(part, OperationsEvent) and part.name not in grouped]
    return [*lines, *single]


def _one_by_one(batch: LogBatch) -> list[LogBatch]:
    """Batches of one line each, without columns that only other lines fill."""
    columns = ("tenants", "times_ms", "severity_numbers", "bodies")
    found = []
    for row, time_ms in enumerate(batch.times_ms):
        own = {name: getattr(batch, name)[row : row + 1] for name in columns}
        own["attributes"] = {
            name: (column[row],) for name, column in batch.attributes.items() if column[row] is not None
        }
        found.append(batch.model_copy(update={**own, "time_ms": time_ms}))
    return found


def sums(found: dict[str, float | None]) -> dict[str, float | None]:
    return {series: value for series, value in found.items() if ".duration." not in series}


async def test_a_look_that_was_not_stored_is_given_again(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    write(path, (GOLDEN / "odoo_log" / "18.0.log").read_bytes())
    first = await look(watch(path, max_bytes=8_192))
    lost = await look(watch(path, max_bytes=8_192), first.position)
    again = await look(watch(path, max_bytes=8_192), first.position)
    assert (again.records, again.position) == (lost.records, lost.position)
    assert told(again.records) != told(first.records)


async def test_counters_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    write(path, f"{PREFIX}ERROR acme odoo.http: one\n".encode())
    first = await look(watch(path))
    write(path, f"{PREFIX}ERROR acme odoo.http: two\n".encode())
    second = await look(watch(path), first.position, SETTLED_MS + 15_000)
    assert points(second)['odoo.log.records{odoo.log.level="ERROR",tenant.id="acme"}'] == 2
    starts = {record.start_time_ms for record in (*first.records, *second.records) if isinstance(record, Scrape)}
    assert starts == {SETTLED_MS}


async def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    collector = watch(path)
    write(path, f"{PREFIX}ERROR acme odoo.http: whole\n{PREFIX}ERROR acme odoo.http: ha".encode())
    first = await look(collector)
    write(path, b"lf\n")
    second = await look(collector, first.position)
    assert (bodies(first), bodies(second)) == (["whole"], ["half"])


async def test_the_last_record_waits_until_no_more_lines_can_belong_to_it(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    collector = watch(path)
    write(path, f"{PREFIX}ERROR acme odoo.http: boom\nTraceback (most recent call last):\n".encode())
    first = await look(collector, now_ms=NOW_MS)
    write(path, b'  File "x.py", line 1\nKeyError: 7\n')
    second = await look(collector, first.position)
    assert bodies(first) == []
    batch = next(record for record in second.records if isinstance(record, LogBatch))
    assert batch.bodies[0].endswith("KeyError: 7")
    assert batch.attributes["exception.type"] == ("KeyError",)


async def test_bytes_that_are_no_text_are_refused_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    write(path, f"{PREFIX}ERROR acme odoo.http: one\n".encode() + b"caf\xe9 below\nand below\n")
    write(path, f"{PREFIX}ERROR acme odoo.http: caf".encode() + b"\xe9\n")
    write(path, f"{PREFIX}ERROR acme odoo.http: two\n".encode())
    collected = await look(watch(path))
    assert bodies(collected) == ["one\nand below", "two"]
    assert [data.endswith((b"caf\xe9 below", b": caf\xe9")) for _, data in collected.refused] == [True, True]
    assert all("not UTF-8 at byte" in reason for reason, _ in collected.refused)


async def test_lines_of_no_record_are_refused(tmp_path: Path) -> None:
    collected = await read_lines(tmp_path, "starting container", "", f"{PREFIX}ERROR acme odoo.http: one")
    assert bodies(collected) == ["one"]
    assert [data for _, data in collected.refused] == [b"starting container"]


async def test_a_line_longer_than_a_piece_does_not_stop_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    write(path, f"{PREFIX}ERROR acme odoo.http: {'x' * 10_000}\n{PREFIX}ERROR acme odoo.http: after\n".encode())
    collector, position, seen = watch(path, max_bytes=4_096), None, list[str]()
    for _ in range(5):
        collected = await look(collector, position)
        position = collected.position
        seen += bodies(collected)
    assert [seen[0][:3], seen[-1]] == ["xxx", "after"]


async def test_a_look_that_would_tell_too_much_goes_on_at_the_next(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    line = "INFO acme odoo.addons.base.models.res_users: Login failed for db:acme login:u from 192.0.2.1"
    write(path, f"{PREFIX}{line}\n".encode() * 4_000)
    first = await look(watch(path))
    second = await look(watch(path), first.position)
    told_events = len(events(first)), len(events(second))
    assert told_events == (2_500, 1_500)


@pytest.mark.parametrize(
    ("counters", "wall_s"),
    [("12 0.500 0.250", 0.75), ("12 0.500 0.250 ro->rw", 0.75), ("- - -", None), ("- - - -", None)],
)
async def test_a_request_line_is_read_with_three_counters_or_four_or_dashes(
    tmp_path: Path, counters: str, wall_s: float | None
) -> None:
    request = f'192.0.2.1 - - [21/Nov/2026 03:00:00] "POST /web/dataset/call_kw HTTP/1.1" 503 - {counters}'
    found = points(await read_lines(tmp_path, f"{PREFIX}INFO acme werkzeug: {request}"))
    assert found['odoo.http.errors{tenant.id="acme"}'] == 1
    assert found.get('odoo.http.request.time{tenant.id="acme"}') == wall_s
    assert found.get('odoo.http.request.duration.max{tenant.id="acme"}') == wall_s


async def test_health_checks_and_open_connections_are_no_requests(tmp_path: Path) -> None:
    paths = ("/web/health?db_server_status=1", "/websocket?version=1", "/queue_job/runjob?db=acme", "/longpolling/poll")
    tail = 'HTTP/1.1" 200 - 1 1.000 50.000'
    lines = [f'{PREFIX}INFO acme werkzeug: 192.0.2.1 - - [21/Nov/2026 03:00:00] "GET {path} {tail}' for path in paths]
    found = points(await read_lines(tmp_path, *lines))
    assert not [name for name, value in found.items() if name.startswith("odoo.http") and value]


async def test_colours_are_no_part_of_a_line(tmp_path: Path) -> None:
    line = f"{PREFIX}\x1b[1;31m\x1b[1;49mERROR\x1b[0m acme odoo.http: red"
    assert bodies(await read_lines(tmp_path, line)) == ["red"]


async def test_json_lines_are_read_like_plain_ones(tmp_path: Path) -> None:
    line = (
        '{"asctime": "2026-11-21 03:00:00,125", "pid": 77, "levelname": "ERROR", "dbname": "acme17", "name": "odoo.http",'
        ' "message": "boom", "exc_info": "Traceback (most recent call last):\\n  File x\\nKeyError: 1", "uid": 2}'
    )
    collected = await read_lines(tmp_path, line, f"{PREFIX}ERROR acme17 odoo.http: plain")
    batch = next(record for record in collected.records if isinstance(record, LogBatch))
    assert batch.times_ms[0] == batch.times_ms[1]
    assert (batch.tenants, batch.attributes["process.pid"]) == (("bolt", "bolt"), (77, 77))
    assert batch.attributes["exception.type"] == ("KeyError", None)


async def test_times_are_in_the_zone_of_the_server(tmp_path: Path) -> None:
    collected = await read_lines(tmp_path, f"{PREFIX}ERROR acme odoo.http: x", time_zone="Europe/Brussels")
    batch = next(record for record in collected.records if isinstance(record, LogBatch))
    assert batch.times_ms == (1_795_226_400_125,)  # 02:00 UTC


async def test_an_unknown_zone_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"odoo-log.*'Mars/Base' is no time zone; write it as Europe/Brussels"):
        watch(tmp_path / "odoo.log", time_zone="Mars/Base")


async def test_what_a_refused_statement_carried_is_not_shipped(tmp_path: Path) -> None:
    collected = await read_lines(
        tmp_path,
        f"{PREFIX}ERROR acme odoo.sql_db: bad query: b'UPDATE \"res_partner\"\\n SET \"phone\" = \\'0470-12\\' WHERE id IN (9)'",
        'ERROR: duplicate key value violates unique constraint "u"',
        "DETAIL:  Key (phone)=(0470-12) already exists.",
    )
    expected = 'bad query: UPDATE "res_partner" SET "phone" = ? WHERE id IN (?)\nERROR: duplicate key'
    assert bodies(collected)[0].startswith(expected)
    assert "0470" not in bodies(collected)[0]


async def test_addresses_and_logins_stand_in_the_security_event_alone(tmp_path: Path) -> None:
    logger = "INFO acme odoo.addons.base.models.res_users"
    collected = await read_lines(
        tmp_path,
        f"{PREFIX}{logger}: Login failed for db:acme login:jane doe from 192.0.2.1",
        f"{PREFIX}WARNING acme odoo.addons.mail: no mail for jane@example.com",
    )
    event = next(record for record in collected.records if isinstance(record, SecurityEvent))
    assert (event.actor, event.source_address, event.outcome) == ("jane doe", "192.0.2.1", "failure")
    expected = ["Login failed for db:acme login:<login> from 192.0.2.1", "no mail for <address>"]
    assert bodies(collected) == expected


async def test_a_full_pool_is_told_once_a_look_with_its_count(tmp_path: Path) -> None:
    line = f"{PREFIX}ERROR acme odoo.http: Exception\nTraceback (most recent call last):\nPoolError: The Connection Pool Is Full"
    full = events(await read_lines(tmp_path, line, line, line))
    assert [(event.name, event.tenant, event.attributes) for event in full] == [
        ("odoo.pool.full", "acme", {"odoo.pool.count": 3})
    ]


async def test_a_kill_told_three_times_is_one(tmp_path: Path) -> None:
    lines = [
        f"2026-11-21 03:00:0{s},000 1 ERROR ? odoo.service.server: WorkerHTTP (42) timeout after 120s"
        for s in (1, 2, 3)
    ]
    later = "2026-11-21 04:00:00,000 1 ERROR ? odoo.service.server: WorkerHTTP (42) timeout after 120s"
    collected = await read_lines(tmp_path, *lines, later)
    assert [event.attributes["process.pid"] for event in events(collected)] == [42, 42]
    assert points(collected)["odoo.worker.killed"] == 2


async def test_ship_all_ships_plain_lines_too(tmp_path: Path) -> None:
    line = f"{PREFIX}INFO acme odoo.models.unlink: User #1 deleted"
    assert bodies(await read_lines(tmp_path, line, ship="all")) == ["User #1 deleted"]


async def test_a_log_that_is_not_there_is_unavailable_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"there is no log .*odoo\.log\. See that Odoo runs with --logfile="):
        await look(watch(tmp_path / "odoo.log"))


async def test_an_url_that_is_no_file_is_refused_with_the_mend() -> None:
    resource = Resource(name="odoo-log", system="odoo_log")
    with pytest.raises(ValueError, match=r"must be file:///path/of/odoo\.log"):
        OdooLog(Target(CELL, resource, "http://example.com/x"))
    with pytest.raises(ValueError, match=r"url 'postgresql://u:\*\*\*@h/x' must be file:///path/of/odoo\.log"):
        OdooLog(Target(CELL, resource, "postgresql://u:s3cret@h/x"))
    with pytest.raises(ValueError, match="must not hold a NUL"):
        OdooLog(Target(CELL, resource, "file:///x%00y"))


async def test_starting_at_the_end_leaves_the_past_alone(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    collector = watch(path, start="end")
    write(path, f"{PREFIX}ERROR acme odoo.http: past\n".encode())
    first = await look(collector)
    write(path, f"{PREFIX}ERROR acme odoo.http: present\n".encode())
    second = await look(collector, first.position)
    assert (bodies(first), bodies(second)) == ([], ["present"])
