"""A line of an Odoo log costs itself alone, whatever it holds: the lines before and behind it are told, and the place moves on."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ingest.collector import Collected, Target, Unavailable
from ingest.collectors import odoo_log_events
from ingest.collectors.odoo_log import MAX_RECORDS, OdooLog
from ingest.collectors.odoo_log_events import Memory, Reading
from ingest.collectors.odoo_log_hours import Hours, Impossible
from ingest.collectors.odoo_log_lines import Entry, Habit, Unread, split
from ingest.moments import fault
from schemas.codec import Envelope, decode, encode
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.records import LogBatch, OperationsEvent, Scrape, SecurityEvent
from schemas.series import parse
from tests.support.collected import points
from tests.support.golden import GOLDEN

NOW_MS = 1_795_240_000_000
CELL = Cell(name="eu1", tenants=(Tenant(name="acme"), Tenant(name="bolt", database="acme17")))
PREFIX = "2026-11-21 03:00:00,125 77 "
BEFORE, AFTER = f"{PREFIX}ERROR acme odoo.http: before", f"{PREFIX}ERROR acme odoo.http: after"
USERS, CRON, SERVER = "odoo.addons.base.models.res_users", "odoo.addons.base.models.ir_cron", "odoo.service.server"


def watch(path: Path, **options: object) -> OdooLog:
    resource = Resource(name="odoo-log", system="odoo_log", url=path.as_uri(), options=options)
    return OdooLog(Target(CELL, resource, path.as_uri()))


async def read(path: Path, data: bytes, **options: object) -> Collected:
    """One look at a log that holds this, and all that it gave can be sent."""
    await asyncio.to_thread(path.write_bytes, data)
    os.utime(path, ns=(NOW_MS * 1_000_000, NOW_MS * 1_000_000))
    collected = await watch(path, **options).collect(NOW_MS + 60_000, None)
    must_be_sound(collected)
    return collected


async def read_lines(tmp_path: Path, *lines: str, **options: object) -> Collected:
    return await read(tmp_path / "odoo.log", "".join(f"{line}\n" for line in lines).encode(), **options)


def must_be_sound(collected: Collected) -> None:
    """Every record is read as it was sent and has a time that is let pass; every series is of the catalogue."""
    for number, record in enumerate(collected.records):
        wire = encode(record, Envelope("test", number + 1, NOW_MS))
        received = decode(wire.headers, wire.value, NOW_MS)
        assert getattr(received, "record", None) == record, received
        assert fault(record, NOW_MS + 60_000) is None
        assert not any("\x00" in text for text in texts(json.loads(record.model_dump_json())))
        if isinstance(record, Scrape):
            assert {parse(series).name for series in record.series.split("\n")} <= set(BY_NAME)


def texts(value: object) -> Iterator[str]:
    """Every text of a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        yield from (text for part in (value.values() if isinstance(value, dict) else value) for text in texts(part))


def bodies(collected: Collected) -> list[str]:
    return [body for record in collected.records if isinstance(record, LogBatch) for body in record.bodies]


def refusals(collected: Collected) -> dict[str, float]:
    prefix = 'odoo.log.refused{odoo.log.fault="'
    found = {
        name.removeprefix(prefix)[:-2]: value for name, value in points(collected).items() if name.startswith(prefix)
    }
    return {name: value for name, value in found.items() if value}


JSON = {
    "asctime": "2026-11-21 03:00:00,125",
    "pid": 77,
    "levelname": "ERROR",
    "dbname": "acme",
    "name": "odoo.http",
    "message": "x",
}


def as_json(**changed: object) -> str:
    return json.dumps({**JSON, **changed})


REFUSED = {
    "the year 1969": (f"1969{PREFIX[4:]}ERROR acme odoo.http: bad", "time"),
    "the year 0001": (f"0001{PREFIX[4:]}ERROR acme odoo.http: bad", "time"),
    "the year 2300": (f"2300{PREFIX[4:]}ERROR acme odoo.http: bad", "time"),
    "the year 2200": (f"2200{PREFIX[4:]}ERROR acme odoo.http: bad", "time"),
    "the year 2010": (f"2010{PREFIX[4:]}ERROR acme odoo.http: bad", "old"),
    "the thirteenth month": ("2026-13-21 03:00:00,125 77 ERROR acme odoo.http: bad", "time"),
    "no such day": ("2026-02-30 03:00:00,125 77 ERROR acme odoo.http: bad", "time"),
    "the 25th hour": ("2026-11-21 25:00:00,125 77 ERROR acme odoo.http: bad", "time"),
    "a pid of 5,000 digits": (f"{PREFIX[:-3]}{'7' * 5_000} ERROR acme odoo.http: bad", "field"),
    "a pid of 11 digits": (f"{PREFIX[:-3]}12345678901 ERROR acme odoo.http: bad", "field"),
    "a long database": (f"{PREFIX}ERROR {'d' * 1_000} odoo.http: bad", "field"),
    "a long logger": (f"{PREFIX}ERROR acme {'l' * 1_000}: bad", "field"),
}
JSON_REFUSED = {
    "a time beyond floats": (as_json(asctime=None, created=1e308), "time"),
    "a negative time": (as_json(asctime=None, created=-1), "time"),
    "a true time": (as_json(asctime=True), "time"),
    "a time of objects": (as_json(asctime={"a": 1}), "time"),
    "an empty time": (as_json(asctime=""), "time"),
    "a time of many digits": (as_json(asctime="9" * 5_000), "time"),
    "the year 1 far west": (as_json(asctime="0001-01-01T00:00:00+23:59"), "time"),
    "the year 9999 far east": (as_json(asctime="9999-12-31T23:59:59-23:59"), "time"),
    "a list of databases": (as_json(dbname=["a"]), "field"),
    "an object as logger": (as_json(name={"a": 1}), "field"),
    "a pid that is an object": (as_json(pid={}), "field"),
    "a pid that is a fraction": (as_json(pid=1.5), "field"),
    "a pid that is true": (as_json(pid=True), "field"),
    "a negative pid": (as_json(pid=-7), "field"),
    "a pid in words": (as_json(pid="seven"), "field"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_plain_line_that_cannot_be_read_is_refused_alone(name: str, tmp_path: Path) -> None:
    line, why = REFUSED[name]
    collected = await read_lines(tmp_path, BEFORE, line, "  a line below it", AFTER)
    assert bodies(collected) == ["before", "after"]
    assert [data for _, data in collected.refused] == [f"{line}\n  a line below it".encode()]
    assert f": {why}: " in collected.refused[0][0]
    assert refusals(collected) == {why: 1}


@pytest.mark.parametrize("name", JSON_REFUSED)
async def test_a_json_line_that_cannot_be_read_is_refused_alone(name: str, tmp_path: Path) -> None:
    line, why = JSON_REFUSED[name]
    collected = await read_lines(tmp_path, as_json(message="before"), line, as_json(message="after"))
    assert bodies(collected) == ["before", "after"]
    assert [data for _, data in collected.refused] == [line.encode()]
    assert refusals(collected) == {why: 1}


TOLD = {
    "a load time of dots": f"{PREFIX}INFO acme odoo.modules.loading: Module sale loaded in ...s, 1 queries",
    "a load time of three parts": f"{PREFIX}INFO acme odoo.modules.loading: Module sale loaded in 1.2.3s, 1 queries",
    "a load time without end": f"{PREFIX}INFO acme odoo.modules.loading: Module sale loaded in {'9' * 400}s, 1 queries",
    "a run time of three parts": f"{PREFIX}INFO acme {CRON}: Job 'x' (1) done in 1.2.3s",
    "a run time of dots": f"{PREFIX}INFO acme {CRON}: Job done: `x` (...s)",
    "a number of 5,000 digits": f"{PREFIX}INFO acme {CRON}: Job 'x' ({'1' * 5_000}) done in 1s",
    "a killed pid of 5,000 digits": f"{PREFIX}ERROR ? {SERVER}: WorkerHTTP ({'1' * 5_000}) timeout after 120s",
    "a limit of 5,000 digits": f"{PREFIX}INFO ? {SERVER}: Worker (1) max request ({'1' * 5_000}) reached.",
    "a user of 5,000 digits": f"{PREFIX}INFO acme {USERS}: Keys generated: scope: <rpc> for 'x' (#{'1' * 5_000}) from n/a",
    "failures of 5,000 digits": f"{PREFIX}INFO acme {USERS}: Login attempt ignored for ::1 (user 'x') on a: {'1' * 5_000} failures",
    "a request of three parts": f'{PREFIX}INFO acme werkzeug: ::1 - - [x] "GET / HTTP/1.1" 200 - 1.2.3 1.2.3 1.2.3',
    "an answer of 5,000 digits": f'{PREFIX}INFO acme werkzeug: ::1 - - [x] "GET / HTTP/1.1" 200 - {"1" * 5_000} 1 1',
    "other people's digits": f"{PREFIX}INFO acme {CRON}: Job 'x' (١٢) done in ٣s",
    "an unknown level": f"{PREFIX}VERBOSE acme odoo.http: x",
    "an address of letters": f"{PREFIX}INFO acme {USERS}: Login failed for login:x from {'g' * 5_000}",
    "a NUL in a database": f"{PREFIX}INFO acme {USERS}: Login failed for db:a\0b login:x from 192.0.2.7",
    "a terminal's sequences": f"{PREFIX}ERROR acme odoo.http: \x1b]0;owned\x07 \x1b[2J\x9b1m\u202e",
}


@pytest.mark.parametrize("name", TOLD)
async def test_a_line_with_an_odd_value_is_told_without_it(name: str, tmp_path: Path) -> None:
    collected = await read_lines(tmp_path, BEFORE, TOLD[name], AFTER, ship="all")
    assert len(bodies(collected)) == 3
    assert (bodies(collected)[0], bodies(collected)[2]) == ("before", "after")
    assert not collected.refused
    assert not set("\x00\x07\x1b\x9b") & set(bodies(collected)[1])


@pytest.mark.parametrize("length", [255, 16_000, 16_384, 80_000])
async def test_a_name_of_any_length_is_told_cut(length: int, tmp_path: Path) -> None:
    name = "n" * length
    collected = await read_lines(
        tmp_path,
        f"{PREFIX}ERROR acme {CRON}: Job '{name}' (7) server action #1 failed",
        f"{PREFIX}INFO acme {CRON}: Job '{name}' (7) starting",
        f"{PREFIX}INFO acme {CRON}: Job '{name}' (7) done in 1.5s",
        f"{PREFIX}ERROR acme {CRON}: Call from cron {name} for server action #1 failed in Job #7",
        f"{PREFIX}INFO acme {USERS}: Login failed for db:acme login:{name} from 192.0.2.1",
        f"{PREFIX}INFO acme {USERS}: Login attempt ignored for 192.0.2.1 (user '{name}') on acme: 9 failures since last success",
        f"{PREFIX}INFO acme {USERS}: Keys generated: scope: <{name}> for '{name}' (#2) from 192.0.2.1",
        f"{PREFIX}INFO acme odoo.modules.loading: Module {name} loaded in 1s, ",
        f"{PREFIX}WARNING ? odoo.addons.queue_job.jobrunner.runner: Re-queued dead job with uuid: {name}",
        AFTER,
        max_bytes=16_777_216,
    )
    assert not collected.refused
    assert bodies(collected)[-1] == "after"
    told = [record for record in collected.records if isinstance(record, OperationsEvent)]
    assert [event.name for event in told if isinstance(event, SecurityEvent)] == [
        "odoo.login",
        "odoo.login.cooldown",
        "odoo.api_key.generated",
    ]
    assert {event.source_address for event in told if isinstance(event, SecurityEvent)} == {"192.0.2.1"}
    assert [event.name for event in told].count("odoo.cron.failed") == 2
    assert max(len(event.model_dump_json()) for event in told) < 2_000


async def test_levels_without_end_are_one_series_and_a_look_ends_after_so_many_records(tmp_path: Path) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    levels = ["".join(random.Random(number).choices(letters, k=8)) for number in range(20_001)]
    lines = [f"{PREFIX}{level} acme odoo.http: x" for level in levels]
    first = await read_lines(tmp_path, *lines, max_bytes=16_777_216)
    series = 'odoo.log.records{odoo.log.level="OTHER",tenant.id="acme"}'
    assert points(first)[series] == MAX_RECORDS
    second = await watch(tmp_path / "odoo.log").collect(NOW_MS + 120_000, first.position)
    assert points(second)[series] == 20_001


async def test_crons_without_end_are_counted_as_one(tmp_path: Path) -> None:
    names = [f"cron {number}" for number in range(700)] * 2
    lines = [f"{PREFIX}INFO acme {CRON}: Job '{name}' (7) starting" for name in names]
    found = {name: value for name, value in points(await read_lines(tmp_path, *lines)).items() if ".cron.runs" in name}
    assert len(found) == odoo_log_events.MAX_CRONS + 1
    assert sum(value or 0 for value in found.values()) == 1_400


async def test_json_of_20_001_levels_is_no_record(tmp_path: Path) -> None:
    deep = '{"a":' * 20_001 + "1" + "}" * 20_001
    collected = await read_lines(tmp_path, BEFORE, deep, AFTER, as_json(message=json.loads("[" * 900 + "]" * 900)))
    assert [len(body) > 100 for body in bodies(collected)] == [True, True]
    assert bodies(collected)[1].startswith("after")


async def test_epochs_in_any_unit_are_read(tmp_path: Path) -> None:
    second = 1_795_230_000.125
    times = [second, int(second * 1e3), int(second * 1e6), int(second) * 10**9, str(second), str(int(second * 1e3))]
    collected = await read_lines(tmp_path, *(as_json(asctime=None, created=time) for time in times))
    (batch,) = (record for record in collected.records if isinstance(record, LogBatch))
    assert [time_ms // 1_000 for time_ms in batch.times_ms] == [int(second)] * 6


# Bytes.


async def test_nuls_after_a_crash_cost_themselves_alone(tmp_path: Path) -> None:
    lines = (
        f"{BEFORE}\n".encode() + b"\0" * 9_000 + f"{AFTER}\n".encode() + b"\0" * 5_000 + b"\n" + f"{AFTER}\n".encode()
    )
    collected = await read(tmp_path / "odoo.log", lines)
    assert bodies(collected) == ["before", "after", "after"]
    assert ["5000 NUL bytes, as a crash of the machine leaves them" in why for why, _ in collected.refused] == [True]
    assert len(collected.refused[0][1]) <= 1_024


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
async def test_a_log_in_another_encoding_is_refused_by_name_and_its_secrets_stay(encoding: str, tmp_path: Path) -> None:
    lines = f"{BEFORE} password=hunter2\n{AFTER}\n".encode(encoding)
    collected = await read(tmp_path / "odoo.log", lines + f"\n{AFTER}\n".encode())
    assert bodies(collected) == ["after"]
    assert refusals(collected).keys() <= {"encoding", "no_record"}
    assert all(b"hunter2" not in data.replace(b"\0", b"") for _, data in collected.refused)


async def test_ends_of_lines_and_marks_of_byte_order_are_no_part_of_a_line(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + f"{BEFORE}\r\n  below\r\n{AFTER}\r\n".encode()
    assert bodies(await read(tmp_path / "odoo.log", data)) == ["before\n  below", "after"]


async def test_a_carriage_return_inside_a_message_ends_nothing(tmp_path: Path) -> None:
    data = f"{BEFORE}\r{AFTER}\n{AFTER}\n".encode()
    assert len(bodies(await read(tmp_path / "odoo.log", data))) == 2


async def test_an_empty_log_and_one_of_blank_lines_give_nothing(tmp_path: Path) -> None:
    for data in (b"", b"\n" * 5_000, b"\r\n \n"):
        collected = await read(tmp_path / "odoo.log", data)
        assert (bodies(collected), collected.refused) == ([], [])


async def test_blank_lines_without_end_are_passed(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    path.write_bytes(b"\n" * 9_000 + f"{AFTER}\n".encode())
    os.utime(path, ns=(NOW_MS * 1_000_000, NOW_MS * 1_000_000))
    collector, position, seen = watch(path, max_bytes=4_096), None, list[str]()
    for _ in range(4):
        collected = await collector.collect(NOW_MS + 60_000, position)
        position, seen = collected.position, seen + bodies(collected)
    assert seen == ["after"]


async def test_garbage_is_one_refusal_and_not_thousands(tmp_path: Path) -> None:
    collected = await read(tmp_path / "odoo.log", b"garbage\n" * 50_000 + f"{AFTER}\n".encode())
    assert bodies(collected) == ["after"]
    assert len(collected.refused) == 1
    assert len(collected.refused[0][1]) < 270_000


async def test_old_records_are_one_letter_and_nothing_is_counted(tmp_path: Path) -> None:
    old = [f"2025-01-01 03:00:00,125 77 ERROR acme odoo.http: {number}" for number in range(3_000)]
    collected = await read_lines(tmp_path, *old, AFTER)
    assert bodies(collected) == ["after"]
    assert (len(collected.refused), refusals(collected)) == (1, {"old": 3_000})
    assert points(collected)['odoo.log.errors{tenant.id="acme"}'] == 1


async def test_what_is_left_for_later_looks_is_on_a_metric(tmp_path: Path) -> None:
    data = f"{BEFORE}\n".encode() * 1_000
    collected = await read(tmp_path / "odoo.log", data, max_bytes=4_096)
    used = len(bodies(collected)) * (len(BEFORE) + 1)
    assert points(collected)["odoo.log.unread"] == len(data) - used
    assert 3_500 < used <= 4_096


async def test_a_record_that_nobody_foresaw_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = odoo_log_events.body

    def raising(entry: Entry, *, mask: bool) -> str:
        if entry.message == "boom password=hunter2":
            raise RuntimeError("hunter2")
        return told(entry, mask=mask)

    monkeypatch.setattr(odoo_log_events, "body", raising)
    collected = await read_lines(tmp_path, BEFORE, f"{PREFIX}ERROR acme odoo.http: boom password=hunter2", AFTER)
    assert bodies(collected) == ["before", "after"]
    assert refusals(collected) == {"failed": 1}
    assert "RuntimeError at " in collected.refused[0][0]
    assert "hunter2" not in repr(collected.refused)
    # Nothing of it was counted: it is refused whole.
    assert points(collected)['odoo.log.errors{tenant.id="acme"}'] == 2


async def test_a_position_that_cannot_be_read_is_begun_anew_and_said(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    await read(path, f"{BEFORE}\n".encode())
    for position in ("{", "[]", '{"since_ms": "x"}', '{"since_ms": 1, "place": {"offset": -1}}'):
        collected = await watch(path).collect(NOW_MS + 60_000, position)
        (gap,) = (record for record in collected.records if isinstance(record, OperationsEvent))
        assert (gap.name, "position cannot be read" in gap.body) == ("collector.gap", True)
        assert bodies(collected) == ["before"]


async def test_a_position_of_the_version_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    await read(path, f"{BEFORE}\n".encode())
    stored = (
        '{"since_ms":5,"counters":{"odoo.log.errors{tenant.id=\\"acme\\"}":41.0},"killed":{"42":7},"failing":{"9":"x"},'
        '"place":{"inode":0,"offset":0,"head":"","head_bytes":0,"ended":false}}'
    )
    collected = await watch(path).collect(NOW_MS + 60_000, stored)
    assert points(collected)['odoo.log.errors{tenant.id="acme"}'] == 42


async def test_a_log_written_in_the_future_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    path.write_bytes(f"{BEFORE}\n".encode())
    os.utime(path, ns=(NOW_MS * 1_000_000 + 10**18, NOW_MS * 1_000_000 + 10**18))
    assert bodies(await watch(path).collect(NOW_MS, None)) == ["before"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
async def test_what_is_no_file_is_unavailable_with_the_mend(make: object, tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    make(path)  # type: ignore[operator]
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match=r"odoo\.log is a .*(Let Odoo write to a file|Let it lead to Odoo's log)"):
            await watch(path).collect(NOW_MS, None)


async def test_a_closed_log_and_a_failing_disk_are_unavailable_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "odoo.log"
    path.write_bytes(b"x\n")
    for number, mend in (
        (13, "Let the user that runs ingest read it"),
        (5, "See whether its disk"),
        (116, "See whether its disk"),
    ):

        def failing(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(os, "open", failing)
        with pytest.raises(Unavailable, match=mend):
            await watch(path).collect(NOW_MS, None)


def test_a_cell_with_very_many_tenants_is_scraped_in_parts(tmp_path: Path) -> None:
    cell = Cell(name="eu1", tenants=tuple(Tenant(name=f"t{number}") for number in range(8_000)))
    path = tmp_path / "odoo.log"
    path.write_bytes(b"")
    resource = Resource(name="odoo-log", system="odoo_log", url=path.as_uri())
    collected = asyncio.run(OdooLog(Target(cell, resource, path.as_uri())).collect(NOW_MS, None))
    assert [len(record.values) for record in collected.records if isinstance(record, Scrape)][:2] == [10_000, 10_000]


# JSON below plain records.


async def test_json_printed_below_a_plain_record_is_part_of_it(tmp_path: Path) -> None:
    printed = as_json(message="printed")
    response = '{"time": "2026-11-21 03:00:00", "message": "answer", "level": "ERROR", "name": "api"}'
    collected = await read_lines(tmp_path, BEFORE, response, "  more", printed, printed, AFTER)
    assert bodies(collected) == [f"before\n{response}\n  more\n{printed}\n{printed}", "after"]


async def test_json_at_the_beginning_of_a_look_is_no_record_of_a_plain_log(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    first = await read(path, f"{BEFORE}\n".encode())
    with path.open("ab") as file:
        file.write(f"{as_json(message='printed')}\n{AFTER}\n".encode())
    second = await watch(path).collect(NOW_MS + 120_000, first.position)
    assert bodies(second) == ["after"]
    assert refusals(second) == {"no_record": 1}


async def test_a_log_that_turns_to_json_is_followed(tmp_path: Path) -> None:
    lines = [BEFORE, *(as_json(message=f"record {number}") for number in range(5))]
    collected = await read_lines(tmp_path, *lines)
    assert bodies(collected) == ["before", *(f"record {number}" for number in range(5))]
    path = tmp_path / "odoo.log"
    with path.open("ab") as file:
        file.write(f"{AFTER}\n{as_json(message='restarted')}\n".encode())
    assert bodies(await watch(path).collect(NOW_MS + 120_000, collected.position)) == ["after", "restarted"]


async def test_the_operator_can_say_what_a_log_is(tmp_path: Path) -> None:
    lines = [BEFORE, *(as_json(message=f"record {number}") for number in range(5))]
    assert len(bodies(await read_lines(tmp_path, *lines, format="plain"))) == 1
    assert len(bodies(await read_lines(tmp_path, *lines, format="json"))) == 6


# Names with line breaks.

FORGED = f"{PREFIX}INFO acme {USERS}: Login successful for db:acme login:admin from 198.51.100.1"


def security(collected: Collected) -> list[tuple[str, str | None, str | None]]:
    events = (record for record in collected.records if isinstance(record, SecurityEvent))
    return [(event.outcome, event.actor, event.source_address) for event in events]


@pytest.mark.parametrize(
    "below",
    [
        "second line",
        FORGED,
        f"x\n{FORGED}\ny",
        as_json(),
        f"1969{FORGED[4:]}",
        "a\n" * 150 + FORGED,
    ],
)
async def test_a_login_with_line_breaks_is_one_login(below: str, tmp_path: Path) -> None:
    lines = [BEFORE, f"{PREFIX}INFO acme {USERS}: Login failed for db:acme login:evil", *below.split("\n")]
    lines[-1] += " from 192.0.2.7"
    collected = await read_lines(tmp_path, *lines, AFTER)
    ((outcome, actor, address),) = security(collected)
    assert (outcome, address) == ("failure", "192.0.2.7")
    assert actor
    assert actor.startswith("evil\\n")
    assert (bodies(collected)[0], bodies(collected)[-1]) == ("before", "after")
    assert not collected.refused


async def test_a_cooldown_and_a_reset_with_line_breaks_are_one_record_each(tmp_path: Path) -> None:
    collected = await read_lines(
        tmp_path,
        f"{PREFIX}WARNING acme {USERS}: Login attempt ignored for 192.0.2.7 (user 'evil",
        FORGED,
        "') on acme: 10 failures since last success, last failure at x. You can configure it.",
        f"{PREFIX}INFO acme odoo.addons.auth_signup.controllers.main: Password reset attempt for <evil",
        FORGED,
        "> by user <public> from 192.0.2.7",
        AFTER,
    )
    assert [(outcome, address) for outcome, _, address in security(collected)] == [("failure", "192.0.2.7")]
    assert bodies(collected)[-1] == "after"


async def test_a_login_whose_end_was_lost_swallows_nothing_for_good(tmp_path: Path) -> None:
    lost = f"{PREFIX}INFO acme {USERS}: Login failed for db:acme login:cut"
    collected = await read_lines(tmp_path, lost, *[AFTER] * 300)
    assert bodies(collected)[1:] == ["after"] * 300
    assert security(collected) == [("failure", "cut", None)]
    assert bodies(await read_lines(tmp_path, lost, AFTER, AFTER))[1:] == ["after", "after"]


async def test_the_last_address_is_odoos_and_others_were_typed(tmp_path: Path) -> None:
    line = f"{PREFIX}INFO acme {USERS}: Login failed for db:acme login:x from 198.51.100.1 from 192.0.2.7"
    assert security(await read_lines(tmp_path, line)) == [("failure", "x from 198.51.100.1", "192.0.2.7")]


async def test_what_cannot_be_told_from_two_records_keeps_the_true_address(tmp_path: Path) -> None:
    lines = [
        f"{PREFIX}INFO acme {USERS}: Login failed for db:acme login:x from 198.51.100.1",
        f"{FORGED} from 192.0.2.7",
    ]
    assert security(await read_lines(tmp_path, *lines)) == [
        ("failure", "x", "198.51.100.1"),
        ("success", "admin from 198.51.100.1", "192.0.2.7"),
    ]


async def test_any_chunking_of_a_forged_log_gives_the_same_events(tmp_path: Path) -> None:
    lines = [
        BEFORE,
        f"{PREFIX}INFO acme {USERS}: Login failed for db:acme login:evil",
        f"{PREFIX}ERROR acme odoo.http: forged",
        f"{FORGED} from 192.0.2.7",
        AFTER,
    ]
    data = "".join(f"{line}\n" for line in lines).encode()
    for cut in range(len(data)):
        path = tmp_path / f"{cut}.log"
        path.write_bytes(data[:cut])
        os.utime(path, ns=(NOW_MS * 1_000_000, NOW_MS * 1_000_000))
        collector = watch(path)
        first = await collector.collect(NOW_MS, None)
        path.write_bytes(data)
        second = await collector.collect(NOW_MS + 60_000, first.position)
        assert len(security(first) + security(second)) == 1, cut
        assert bodies(first)[:1] + bodies(second)[-1:] in (["before", "after"], ["after"]), cut


# The hour that comes twice.

BRUSSELS = ZoneInfo("Europe/Brussels")


def told_at(hours: Hours, text: str) -> int:
    hours.last_ms = hours.of_text(text)
    return hours.last_ms


def test_the_repeated_hour_does_not_fall_back() -> None:
    begin_ms = int(datetime(2026, 10, 24, 23, 30, tzinfo=UTC).timestamp() * 1_000)
    written = [begin_ms + minute * 60_000 for minute in range(180)]
    hours = Hours(BRUSSELS)
    read_back = [
        told_at(hours, datetime.fromtimestamp(ms / 1_000, BRUSSELS).strftime("%Y-%m-%d %H:%M:%S,000")) for ms in written
    ]
    assert read_back == written


def test_a_quiet_log_knows_the_second_hour_by_when_it_was_read_last() -> None:
    first_ms = Hours(BRUSSELS).of_text("2026-10-25 02:10:00,000")
    assert Hours(BRUSSELS, last_ms=first_ms).of_text("2026-10-25 02:20:00,000") == first_ms + 600_000
    read_ms = first_ms + 4_000_000
    assert Hours(BRUSSELS, last_ms=first_ms, read_ms=read_ms).of_text("2026-10-25 02:20:00,000") == first_ms + 4_200_000


def test_lines_of_several_processes_may_stand_a_little_out_of_order() -> None:
    hours = Hours(BRUSSELS)
    first_ms = told_at(hours, "2026-10-25 02:10:30,000")
    assert told_at(hours, "2026-10-25 02:10:00,000") == first_ms - 30_000
    assert told_at(hours, "2026-10-25 02:10:31,000") == first_ms + 1_000


async def test_the_repeated_hour_is_known_from_look_to_look(tmp_path: Path) -> None:
    path = tmp_path / "odoo.log"
    collector, position, times = watch(path, time_zone="Europe/Brussels"), None, list[int]()
    begin_ms = int(datetime(2026, 10, 25, 0, 0, tzinfo=UTC).timestamp() * 1_000)
    for minute in range(0, 150, 7):
        now_ms = begin_ms + minute * 60_000
        text = datetime.fromtimestamp(now_ms / 1_000, BRUSSELS).strftime("%Y-%m-%d %H:%M:%S,000")
        with path.open("a") as file:
            file.write(f"{text} 77 ERROR acme odoo.http: x\n")
        os.utime(path, ns=(now_ms * 1_000_000, now_ms * 1_000_000))
        collected = await collector.collect(now_ms + 2_000, position)
        position = collected.position
        times += [ms for record in collected.records if isinstance(record, LogBatch) for ms in record.times_ms]
    assert times == [begin_ms + minute * 60_000 for minute in range(0, 150, 7)]


@pytest.mark.parametrize(
    "value", [1e308, -1, True, None, [], {}, "", "x", "0001-01-01", "9" * 30, "1969-12-31 23:59:59,999", "²" * 10]
)
def test_an_impossible_time_is_said_and_nothing_else_is_raised(value: object) -> None:
    with pytest.raises(Impossible, match=r"^time: "):
        Hours(ZoneInfo("UTC")).of(value)


# What is counted.


async def test_starts_of_workers_and_crons_are_counted_from_the_log(tmp_path: Path) -> None:
    collected = await read_lines(
        tmp_path,
        f"{PREFIX}INFO ? {SERVER}: Worker WorkerHTTP (1) alive",
        f"{PREFIX}INFO acme17 {SERVER}: Worker WorkerHTTP (2) alive",
        f"{PREFIX}INFO ? {SERVER}: Worker WorkerCron (3) alive",
        f"{PREFIX}INFO ? {SERVER}: Worker WorkerJobRunner (4) alive",
        f"{PREFIX}INFO ? {SERVER}: Evented Service (longpolling) running on 127.0.0.1:8072",
        f"{PREFIX}INFO acme {CRON}: Starting job `Mail`.",
        f"{PREFIX}INFO acme {CRON}: Manually starting job `Mail`.",
        f"{PREFIX}INFO acme {CRON}: Job 'Mail' (7) starting",
        f"{PREFIX}INFO acme {CRON}: Job 'Mail' (7) started manually",
        f"{PREFIX}INFO acme {CRON}: Job 'Mail' (7) done in 0.1s",
    )
    found = points(collected)
    starts = {name[-6:-2]: value for name, value in found.items() if name.startswith("odoo.log.worker.starts")}
    assert starts == {"http": 2, "cron": 1, '"job': 1, "vent": 1}
    assert found['odoo.log.cron.runs{odoo.cron.name="Mail",tenant.id="acme"}'] == 4


# Anything at all.

LOGS = [
    (GOLDEN / "odoo_log" / f"{version}.log").read_bytes().splitlines(keepends=True)
    for version in ("17.0", "18.0", "19.0")
]
TOKENS = [
    b"\0", b"\n", b"\r\n", b"\r", b"\x1b[31m", b"\xff", b"\xc3", b"\xef\xbb\xbf", b'"', b"'", b"{", b"}", b"[", b"9" * 5_000, b"1e308", b"-1",
    b"...", b"1.2.3", b" from ", b"login:", b"Traceback (most recent call last):\n", b"DETAIL:  ", b"bad query: ", b"\nERROR: ", b"null", b"nan",
    b"2300-01-01 00:00:00,000", b"0001-01-01 00:00:00,000", b" 77 INFO acme ", "\u2003\u0661\U0001f600\u202e".encode(), b"x" * 300, b"\\", b"%s",
]  # fmt: skip
FIELDS = [
    "asctime",
    "created",
    "pid",
    "levelname",
    "dbname",
    "name",
    "message",
    "exc_info",
    "perf_info",
    "time",
    "level",
]
VALUES = [None, True, -1, 0, 1.5, 1e308, 10**30, "", "x", "\x00", "2026-11-21 03:00:00,125", "9" * 5_000, [], ["a"], [1], {}, {"a": {"b": []}}]  # fmt: skip


def piece(drawn: random.Random) -> bytes:
    """Some lines of a recorded log, hurt; JSON lines with any value in any field among them."""
    lines = drawn.choice(LOGS)
    start = drawn.randrange(len(lines))
    data = bytearray(b"".join(lines[start : start + drawn.randint(1, 6)]))
    for _ in range(drawn.randint(0, 6)):
        at = drawn.randrange(len(data) + 1)
        match drawn.randrange(5):
            case 0:
                data[at:at] = drawn.choice(TOKENS)
            case 1:
                del data[at : at + drawn.randint(1, 40)]
            case 2:
                data[at : at + 1] = bytes([drawn.randrange(256)])
            case 3:
                other = drawn.randrange(len(data) + 1)
                data[at:at] = data[other : other + drawn.randint(1, 60)]
            case 4:
                changed = {drawn.choice(FIELDS): drawn.choice(VALUES) for _ in range(drawn.randint(1, 3))}
                data[at:at] = f"\n{json.dumps({**JSON, **changed})}\n".encode()
    return bytes(data)


def told_of(data: bytes, drawn: random.Random) -> Iterator[Entry | Unread]:
    """All that is told of the piece, by a reading that nothing stops; all of it is used."""
    resource = Resource(name="odoo-log", system="odoo_log")
    reading = Reading(Target(CELL, resource, ""), Memory(since_ms=NOW_MS), ship_all=True, mask=drawn.random() < 0.9)
    habit = Habit(Hours(BRUSSELS), drawn.choice(("", "plain", "json")))
    used = 0
    for told in split(data, habit, final=True, full=False):
        assert used <= told.used <= len(data)
        used = told.used
        if isinstance(told.what, Entry) and NOW_MS - 10**9 < told.what.time_ms < NOW_MS + 60_000:
            reading.fold(told.what)
        yield told.what
    assert max(used, habit.blank) == len(data)
    records = [*reading.records(), Target(CELL, resource, "").scrape(reading.points(), NOW_MS)]
    must_be_sound(Collected(records))
    assert not reading.refused


def survives(number: int, seed: int) -> None:
    drawn = random.Random(seed)
    for _ in range(number):
        data = piece(drawn)
        # A record that nothing can be held back for: what was hurt before it does not reach it.
        whole = data + b"\n" + f"{PREFIX}ERROR acme odoo.http: the end\n".encode() * 250
        told = list(told_of(whole if drawn.random() < 0.01 else data, drawn))
        shown = data.decode(errors="replace").replace("\ufeff", "")
        assert told or not any(one.isprintable() and not one.isspace() for one in shown), data
        if len(told) > 40:
            last = told[-1]
            assert isinstance(last, Entry), data
            assert last.message == "the end", data


def test_nothing_stops_the_reading() -> None:
    survives(5_000, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_nothing_stops_the_reading_of_very_many(seed: int) -> None:
    survives(25_000, seed=100 + seed)


async def test_a_mount_that_does_not_answer_holds_one_thread_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, opened, asked = threading.Event(), os.open, list[str]()

    def hanging(path: str, flags: int) -> int:
        asked.append(str(path))
        answers.wait()
        return opened(path, flags)

    path = tmp_path / "odoo.log"
    path.write_text(f"{BEFORE}\n")
    resource = Resource(name="odoo-log", system="odoo_log", url=path.as_uri(), timeout_s=3, interval_s=5)
    collector = OdooLog(Target(CELL, resource, path.as_uri()))
    monkeypatch.setattr(os, "open", hanging)
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"odoo\.log: .*kernel.*See which mount does not answer"):
            await collector.collect(NOW_MS, None)
    assert len(asked) == 1
    answers.set()
    async with asyncio.timeout(30):
        while collector._threads.hanging:  # noqa: ASYNC110 (the thread that answers is not the test's)
            await asyncio.sleep(0)
    assert bodies(await collector.collect(NOW_MS + 60_000, None)) == ["before"]
